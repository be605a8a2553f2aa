import { setTimeout } from "node:timers/promises";
import { WrongState } from "./refusals";

const FIRST_PAUSE_MS = 15;
const LONGEST_PAUSE_MS = 1000;

/**
 * Looks again and again, soon at first, until there is an answer.
 * @returns undefined when the time is up
 */
export async function eventually<T>(look: () => Promise<T | undefined>, seconds: number): Promise<T | undefined> {
  const end = Date.now() + seconds * 1000;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    const found = await look();
    if (found !== undefined || Date.now() >= end) {
      return found;
    }
    await setTimeout(pause);
  }
}

/** Does what an object's state doesn't allow yet: something still uses it, or it is on its way somewhere. */
export async function whenAllowed(work: () => Promise<unknown>, seconds: number): Promise<void> {
  const end = Date.now() + seconds * 1000;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    try {
      await work();
      return;
    } catch (error) {
      if (!(error instanceof WrongState) || Date.now() >= end) {
        throw error;
      }
    }
    await setTimeout(pause);
  }
}
