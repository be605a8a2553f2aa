import { randomUUID } from "node:crypto";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { setTimeout } from "node:timers/promises";
import { statOf } from "../../process-stat";
import type { ClusterRef, WaitLimits } from "../driver";
import { ForeignOwner, Locked } from "../errors";
import { SharedLocks } from "../shared-locks";
import { AlreadyThere, ifThere, type Virsh } from "./virsh";
import { LOCK_PREFIX, type LockHolder, lockXml, parseNetwork } from "./xml";

const POLL_MS = 500;
const BEAT_SECONDS = 15;
/** A holder elsewhere that hasn't said for this long that it lives is gone. Its host may be slow or asleep. */
const SILENCE_SECONDS = 90;
const SAY_EVERY_SECONDS = 15;

/**
 * The lock of each cluster: a network definition `vc-lock-<cluster>` that is never started. libvirt refuses a second one
 * of the same name with another UUID, in one act. A holder that was killed leaves it behind: on the same host its
 * process id tells, from elsewhere its silence.
 */
export class Locks {
  private readonly shared = new SharedLocks();

  constructor(private readonly virsh: Virsh) {}

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    return this.shared.lock(cluster.name, () => this.take(cluster, limits));
  }

  private async take(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    const uuid = randomUUID();
    const started = Date.now();
    const elapsed = () => (Date.now() - started) / 1000;
    let seen: { readonly at: number; readonly holder: string } | undefined;
    let said = 0;
    while (!(await this.define(cluster, uuid, 0))) {
      const present = await this.present(cluster.name);
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
        // By its UUID: what somebody else has put in its place meanwhile stays.
        await ifThere(this.virsh.run(["net-undefine", present.uuid]));
        continue;
      }
      if (elapsed() > limits.seconds) {
        throw new Locked(
          `cluster ${cluster.name} is being changed by ${holder.who} (process ${holder.pid})`,
          `it has not finished within ${limits.seconds} s`,
          "Wait for its end, or end it there; then run the same command again",
        );
      }
      if (said === 0 || elapsed() - said > SAY_EVERY_SECONDS) {
        said = elapsed();
        limits.progress(`waiting for ${holder.who} (process ${holder.pid}), who is changing this cluster`);
      }
      await setTimeout(POLL_MS);
    }
    return this.hold(cluster, uuid, limits);
  }

  /** Says from time to time that this process lives. */
  private hold(cluster: ClusterRef, uuid: string, { progress }: WaitLimits): AsyncDisposable {
    let beat = 0;
    let beating: Promise<unknown> = Promise.resolve();
    const timer = setInterval(() => {
      beat += 1;
      // One that fails is followed by others before anybody takes this holder for gone.
      beating = this.define(cluster, uuid, beat).then(
        (isHeld) => isHeld || progress("another process has taken over the lock of this cluster: end this one"),
        () => undefined,
      );
    }, BEAT_SECONDS * 1000);
    timer.unref();
    return {
      [Symbol.asyncDispose]: async () => {
        clearInterval(timer);
        await beating;
        await ifThere(this.virsh.run(["net-undefine", uuid]));
      },
    };
  }

  /** @returns false where another holder's is there */
  private async define(cluster: ClusterRef, uuid: string, beat: number): Promise<boolean> {
    try {
      await this.virsh.runWithFile(["net-define"], lockXml(cluster.name, uuid, { ...self, mark: cluster.mark, beat }));
      return true;
    } catch (error) {
      if (error instanceof AlreadyThere) {
        return false;
      }
      throw error;
    }
  }

  private async present(cluster: string): Promise<{ uuid: string; holder: LockHolder } | undefined> {
    const name = `${LOCK_PREFIX}${cluster}`;
    const xml = await this.virsh.runIfThere(["net-dumpxml", "--inactive", name]);
    if (xml === undefined) {
      return undefined;
    }
    const { uuid, lock } = parseNetwork(xml);
    if (!lock) {
      throw new ForeignOwner(
        `network ${name}`,
        "exists and carries no mark of a virtual cluster",
        "Rename or remove it",
      );
    }
    return { uuid, holder: lock };
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
