import { readFileSync, readlinkSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { setTimeout } from "node:timers/promises";
import { statOf } from "../process-stat";
import type { ClusterRef, WaitLimits } from "./driver";
import { lockedBy, SharedLocks } from "./shared-locks";

const POLL_MS = 500;
const BEAT_SECONDS = 15;
/** A holder elsewhere that hasn't said for this long that it lives is gone. Its host may be slow or asleep. */
const SILENCE_SECONDS = 90;
const SAY_EVERY_SECONDS = 15;

/** Who holds the lock of a cluster. */
export interface LockHolder {
  readonly mark: ClusterRef["mark"];
  /** `user@host`, for people. */
  readonly who: string;
  /** Which boot of which host, so that a process id means something. */
  readonly boot: string;
  readonly pid: number;
  /** When the process started, so that its id isn't taken for another's. */
  readonly started: string;
  /** Goes up as long as the holder lives. */
  readonly beat: number;
}

/** Where a site keeps locks: something of which it allows only one of a name, made together with what it says. */
export interface LockStore {
  /** @returns undefined where another's is there */
  take(cluster: ClusterRef, holder: LockHolder): Promise<TakenLock | undefined>;
  /**
   * What is there, whoever's, and how to take just that away.
   * @throws ForeignOwner for what is no lock
   */
  present(cluster: string): Promise<{ readonly holder: LockHolder; remove(): Promise<void> } | undefined>;
}

export interface TakenLock {
  /** @returns false where another's is there meanwhile */
  beat(holder: LockHolder): Promise<boolean>;
  giveBack(): Promise<void>;
}

/**
 * The lock of each cluster, at a site that keeps it when its holder is killed: on the same host the holder's process id
 * tells, from elsewhere its silence.
 */
export class BeatLocks {
  private readonly shared = new SharedLocks();

  constructor(private readonly store: LockStore) {}

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    return this.shared.lock(cluster.name, () => this.take(cluster, limits));
  }

  private async take(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    const started = Date.now();
    const elapsed = () => (Date.now() - started) / 1000;
    let seen: { readonly at: number; readonly holder: string } | undefined;
    let said = 0;
    for (;;) {
      const taken = await this.store.take(cluster, { ...self, mark: cluster.mark, beat: 0 });
      if (taken) {
        return this.hold(cluster, taken, limits);
      }
      const present = await this.store.present(cluster.name);
      if (!present) {
        continue;
      }
      const { holder } = present;
      const now = JSON.stringify(holder);
      if (seen?.holder !== now) {
        seen = { at: elapsed(), holder: now };
      }
      const isSilent = holder.boot !== self.boot && elapsed() - seen.at > SILENCE_SECONDS;
      if (isGone(holder) || isSilent) {
        // What somebody else has put in its place meanwhile stays.
        await present.remove();
        continue;
      }
      if (elapsed() > limits.seconds) {
        throw lockedBy(`${holder.who} (process ${holder.pid})`, cluster.name, limits.seconds);
      }
      if (said === 0 || elapsed() - said > SAY_EVERY_SECONDS) {
        said = elapsed();
        limits.progress(`waiting for ${holder.who} (process ${holder.pid}), who is changing this cluster`);
      }
      await setTimeout(POLL_MS);
    }
  }

  /** Says from time to time that this process lives. */
  private hold(cluster: ClusterRef, taken: TakenLock, { progress }: WaitLimits): AsyncDisposable {
    let beat = 0;
    let beating: Promise<unknown> = Promise.resolve();
    const timer = setInterval(() => {
      beat += 1;
      // One that fails is followed by others before anybody takes this holder for gone.
      beating = taken.beat({ ...self, mark: cluster.mark, beat }).then(
        (isHeld) => isHeld || progress("another process has taken over the lock of this cluster: end this one"),
        () => undefined,
      );
    }, BEAT_SECONDS * 1000);
    timer.unref();
    return {
      [Symbol.asyncDispose]: async () => {
        clearInterval(timer);
        await beating;
        await taken.giveBack();
      },
    };
  }
}

const self = {
  who: `${userInfo().username}@${hostname()}`,
  boot: bootId(),
  pid: process.pid,
  started: livingSince(process.pid) ?? "",
} as const;

function isGone({ boot, pid, started }: LockHolder): boolean {
  return boot !== "" && boot === self.boot && livingSince(pid) !== started;
}

/** Within what a process id means something: another host, another boot of this one, a container have another. */
function bootId(): string {
  try {
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return "";
  }
}

/** When a process started, in ticks since boot; undefined for one that has ended, buried or not. */
function livingSince(pid: number): string | undefined {
  const stat = statOf(pid);
  return stat && !/^[ZX]$/.test(stat.state) ? stat.startTime : undefined;
}
