/**
 * Undoes what an operation did when it doesn't get to its end.
 *
 *     await using reverter = new Reverter();
 *     await makeThing();
 *     reverter.add(() => removeThing());
 *     …
 *     reverter.succeed();
 */
export class Reverter implements AsyncDisposable {
  private readonly undo: Array<() => Promise<unknown>> = [];

  add(undo: () => Promise<unknown>): void {
    this.undo.push(undo);
  }

  succeed(): void {
    this.undo.length = 0;
  }

  /** Last done, first undone. One that fails doesn't keep the others from running: the error that led here matters more. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const undo of this.undo.reverse()) {
      await undo().catch(() => undefined);
    }
  }
}

/** Like `Promise.all`, but fails only when all have ended, so that none goes on while what it did is undone. */
export async function allDone<Work extends readonly Promise<unknown>[]>(
  ...work: Work
): Promise<{ -readonly [Index in keyof Work]: Awaited<Work[Index]> }> {
  await Promise.allSettled(work);
  return Promise.all(work) as Promise<{ -readonly [Index in keyof Work]: Awaited<Work[Index]> }>;
}
