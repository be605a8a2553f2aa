import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { hostname, userInfo } from "node:os";
import { dirname } from "node:path";
import type { ClusterRef, WaitLimits } from "../driver";
import { SiteFailure } from "../errors";
import { lockedBy, SharedLocks } from "../shared-locks";

/** What flock(1) ends with when another has the lock for too long. */
const TAKEN = 75;

/**
 * The lock of each cluster: flock(2) on a file, held by a child that ends with this process, however that ends. The kernel
 * gives it to the next, on this host and over NFS.
 */
export class Locks {
  private readonly shared = new SharedLocks();

  /** @param fileOf where a cluster's lock lies */
  constructor(private readonly fileOf: (cluster: string) => string) {}

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    return this.shared.lock(cluster.name, () => this.take(cluster, limits));
  }

  private async take(cluster: ClusterRef, { seconds, progress }: WaitLimits): Promise<AsyncDisposable> {
    const file = this.fileOf(cluster.name);
    await mkdir(dirname(file), { recursive: true });
    await appendFile(file, "");
    const atOnce = await holdLock(file, 0);
    if (atOnce) {
      return atOnce;
    }
    const holder = (await readFile(file, "utf8")).trim() || "another process";
    if (seconds > 0) {
      progress(`waiting for ${holder}, who is changing this cluster`);
    }
    const lock = seconds > 0 ? await holdLock(file, seconds) : undefined;
    if (!lock) {
      throw lockedBy(holder, cluster.name, seconds);
    }
    return lock;
  }
}

/** @returns undefined where another still has it after that time */
async function holdLock(file: string, seconds: number): Promise<AsyncDisposable | undefined> {
  const options = ["--timeout", String(seconds), "--conflict-exit-code", String(TAKEN)];
  // Its input closes with this process; a group of its own, so that Ctrl-C doesn't take the lock from what is under way.
  const child = spawn("flock", [...options, file, "cat"], { detached: true, stdio: ["pipe", "pipe", "ignore"] });
  const ended = once(child, "exit");
  child.stdin.on("error", () => undefined);
  child.stdin.write("held\n");
  const held = once(child.stdout, "data").then(() => undefined);
  const exit = await Promise.race([held, ended]);
  if (exit) {
    const [code, signal] = exit as [number | null, NodeJS.Signals | null];
    if (code === TAKEN) {
      return undefined;
    }
    throw new SiteFailure(
      `the lock ${file}`,
      `flock ended with ${signal ?? code}`,
      "See whether its folder can be written",
    );
  }
  for (const handle of [child, child.stdin, child.stdout]) {
    (handle as { unref?: () => void }).unref?.();
  }
  await writeFile(file, `${userInfo().username}@${hostname()} (process ${process.pid})\n`);
  return {
    [Symbol.asyncDispose]: async () => {
      child.ref();
      child.stdin.end();
      await ended;
    },
  };
}
