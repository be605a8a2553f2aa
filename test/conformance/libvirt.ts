import { createHash } from "node:crypto";
import { access, chmod, mkdir, mkdtemp, open, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import type * as defaultSite from "../../provider/src/default-site/site";
import type { DiskImage } from "../../provider/src/drivers/driver";
import { LibvirtDriver, resolveLibvirtSettings } from "../../provider/src/drivers/libvirt";
import { bootSector, FIRST_PARTITION_OFFSET } from "../../provider/src/images/boot-loader";
import { digestOf, examineDisk } from "../../provider/src/images/disk";
import type { Backend } from "./backend";

const PROGRAMS = [
  ...["virsh", "libvirtd", "qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"],
  ...["debugfs", "mke2fs", "ssh-keygen", "ip", "tini"],
];
const DISK_BYTES = 16 * 1024 * 1024;
/** In the first cluster of a qcow2 file, behind its header and the name of its base: nobody else uses it. */
const SCRIBBLE_OFFSET = 60_000;
const SCRIBBLE = "scribbled";

/** A real libvirt: a default site of this test's own. Its guests are a boot sector that says a line and halts. */
export async function libvirtBackend(context: Mocha.Context): Promise<Backend> {
  context.timeout(120_000);
  await skipWithoutPrograms(context);
  const environment = { ...process.env };
  const home = await realpath(await mkdtemp("/tmp/vc-conformance-"));
  const temporary = join(home, "tmp");
  await mkdir(temporary);
  process.env.VIRTUAL_CLUSTER_HOME = home;
  process.env.TMPDIR = temporary;
  const site: typeof defaultSite = require("../../provider/dist/default-site/site");
  const uri = await site.startSite();
  const pool = join(sitePaths().root, "lib", "images");
  const [plain, modern, other] = await Promise.all([
    makeDisk(join(home, "plain.raw"), { virtio: false, heedsPowerButton: false }),
    makeDisk(join(home, "modern.raw"), { virtio: true, heedsPowerButton: true }),
    makeDisk(join(home, "other.raw"), { virtio: false, heedsPowerButton: false }),
  ]);
  const gate = await VirshGate.make(join(home, "bin"));
  process.env.PATH = `${gate.folder}:${process.env.PATH}`;

  const virsh = async (...args: string[]) => (await execa(gate.virsh, ["-q", "-c", uri, ...args])).stdout;
  const virshDefine = async (command: string, xml: string) => {
    const file = join(home, "definition.xml");
    await writeFile(file, xml);
    await virsh(command, file);
  };
  const definitions = async (folder: string) =>
    (await readdir(join(sitePaths().root, "etc", folder)).catch(() => []))
      .filter((file) => file.endsWith(".xml") && file !== "public.xml")
      .sort();
  const overlay = (cluster: string, node: string) => join(pool, `${cluster}-${node}.qcow2`);
  const settings = resolveLibvirtSettings({ driver: "libvirt", uri });
  let stranger: { readonly dump: string[]; readonly asMade: string; readonly undefine: string[] } | undefined;

  return {
    driver: new LibvirtDriver(settings),
    otherProcess: new LibvirtDriver(settings),
    unreachable: new LibvirtDriver({
      ...settings,
      uri: `qemu:///system?socket=${join(home, "nobody")}`,
    }),
    settings,
    image: { vcName: "modern", frontend: modern, compute: modern },
    otherImage: { vcName: "other", frontend: plain, compute: other },
    guestsAnswer: false,
    memory: 64,

    leftovers: async () => [
      ...(await definitions("qemu")).map((file) => `machine ${file}`),
      ...(await definitions("qemu/networks")).map((file) => `network ${file}`),
      ...(await readdir(pool)).sort().map((file) => `file ${file}`),
      ...(await readdir(temporary)).map((file) => `temporary ${file}`),
    ],
    holdsBase: async (digest) => {
      const file = join(pool, `vc-base-${digest}.raw`);
      const whole = await access(join(pool, `vc-base-${digest}.complete`)).then(
        () => true,
        () => false,
      );
      return (
        whole &&
        createHash("sha256")
          .update(await readFile(file))
          .digest("hex") === digest
      );
    },
    requests: () => gate.requests(),
    interruptAfter: (requests) => gate.interruptAfter(requests),

    turnOff: async (cluster, node) => {
      await virsh("destroy", `${cluster}-${node}`);
    },
    forgetMachine: async (cluster, node) => {
      await virsh("destroy", `${cluster}-${node}`);
      await virsh("undefine", `${cluster}-${node}`);
    },
    forgetNetwork: async (cluster) => {
      await virsh("net-destroy", cluster);
      await virsh("net-undefine", cluster);
    },
    scribble: async (cluster, node) => {
      const file = await open(overlay(cluster, node), "r+");
      await file.write(SCRIBBLE, SCRIBBLE_OFFSET);
      await file.close();
    },
    isScribbled: async (cluster, node) => {
      const file = await open(overlay(cluster, node), "r");
      const { buffer } = await file.read(Buffer.alloc(SCRIBBLE.length), 0, SCRIBBLE.length, SCRIBBLE_OFFSET);
      await file.close();
      return buffer.toString() === SCRIBBLE;
    },
    // None of these guests ever gets ready, and each says so.
    makeUnhealthy: async () => undefined,
    makeStrangerNetwork: async (name) => {
      await virshDefine("net-define", `<network><name>${name}</name><bridge name='stranger0'/></network>`);
      const dump = ["net-dumpxml", "--inactive", name];
      stranger = { dump, asMade: await virsh(...dump), undefine: ["net-undefine", name] };
    },
    makeStrangerMachine: async (cluster, node) => {
      const name = `${cluster}-${node}`;
      await virshDefine(
        "define",
        `<domain type='qemu'><name>${name}</name><memory>65536</memory><os><type>hvm</type></os></domain>`,
      );
      const dump = ["dumpxml", "--inactive", name];
      stranger = { dump, asMade: await virsh(...dump), undefine: ["undefine", name] };
    },
    removeStranger: async () => {
      const now = stranger && (await virsh(...stranger.dump).catch(() => undefined));
      const asMade = now !== undefined && now === stranger?.asMade;
      if (now !== undefined && stranger) {
        await virsh(...stranger.undefine);
      }
      return asMade;
    },

    tearDown: async () => {
      await site.removeSite({ force: true });
      process.env = environment;
      await rm(home, { recursive: true, force: true });
    },
  };
}

async function skipWithoutPrograms(context: Mocha.Context): Promise<void> {
  const path = `${process.env.PATH}:/usr/sbin:/sbin`;
  const found = await Promise.all(
    PROGRAMS.map((program) => execa("which", [program], { env: { PATH: path }, reject: false })),
  );
  const missing = PROGRAMS.filter((_, index) => found[index]?.failed);
  const root = process.getuid?.() === 0 || !(await execa("sudo", ["-n", "true"], { reject: false })).failed;
  if (missing.length > 0 || !root) {
    console.log(`    The libvirt driver isn't tested: ${root ? `no ${missing.join(", ")} here` : "no root here"}.`);
    context.skip();
  }
}

/** Counts the driver's virsh processes, and refuses them when they are used up. */
class VirshGate {
  private constructor(
    readonly folder: string,
    /** The real program. */
    readonly virsh: string,
  ) {}

  static async make(folder: string): Promise<VirshGate> {
    const virsh = (await execa("which", ["virsh"])).stdout;
    await mkdir(folder);
    await writeFile(join(folder, "calls"), "");
    const file = join(folder, "virsh");
    await writeFile(
      file,
      `#!/bin/sh
here=\${0%/*}
echo >>"$here/calls"
if [ -e "$here/allowed" ] && [ "$(wc -l <"$here/calls")" -gt "$(cat "$here/allowed")" ]; then
  echo "error: interrupted by the test" >&2
  exit 1
fi
exec ${virsh} "$@"
`,
    );
    await chmod(file, 0o755);
    return new VirshGate(folder, virsh);
  }

  async requests(): Promise<number> {
    return (await readFile(join(this.folder, "calls"))).length;
  }

  async interruptAfter(requests: number | undefined): Promise<void> {
    const file = join(this.folder, "allowed");
    if (requests === undefined) {
      await rm(file, { force: true });
    } else {
      await writeFile(file, `${(await this.requests()) + requests}`);
    }
  }
}

interface FakeGuest {
  /** Whether it looks as if it had drivers for virtio. */
  readonly virtio: boolean;
  readonly heedsPowerButton: boolean;
}

/** A disk that follows the standard as far as the host can see, and boots into a line on the serial port. */
async function makeDisk(file: string, { virtio, heedsPowerButton }: FakeGuest): Promise<DiskImage> {
  const handle = await open(file, "w");
  await handle.truncate(DISK_BYTES);
  await handle.write(bootSector(fakeBootLoader(heedsPowerButton), DISK_BYTES));
  await handle.close();
  const tree = `${file}.tree`;
  const modules = join(tree, "lib", "modules", "6.1.0-fake");
  await mkdir(join(tree, "root"), { recursive: true });
  await mkdir(modules, { recursive: true });
  const drivers = virtio ? "kernel/drivers/block/virtio_blk.ko\nkernel/drivers/net/virtio_net.ko\n" : "";
  await writeFile(join(modules, "modules.builtin"), drivers);
  await writeFile(join(modules, "modules.dep"), "");
  await writeFile(join(tree, "name"), file);
  const blocks = `${(DISK_BYTES - FIRST_PARTITION_OFFSET) / 1024}k`;
  await execa("mke2fs", ["-q", "-F", "-t", "ext4", "-d", tree, "-E", `offset=${FIRST_PARTITION_OFFSET}`, file, blocks]);
  await rm(tree, { recursive: true });
  return { ...(await examineDisk(file)), digest: await digestOf(file) };
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
