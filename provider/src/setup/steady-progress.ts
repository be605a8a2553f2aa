import type { Progress } from "./setup-error";

/**
 * Turns many lines into a few: passes on the first of every `intervalMs` milliseconds, so that long work shows that it
 * goes on without filling the screen.
 */
export function steadyProgress(progress: Progress, intervalMs = 5_000): Progress {
  let last = 0;
  return (line) => {
    if (Date.now() - last >= intervalMs) {
      last = Date.now();
      progress(line);
    }
  };
}
