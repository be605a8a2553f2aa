import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { SiteFailure } from "../../drivers/errors";
import { inTemporaryFolder } from "../../temporary-folder";
import { ExtFileSystem, type GuestFileSystem, plainly, quoted } from "../root/file-system";
import { Guestfish } from "../root/guestfish";
import type { RootPlace } from "../root/root";
import { type Labels, labelsOf } from "../root/selinux";
import { type Disk, withExport } from "./export";
import { growPartition } from "./grow";

/** What debugfs says of old files that aren't there. */
const HARMLESS = /^rm: File not found by ext2_lookup/;

/** As little as this between a file system and its partition's end is alignment; bytes. */
const ALIGNMENT = 1024 * 1024;
/** For one program that works on a disk. */
const LIMIT_MS = 600_000;

type Environment = Readonly<Record<string, string>>;

/** What to change in a guest's root file system. Paths are absolute; what is there of that name is replaced. */
export type GuestChange = GuestFile | GuestLink | GuestRemoval;

/** A file to put there; owned by root. Folders on the way are made when they are missing. */
export interface GuestFile {
  readonly path: string;
  readonly content: string | Buffer;
  /** Permission bits, 0o600 for instance. */
  readonly mode: number;
}

/** A symbolic link to put there. */
export interface GuestLink {
  readonly path: string;
  readonly target: string;
}

export interface GuestRemoval {
  readonly path: string;
  readonly removed: true;
}

/** What to change, seeing what is there. */
export type GuestChanges = (root: GuestFileSystem) => Promise<readonly GuestChange[]>;

export interface Injection {
  readonly root: RootPlace;
  readonly changes: GuestChanges;
  /** Whether the file system may have been in use: its journal is brought in order first. */
  readonly recovers: boolean;
  /** Whether the disk has been made larger: its root partition and file system follow, if nothing lies behind them. */
  readonly grows: boolean;
  /** When what is written was written, as the disk says it; absent: now. */
  readonly dated?: Date;
}

interface Labelling {
  readonly isLabelled: RootPlace["isLabelled"] | undefined;
}

/** Changes the root file system of a disk that nobody uses now, without the host's kernel mounting it. */
export async function inject(disk: Disk, { root, grows, ...injection }: Injection): Promise<void> {
  const { offset, kind, isLabelled } = root;
  const size = grows ? await withExport(disk, { offset: 0 }, (raw) => growPartition(raw, offset)) : undefined;
  // Where the size is known the part can't be shortened: resize2fs cuts files to what it needs.
  await withExport(disk, { offset, size }, (part) =>
    kind === "ext"
      ? injectIntoExt(part, size, { ...injection, isLabelled })
      : injectIntoOther(part, kind, size, { ...injection, isLabelled }),
  );
}

// ── ext2, ext3 and ext4 ────────────────────────────────────────────────────────────────────────────────────────────

/**
 * debugfs writes into it, and follows a guest's symbolic links inside the guest only.
 * @param size of the part, bytes, where the file system is to fill it
 */
async function injectIntoExt(
  part: string,
  size: number | undefined,
  { changes, recovers, dated, isLabelled }: Omit<Injection, "root" | "grows"> & Labelling,
): Promise<void> {
  // How e2fsprogs are told what time it is.
  const env = dated ? { E2FSPROGS_FAKE_TIME: String(dated.getTime() / 1000) } : {};
  if (size !== undefined && size - (await extSize(part)) > ALIGNMENT) {
    await check(part, env, "-f");
    await grow(part, env);
  } else if (recovers) {
    // debugfs would write over what the journal brings back later.
    await check(part, env);
  }
  const root = new ExtFileSystem(part);
  await write(part, await changes(root), isLabelled ? await labelsOf(root) : undefined, env);
}

/** Bytes, as the superblock says (the kernel's documentation of ext4's layout). */
async function extSize(fileSystem: string): Promise<number> {
  const handle = await open(fileSystem, "r");
  try {
    const superblock = Buffer.alloc(1024);
    await handle.read(superblock, 0, superblock.length, 1024);
    const has64Bits = (superblock.readUInt32LE(0x60) & 0x80) !== 0;
    const blocks = superblock.readUInt32LE(4) + (has64Bits ? superblock.readUInt32LE(0x150) * 2 ** 32 : 0);
    return blocks * 2 ** (10 + superblock.readUInt32LE(0x18));
  } finally {
    await handle.close();
  }
}

async function check(fileSystem: string, env: Environment, ...options: readonly string[]): Promise<void> {
  const { exitCode = -1, stdout } = await execa("e2fsck", ["-p", ...options, fileSystem], {
    reject: false,
    timeout: LIMIT_MS,
    env,
  });
  // 1: errors were corrected.
  if (exitCode !== 0 && exitCode !== 1) {
    throw new SiteFailure(
      "bringing the file system of the node's disk in order",
      stdout.trim().split("\n").at(-1) ?? `e2fsck exited with ${exitCode}`,
      "Run e2fsck on it by hand",
    );
  }
}

async function grow(fileSystem: string, env: Environment): Promise<void> {
  const { failed, stderr } = await execa("resize2fs", [fileSystem], { reject: false, timeout: LIMIT_MS, env });
  if (failed) {
    const [, ...said] = stderr.trim().split("\n").filter(Boolean);
    throw new SiteFailure(
      "growing the file system of the node's disk",
      said.join(" ") || "resize2fs was ended",
      "Leave the disk's size out, or make the image's file system without what can't be grown",
    );
  }
}

