import { open, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { execa } from "execa";
import { SiteFailure } from "../drivers/errors";
import { inTemporaryFolder } from "../temporary-folder";
import { ExtFileSystem, type GuestFileSystem, plainly, quoted } from "./file-system";

const READY_LIMIT_MS = 30_000;
const POLL_MS = 3;

/** What debugfs says of folders that are there and old files that aren't. */
const HARMLESS = /already exists|File not found by ext2_lookup/;

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

export interface Overlay {
  /** The RAW base as a file on this machine, to read the guest's file system from. */
  readonly base: string;
  /** Where the base lies at the site: what the overlay's header says. */
  readonly baseAtSite: string;
  /** Bytes. */
  readonly size: number;
  readonly rootOffset: number;
  readonly changes: GuestChanges;
}

/**
 * Makes a qcow2 overlay of a RAW base with changes in its ext2/3/4 root, hands its path to `use`, and removes it.
 * Nothing is mounted and no format is probed: a storage daemon shows the overlay as a RAW file through FUSE, and
 * debugfs writes into that. debugfs follows a guest's symbolic links inside the guest only.
 */
export async function withOverlay<T>(overlay: Overlay, use: (file: string, bytes: number) => Promise<T>): Promise<T> {
  return inTemporaryFolder(async (folder) => {
    const file = join(folder, "overlay.qcow2");
    await run("qemu-img", [
      ...["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", overlay.baseAtSite, file],
      String(overlay.size),
    ]);
    await inject(folder, { ...overlay, file }, await needsRecovery(overlay.base, overlay.rootOffset));
    return use(file, (await stat(file)).size);
  });
}

/** An overlay that is there, as a file on this machine. */
export type PresentOverlay = Pick<Overlay, "base" | "rootOffset" | "changes"> & { readonly file: string };

/**
 * Changes the root file system of an overlay that nobody uses now. What its journal holds, after a machine lost
 * its power, is brought in order first.
 */
export async function injectInto(overlay: PresentOverlay): Promise<void> {
  await refuseDataFile(overlay.file);
  await inTemporaryFolder((folder) => inject(folder, overlay, true));
}

async function inject(folder: string, { file, ...overlay }: PresentOverlay, recover: boolean): Promise<void> {
  const raw = join(folder, "raw");
  const pidFile = join(folder, "pid");
  await writeFile(raw, "");
  // It ends with this process, however that ends: nobody else would take its mount away.
  const daemon = execa("setpriv", [
    ...["--pdeathsig", "TERM", "qemu-storage-daemon"],
    ...[
      "--blockdev",
      json({ driver: "file", "node-name": "base-file", filename: overlay.base, "read-only": true, locking: "off" }),
    ],
    ...["--blockdev", json({ driver: "raw", "node-name": "base", file: "base-file", "read-only": true })],
    ...["--blockdev", json({ driver: "file", "node-name": "overlay-file", filename: file })],
    ...["--blockdev", json({ driver: "qcow2", "node-name": "overlay", file: "overlay-file", backing: "base" })],
    // The file system alone: with an offset of their own, e2fsprogs lose it when they open a file again after a recovery.
    ...["--blockdev", json({ driver: "raw", "node-name": "root", file: "overlay", offset: overlay.rootOffset })],
    ...["--export", json({ type: "fuse", id: "export", "node-name": "root", mountpoint: raw, writable: true })],
    ...["--pidfile", pidFile],
  ]);
  const ended = daemon.catch((error: Error) => error);
  try {
    await Promise.race([ready(pidFile), ended.then(refuseEarlyEnd)]);
    if (recover) {
      await replayJournal(raw);
    }
    const script = await debugfsScript(folder, await overlay.changes(new ExtFileSystem(raw)));
    // debugfs exits with 0 whatever happens; only what it says on stderr, below its banner, tells.
    const { stderr } = await run("debugfs", ["-w", "-f", script, raw]);
    const complaints = stderr.split("\n").filter((line) => line && !/^debugfs \d/.test(line) && !HARMLESS.test(line));
    if (complaints.length > 0) {
      throw new SiteFailure(
        "writing into the node's disk",
        complaints.join("; "),
        "The image's file system may be damaged: run e2fsck on it",
      );
    }
  } finally {
    // Not daemonized, so that its end is seen here and not left to whoever reaps orphans.
    daemon.kill("SIGTERM");
    await ended;
  }
}

/** Whether an ext2/3/4 file system was in use when its disk was copied: its superblock's incompatible feature RECOVER. */
async function needsRecovery(disk: string, rootOffset: number): Promise<boolean> {
  const handle = await open(disk, "r");
  try {
    const features = Buffer.alloc(4);
    await handle.read(features, 0, 4, rootOffset + 1024 + 0x60);
    return (features.readUInt32LE(0) & 0x4) !== 0;
  } finally {
    await handle.close();
  }
}

/** A qcow2 header may name another file for its data: incompatible feature 2 (the format's own specification). */
async function refuseDataFile(file: string): Promise<void> {
  const handle = await open(file, "r");
  try {
    const features = Buffer.alloc(8);
    await handle.read(features, 0, 8, 72);
    if ((features.readBigUInt64BE(0) & 4n) !== 0n) {
      throw new SiteFailure("opening the node's disk", "it keeps its data in another file", "Copy it into one file");
    }
  } finally {
    await handle.close();
  }
}

/** debugfs would write over what the journal brings back later. */
async function replayJournal(fileSystem: string): Promise<void> {
  const { exitCode = -1, stdout } = await execa("e2fsck", ["-p", fileSystem], { reject: false, timeout: 600_000 });
  // 1: errors were corrected.
  if (exitCode !== 0 && exitCode !== 1) {
    throw new SiteFailure(
      "bringing the file system of the node's disk in order",
      stdout.trim().split("\n").at(-1) ?? `e2fsck exited with ${exitCode}`,
      "Run e2fsck on it by hand",
    );
  }
}

/** The daemon writes its pid when everything is exported. */
async function ready(pidFile: string): Promise<void> {
  for (let waited = 0; waited < READY_LIMIT_MS; waited += POLL_MS) {
    const written = await stat(pidFile).catch(() => undefined);
    if (written?.size) {
      return;
    }
    await setTimeout(POLL_MS);
  }
  throw new SiteFailure("opening the node's disk", `qemu-storage-daemon wasn't ready after ${READY_LIMIT_MS / 1000} s`);
}

function refuseEarlyEnd(outcome: unknown): never {
  const detail = outcome instanceof Error ? outcome.message : "qemu-storage-daemon ended";
  throw new SiteFailure("opening the node's disk", detail, "It needs /dev/fuse");
}

/**
 * Writes down what debugfs has to do: missing folders are made, old files replaced, and owner and mode set, as debugfs takes
 * both from the source file.
 * @returns the script's path
 */
async function debugfsScript(folder: string, changes: readonly GuestChange[]): Promise<string> {
  const folders = new Set(changes.flatMap((change) => ("removed" in change ? [] : ancestors(change.path))));
  const commands = await Promise.all(
    changes.map(async (change, index) => {
      const path = quoted(plainly(change.path));
      if ("removed" in change) {
        return [`rm ${path}`];
      }
      if ("target" in change) {
        return [`rm ${path}`, `symlink ${path} ${quoted(change.target)}`];
      }
      const source = join(folder, `file-${index}`);
      await writeFile(source, change.content, { mode: 0o600 });
      return [
        `rm ${path}`,
        `write ${quoted(source)} ${path}`,
        `set_inode_field ${path} mode 0${(0o100000 | change.mode).toString(8)}`,
        `set_inode_field ${path} uid 0`,
        `set_inode_field ${path} gid 0`,
      ];
    }),
  );
  const script = join(folder, "debugfs");
  const makeFolders = [...folders].map((path) => `mkdir ${quoted(plainly(path))}`);
  await writeFile(script, [...makeFolders, ...commands.flat(), ""].join("\n"));
  return script;
}

function ancestors(path: string): string[] {
  const parts = path.split("/").slice(1, -1);
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join("/")}`);
}

function json(options: Record<string, string | number | boolean>): string {
  return JSON.stringify(options);
}

async function run(program: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  return execa(program, args, { timeout: 120_000 });
}
