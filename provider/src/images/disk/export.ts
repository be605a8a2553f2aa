import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { execa } from "execa";
import { SiteFailure } from "../../drivers/errors";
import { inTemporaryFolder } from "../../temporary-folder";

const READY_LIMIT_MS = 30_000;
const POLL_MS = 3;

/** A disk that nobody uses now, as a file on this machine. */
export interface Disk {
  readonly file: string;
  /** The RAW disk below it, where the file is a qcow2 overlay; else the file is RAW itself. */
  readonly base?: string;
}

/** A part of a disk, in bytes. */
export interface Part {
  readonly offset: number;
  /** Default: up to the disk's end. */
  readonly size?: number | undefined;
}

/**
 * Hands `use` a RAW file that shows a part of a disk, to be read and written. Nothing is mounted and no format is probed: a
 * storage daemon shows it through FUSE.
 */
export async function withExport<T>(disk: Disk, { offset, size }: Part, use: (raw: string) => Promise<T>): Promise<T> {
  return inTemporaryFolder(async (folder) => {
    const raw = join(folder, "raw");
    const pidFile = join(folder, "pid");
    await writeFile(raw, "");
    // It ends with this process, however that ends: nobody else would take its mount away.
    const daemon = execa("setpriv", [
      ...["--pdeathsig", "TERM", "qemu-storage-daemon"],
      ...nodesOf(disk).flatMap((node) => ["--blockdev", JSON.stringify(node)]),
      // With an offset of their own, e2fsprogs lose it when they open a file again after a recovery.
      ...["--blockdev", JSON.stringify({ driver: "raw", "node-name": "part", file: "disk", offset, size })],
      ...[
        "--export",
        JSON.stringify({ type: "fuse", id: "export", "node-name": "part", mountpoint: raw, writable: true }),
      ],
      ...["--pidfile", pidFile],
    ]);
    const ended = daemon.catch((error: Error) => error);
    try {
      await Promise.race([ready(pidFile), ended.then(refuseEarlyEnd)]);
      return await use(raw);
    } finally {
      // Not daemonized, so that its end is seen here and not left to whoever reaps orphans.
      daemon.kill("SIGTERM");
      await ended;
    }
  });
}

/** QEMU's block nodes (its manual, `--blockdev`) for a disk; the last is `disk`. */
function nodesOf({ file, base }: Disk): ReadonlyArray<Readonly<Record<string, string | boolean>>> {
  if (base === undefined) {
    return [{ driver: "file", "node-name": "disk", filename: file }];
  }
  return [
    { driver: "file", "node-name": "base-file", filename: base, "read-only": true, locking: "off" },
    { driver: "raw", "node-name": "base", file: "base-file", "read-only": true },
    { driver: "file", "node-name": "overlay", filename: file },
    { driver: "qcow2", "node-name": "disk", file: "overlay", backing: "base" },
  ];
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
