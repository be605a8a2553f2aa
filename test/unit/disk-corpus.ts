import { mkdir, mkdtemp, open, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { execa } from "execa";

export const MIB = 1024 * 1024;
export const ROOT_UUID = "5eed5eed-0000-4000-8000-000000000001";
const DISK_BYTES = 24 * MIB;
const ROOT_OFFSET = MIB;
/** Behind it there is room for a GPT's backup. */
const ROOT_BYTES = 22 * MIB;
const KERNEL = "6.1.0-test";

export async function run(program: string, args: readonly string[], input?: string | Buffer): Promise<void> {
  const env = { PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  await execa(program, args, { env, ...(input !== undefined && { input }) });
}

export async function sparse(file: string, bytes: number): Promise<string> {
  await writeFile(file, "");
  await truncate(file, bytes);
  return file;
}

export async function patch(file: string, offset: number, bytes: Buffer): Promise<void> {
  const handle = await open(file, "r+");
  await handle.write(bytes, 0, bytes.length, offset);
  await handle.close();
}

export function u32(number: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number);
  return bytes;
}

/** Content by path; `→ target` is a symbolic link, undefined takes a file out of the good tree. */
export type Tree = Readonly<Record<string, string | Buffer | undefined>>;

export interface DiskOptions {
  /** What differs from the good tree. */
  readonly files?: Tree;
  readonly table?: "mbr" | "gpt";
}

/** A disk that follows every rule, but for what is asked otherwise. It doesn't start: its kernel is no kernel. */
export async function makeDisk(file: string, { files = {}, table = "mbr" }: DiskOptions = {}): Promise<string> {
  const workspace = await mkdtemp(join(tmpdir(), "tree-"));
  try {
    await writeTree(workspace, { ...(await goodTree()), ...files });
    await sparse(file, DISK_BYTES);
    await partition(file, [
      `label: ${table === "mbr" ? "dos" : "gpt"}`,
      `start=2048, size=${ROOT_BYTES / 512}, type=linux`,
    ]);
    await patch(file, 0, Buffer.alloc(440, 0x90));
    await run("mke2fs", [
      ...["-q", "-F", "-t", "ext4", "-U", ROOT_UUID, "-L", "vc-root", "-d", workspace],
      ...["-E", `offset=${ROOT_OFFSET}`, file, `${ROOT_BYTES / 1024}k`],
    ]);
    return file;
  } finally {
    await rm(workspace, { recursive: true });
  }
}

/** The same with a btrfs root. */
export async function makeBtrfsDisk(file: string): Promise<string> {
  const workspace = await mkdtemp(join(tmpdir(), "tree-"));
  const system = `${file}.btrfs`;
  try {
    await writeTree(workspace, await goodTree());
    await sparse(system, 128 * MIB);
    await run("mkfs.btrfs", ["-q", "-U", ROOT_UUID, "--rootdir", workspace, system]);
    await sparse(file, 129 * MIB);
    await partition(file, ["label: dos", "start=2048, type=83"]);
    await patch(file, 0, Buffer.alloc(440, 0x90));
    await run("dd", [`if=${system}`, `of=${file}`, "bs=1M", "seek=1", "conv=sparse,notrunc", "status=none"]);
    return file;
  } finally {
    await rm(workspace, { recursive: true });
    await rm(system, { force: true });
  }
}

export function partition(file: string, script: readonly string[]): Promise<void> {
  return run("sfdisk", ["--quiet", "--no-reread", file], `${script.join("\n")}\n`);
}

async function writeTree(folder: string, tree: Tree): Promise<void> {
  for (const [path, content] of Object.entries(tree)) {
    if (content === undefined) {
      continue;
    }
    const file = join(folder, path);
    await mkdir(dirname(file), { recursive: true });
    const link = typeof content === "string" ? /^→ (.*)$/.exec(content)?.[1] : undefined;
    await (link === undefined ? writeFile(file, content) : symlink(link, file));
  }
}

let good: Tree | undefined;

async function goodTree(): Promise<Tree> {
  good ??= {
    "sbin/init": "→ ../lib/systemd/systemd",
    "lib/systemd/systemd": elf(62),
    "etc/fstab": `UUID=${ROOT_UUID} / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0\n`,
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "boot/grub/grub.cfg": `menuentry 'x' {\n  linux /boot/vmlinuz-${KERNEL} root=UUID=${ROOT_UUID} console=ttyS0\n  initrd /boot/initrd.img-${KERNEL}\n}\n`,
    [`boot/vmlinuz-${KERNEL}`]: "kernel",
    [`boot/initrd.img-${KERNEL}`]: await initramfs({ modules: ["block/virtio_blk.ko"] }),
    [`lib/modules/${KERNEL}/modules.builtin`]: "kernel/fs/ext4/ext4.ko\n",
    [`lib/modules/${KERNEL}/modules.dep`]: "kernel/drivers/block/virtio_blk.ko:\nkernel/drivers/net/virtio_net.ko:\n",
    "usr/sbin/vc-guest": "#!/bin/sh\n",
    "root/.profile": "",
  };
  return good;
}

/** The first bytes of a program. */
export function elf(machine: number): Buffer {
  const header = Buffer.alloc(64);
  header.write("\x7fELF\x02\x01\x01", 0, "latin1");
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(machine, 18);
  return header;
}

export interface InitramfsOptions {
  /** Below the kernel's `kernel/drivers`. */
  readonly modules: readonly string[];
  /** Whether an archive with microcode comes before it, as on a physical machine. */
  readonly microcode?: boolean;
  /** A program that compresses, with its arguments. */
  readonly compress?: readonly [program: string, ...args: string[]];
}

export async function initramfs({ modules, microcode = false, compress }: InitramfsOptions): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), "initramfs-"));
  try {
    const paths = modules.map((module) => `usr/lib/modules/${KERNEL}/kernel/drivers/${module}`);
    const archive = await cpio(folder, ["init", "usr/bin/busybox", ...paths]);
    const packed = compress ? await piped(compress, archive) : archive;
    const early = microcode ? [await cpio(folder, ["kernel/x86/microcode/GenuineIntel.bin"]), Buffer.alloc(512)] : [];
    return Buffer.concat([...early, packed]);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function cpio(folder: string, paths: readonly string[]): Promise<Buffer> {
  for (const path of paths) {
    await mkdir(join(folder, dirname(path)), { recursive: true });
    await writeFile(join(folder, path), Buffer.alloc(1013, 7));
  }
  const { stdout } = await execa("busybox", ["cpio", "-o", "-H", "newc"], {
    cwd: folder,
    input: `${paths.join("\n")}\n`,
    encoding: "buffer",
    stripFinalNewline: false,
  });
  return Buffer.from(stdout);
}

async function piped([program, ...args]: readonly [string, ...string[]], input: Buffer): Promise<Buffer> {
  const { stdout } = await execa(program, args, { input, encoding: "buffer", stripFinalNewline: false });
  return Buffer.from(stdout);
}
