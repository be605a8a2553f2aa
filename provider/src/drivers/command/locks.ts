import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { hostname, userInfo } from "node:os";
import { dirname } from "node:path";
import { holdLock } from "../../file-lock";
import type { ClusterRef, WaitLimits } from "../driver";
import { lockedBy, SharedLocks } from "../shared-locks";

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
      await writeHolder(file);
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
    await writeHolder(file);
    return lock;
  }
}

function writeHolder(file: string): Promise<void> {
  return writeFile(file, `${userInfo().username}@${hostname()} (process ${process.pid})\n`);
}
