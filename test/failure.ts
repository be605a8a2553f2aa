/** What a piece of work fails with. @throws where it doesn't */
export async function failure<T extends Error>(work: Promise<unknown>): Promise<T> {
  return work.then(
    () => {
      throw new Error("it should have failed");
    },
    (error: T) => error,
  );
}