async function write(
  root: string,
  changes: readonly GuestChange[],
  labels: Labels | undefined,
  env: Environment,
): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    const commands = await commandsFor(folder, changes, labels);
    // Folders are hardly ever missing, and to ask for them takes as long as the work itself.
    let complaints = await runDebugfs(root, folder, commands, env);
    if (complaints.length > 0) {
      const missing = await missingOf(foldersOf(changes), root, join(folder, "folders"));
      const makeFolders = missing.flatMap((path) => [
        `mkdir ${quoted(plainly(path))}`,
        ...labelling(path, labels?.(path, "folder")),
      ]);
      complaints = await runDebugfs(root, folder, [...makeFolders, ...commands], env);
    }
    if (complaints.length > 0) {
      throw new SiteFailure(
        "writing into the node's disk",
        complaints.join("; "),
        "The image's file system may be damaged: run e2fsck on it",
      );
    }
  });
}

/** debugfs exits with 0 whatever happens; only what it says on stderr, below its banner, tells. */
async function runDebugfs(
  root: string,
  folder: string,
  commands: readonly string[],
  env: Environment,
): Promise<string[]> {
  const script = join(folder, "debugfs");
  await writeFile(script, [...commands, ""].join("\n"));
  const { stderr } = await run("debugfs", ["-w", "-f", script, root], env);
  return stderr.split("\n").filter((line) => line && !/^debugfs \d/.test(line) && !HARMLESS.test(line));
}

/**
 * What debugfs has to do: old files are replaced, and owner and mode set, as debugfs takes both from the source file. Again
 * is harmless.
 */
async function commandsFor(
  folder: string,
  changes: readonly GuestChange[],
  labels: Labels | undefined,
): Promise<string[]> {
  const commands = await Promise.all(
    changes.map(async (change, index) => {
      const path = quoted(plainly(change.path));
      if ("removed" in change) {
        return [`rm ${path}`];
      }
      if ("target" in change) {
        const label = labels?.(change.path, "link");
        return [`rm ${path}`, `symlink ${path} ${quoted(change.target)}`, ...labelling(change.path, label)];
      }
      const source = join(folder, `file-${index}`);
      await writeFile(source, change.content, { mode: 0o600 });
      return [
        `rm ${path}`,
        `write ${quoted(source)} ${path}`,
        `set_inode_field ${path} mode 0${(0o100000 | change.mode).toString(8)}`,
        `set_inode_field ${path} uid 0`,
        `set_inode_field ${path} gid 0`,
        ...labelling(change.path, labels?.(change.path, "file")),
      ];
    }),
  );
  return commands.flat();
}

function labelling(path: string, label: string | undefined): string[] {
  return label === undefined ? [] : [`ea_set ${quoted(plainly(path))} security.selinux ${label}`];
}

/** Folders that must be there, those further up first. */
function foldersOf(changes: readonly GuestChange[]): string[] {
  return [...new Set(changes.flatMap((change) => ("removed" in change ? [] : ancestors(change.path))))];
}

/** debugfs's mkdir of a folder that is there leaves half a folder behind, so it is only told of those that aren't. */
async function missingOf(folders: readonly string[], root: string, script: string): Promise<string[]> {
  const commands = folders.map((path) => `stat ${quoted(`${path}/.`)}`);
  await writeFile(script, [...commands, ""].join("\n"));
  const { stdout } = await run("debugfs", ["-f", script, root]);
  // It repeats each command before its answer.
  const lines = stdout.split("\n");
  return folders.filter((_, index) => !lines[lines.indexOf(`debugfs: ${commands[index]}`) + 1]?.startsWith("Inode:"));
}

function ancestors(path: string): string[] {
  const parts = path.split("/").slice(1, -1);
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join("/")}`);
}

async function run(
  program: string,
  args: readonly string[],
  env: Environment = {},
): Promise<{ stdout: string; stderr: string }> {
  return execa(program, args, { timeout: LIMIT_MS, env });
}

// ── Other file systems ─────────────────────────────────────────────────────────────────────────────────────────────

async function injectIntoOther(
  part: string,
  kind: "xfs" | "btrfs",
  size: number | undefined,
  { changes, isLabelled }: Pick<Injection, "changes"> & Labelling,
): Promise<void> {
  // To mount it brings it in order.
  await using root = await Guestfish.open({ file: part, name: "/dev/sda", isReadOnly: false });
  if (size !== undefined) {
    await root.grow(kind);
  }
  const labels = isLabelled ? await labelsOf(root) : undefined;
  await inTemporaryFolder(async (folder) => {
    const source = join(folder, "file");
    for (const change of await changes(root)) {
      await root.remove(change.path);
      if ("removed" in change) {
        continue;
      }
      for (const ancestor of ancestors(change.path)) {
        if (await root.makeFolder(ancestor)) {
          await root.label(ancestor, labels?.(ancestor, "folder"));
        }
      }
      if ("target" in change) {
        await root.link(change.path, change.target);
        await root.label(change.path, labels?.(change.path, "link"));
      } else {
        await writeFile(source, change.content, { mode: 0o600 });
        await root.upload(source, change.path, change.mode);
        await root.label(change.path, labels?.(change.path, "file"));
      }
    }
  });
}
