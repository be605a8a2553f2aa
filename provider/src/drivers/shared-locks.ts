import { Locked } from "./errors";

/** Another has the lock of a cluster for longer than was waited. */
export function lockedBy(who: string, cluster: string, seconds: number): Locked {
  return new Locked(
    `cluster ${cluster} is being changed by ${who}`,
    `it has not finished within ${seconds} s`,
    "Wait for its end, or end it there; then run the same command again",
  );
}

/**
 * The part of a lock that is the same at every site: within one process all operations on a cluster share it. The first
 * takes it from the site, the last gives it back.
 */
export class SharedLocks {
  private readonly held = new Map<string, { users: number; readonly taken: Promise<AsyncDisposable> }>();
  private readonly onTheirWayBack = new Map<string, Promise<void>>();

  /** @param take takes the lock from the site; disposing of what it returns gives it back */
  async lock(name: string, take: () => Promise<AsyncDisposable>): Promise<AsyncDisposable> {
    const lock = this.held.get(name) ?? {
      users: 0,
      taken: (this.onTheirWayBack.get(name) ?? Promise.resolve()).then(take),
    };
    this.held.set(name, lock);
    lock.users += 1;
    try {
      await lock.taken;
    } catch (error) {
      if (this.held.get(name) === lock) {
        this.held.delete(name);
      }
      throw error;
    }
    return {
      [Symbol.asyncDispose]: async () => {
        lock.users -= 1;
        if (lock.users === 0) {
          this.held.delete(name);
          await this.giveBack(name, await lock.taken);
        }
      },
    };
  }

  private async giveBack(name: string, taken: AsyncDisposable): Promise<void> {
    // Who comes now takes it anew, after this. A failure is that of the operation which ends here.
    const given = Promise.resolve(taken[Symbol.asyncDispose]());
    const settled = given.catch(() => undefined).then(() => void this.onTheirWayBack.delete(name));
    this.onTheirWayBack.set(name, settled);
    await given;
  }
}
