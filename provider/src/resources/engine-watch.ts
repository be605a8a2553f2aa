import { statOf } from "../process-stat";

const CHECK_EVERY_MS = 2000;

let watching = false;

/**
 * Ends this process when the engine that started it is gone. The host notices nothing by itself: after a `kill -9` of
 * the engine it would go on making machines that no state knows of, and each line that it can't print any more would
 * be an error that it tries to print.
 */
export function stopWithEngine(): void {
  const child = childOfEngine();
  const engine = parentOf(child);
  if (watching || engine === undefined) {
    return;
  }
  watching = true;
  // An orphan has another parent at once, while the engine's own pid may live on as a zombie.
  setInterval(() => {
    if (parentOf(child) !== engine) {
      process.exit(1);
    }
  }, CHECK_EVERY_MS).unref();
}

/** This process, or the script `pulumi-resource-pulumi-nodejs` between it and the engine (names are cut at 15 characters). */
function childOfEngine(): number {
  const parent = process.ppid;
  return /^(sh|dash|bash|busybox|pulumi-resource)$/.test(statOf(parent)?.command ?? "") ? parent : process.pid;
}

function parentOf(pid: number): number | undefined {
  return statOf(pid)?.parent;
}
