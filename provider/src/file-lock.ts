import { spawn } from "node:child_process";
import { once } from "node:events";
import { SiteFailure } from "./drivers/errors";

/** What flock(1) ends with when another has the lock for too long. */
const TAKEN = 75;

/** Any number hold a shared one at a time, while nobody holds it alone. */
export type LockKind = "exclusive" | "shared";

/**
 * Takes flock(2) on a file or folder, held by a child that ends with this process, however that ends. The kernel gives it
 * to the next, on this host and over NFS.
 * @param seconds how long others may have it meanwhile
 * @returns undefined where another still has it after that time
 * @throws SiteFailure
 */
export async function holdLock(
  file: string,
  seconds: number,
  kind: LockKind = "exclusive",
): Promise<AsyncDisposable | undefined> {
  const options = [`--${kind}`, "--timeout", String(seconds), "--conflict-exit-code", String(TAKEN)];
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
  return {
    [Symbol.asyncDispose]: async () => {
      child.ref();
      child.stdin.end();
      await ended;
    },
  };
}
