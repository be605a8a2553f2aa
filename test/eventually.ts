import { setTimeout } from "node:timers/promises";

const BETWEEN_MS = 250;

/**
 * Repeats an assertion until it holds.
 * @param seconds after which it fails as the assertion does
 */
export async function eventually<T>(assertion: () => Promise<T> | T, seconds = 30): Promise<T> {
  for (const end = Date.now() + seconds * 1000; ; await setTimeout(BETWEEN_MS)) {
    try {
      return await assertion();
    } catch (error) {
      if (Date.now() > end) {
        throw error;
      }
    }
  }
}
