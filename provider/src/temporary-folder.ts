import { lstat, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

let cleared: Promise<void> | undefined;

/** Hands `use` a folder that only this user can open, and removes it with all that is in it. */
export async function inTemporaryFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await makeTemporaryFolder();
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A folder that only this user can open; who makes it removes it, or the next process when this one is killed. */
export async function makeTemporaryFolder(): Promise<string> {
  cleared ??= removeAbandoned();
  await cleared;
  return mkdtemp(join(tmpdir(), `virtual-cluster-${process.pid}-`));
}

/** What this user's processes that were killed have left, a cluster's private keys perhaps. */
async function removeAbandoned(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const [, pid] = /^virtual-cluster-(\d+)-/.exec(name) ?? [];
    const folder = join(tmpdir(), name);
    if (pid !== undefined && !isAlive(Number(pid)) && (await isOurs(folder))) {
      // Others clear at the same time; what can't be removed now waits for the next.
      await rm(folder, { recursive: true, force: true }).catch(() => undefined);
    }
  }
}

async function isOurs(folder: string): Promise<boolean> {
  return (await lstat(folder).catch(() => undefined))?.uid === process.getuid?.();
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
