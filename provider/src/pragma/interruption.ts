import { statOf } from "../process-stat";

/** Whether somebody wants this process to end, and the signal by which the engine is told. */
export interface Interruption extends Disposable {
  readonly isAsked: boolean;
  readonly signal: AbortSignal;
}

/**
 * Passes Ctrl-C on to the engine once, which then finishes what is under way and begins nothing new. In the foreground of a
 * terminal the engine has got it already, and a second one would make it give up at once.
 */
export function listenForInterruption(): Interruption {
  const controller = new AbortController();
  let isAsked = false;
  const onSignal = (name: NodeJS.Signals) => {
    const own = statOf(process.pid);
    const reachesEngine = name === "SIGINT" && own !== undefined && own.group === own.foregroundGroup;
    isAsked = true;
    if (!reachesEngine) {
      controller.abort();
    }
  };
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of names) {
    process.on(name, onSignal);
  }
  return {
    signal: controller.signal,
    get isAsked() {
      return isAsked;
    },
    [Symbol.dispose]() {
      for (const name of names) {
        process.off(name, onSignal);
      }
    },
  };
}
