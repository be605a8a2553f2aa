import { mkdir, open, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { bootSector, FIRST_PARTITION_OFFSET } from "../../provider/src/images/disk/boot-loader";

const DISK_BYTES = 16 * 1024 * 1024;

export interface FakeGuest {
  /** Whether it looks as if it had drivers for virtio. */
  readonly virtio: boolean;
  readonly heedsPowerButton: boolean;
  /** Further files of its root, by path; default: a program that reads vc-out.xml. */
  readonly files?: Readonly<Record<string, string>>;
}

const READER = { "usr/sbin/vc-guest": "#!/bin/sh\n", "etc/vc/hooks.d/none": "" };

/** A disk that follows the standard as far as the host can see, and boots into a line on the serial port. */
export async function makeFakeDisk(
  file: string,
  { virtio, heedsPowerButton, files = READER }: FakeGuest,
): Promise<void> {
  const handle = await open(file, "w");
  await handle.truncate(DISK_BYTES);
  await handle.write(bootSector(DISK_BYTES, fakeBootLoader(heedsPowerButton)));
  await handle.close();
  const tree = `${file}.tree`;
  const modules = join(tree, "lib", "modules", "6.1.0-fake");
  await mkdir(join(tree, "root"), { recursive: true });
  await mkdir(modules, { recursive: true });
  const drivers = virtio ? "kernel/drivers/block/virtio_blk.ko\nkernel/drivers/net/virtio_net.ko\n" : "";
  await writeFile(join(modules, "modules.builtin"), drivers);
  await writeFile(join(modules, "modules.dep"), "");
  await writeFile(join(tree, "name"), file);
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(tree, dirname(path)), { recursive: true });
    await writeFile(join(tree, path), content);
  }
  const blocks = `${(DISK_BYTES - FIRST_PARTITION_OFFSET) / 1024}k`;
  await execa("mke2fs", ["-q", "-F", "-t", "ext4", "-d", tree, "-E", `offset=${FIRST_PARTITION_OFFSET}`, file, blocks]);
  await rm(tree, { recursive: true });
}

/** 16-bit code: writes a line to the first serial port, then sleeps; looks for the power button at each tick of the timer. */
function fakeBootLoader(heedsPowerButton: boolean): Buffer {
  const sayLine = [
    ...[0x31, 0xc0], // xor ax, ax
    ...[0x8e, 0xd8], // mov ds, ax
    ...[0xbe, 0x00, 0x7d], // mov si, line
    ...[0xba, 0xf8, 0x03], // mov dx, 0x3f8 (COM1)
    0xfc, // cld
    0xac, // next: lodsb
    ...[0x84, 0xc0], // test al, al
    ...[0x74, 0x03], // jz done
    0xee, // out dx, al
    ...[0xeb, 0xf8], // jmp next
  ];
  const sleep = [0xfa, 0xf4, 0xeb, 0xfd]; // cli; again: hlt; jmp again
  // The registers are ACPI's PM1a block, where SeaBIOS puts it on QEMU's machine "pc".
  const sleepUntilPowerButton = [
    ...[0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef], // mov dx, 0x602 (enable); mov ax, 0x100 (power button); out dx, ax
    0xfb, // sti
    0xf4, // again: hlt
    ...[0xba, 0x00, 0x06, 0xed], // mov dx, 0x600 (status); in ax, dx
    ...[0xf6, 0xc4, 0x01], // test ah, 1 (power button)
    ...[0x74, 0xf6], // jz again
    ...[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef], // mov dx, 0x604 (control); mov ax, 0x2000 (soft off); out dx, ax
  ];
  const sector = Buffer.alloc(440);
  Buffer.from([...sayLine, ...(heedsPowerButton ? sleepUntilPowerButton : []), ...sleep]).copy(sector);
  sector.write("\x1b[31mno root file system\x1b[0m\r\n\x07\0", 0x100, "latin1");
  return sector;
}
