import { setTimeout } from "node:timers/promises";
import type { Channel, ClusterRecord, WaitLimits } from "../driver";
import { NotReady } from "../errors";
import type { GuestSsh } from "../guest-ssh";
import type { GuestSays } from "../guest-status";

const POLL_MS = 3000;
const PROGRESS_EVERY_SECONDS = 15;
const HINT =
  "See whether its address can be reached from here (site.sshConfig may name a way); `pulumi up` tries this node again";

/** A Rocks site has no guest agent and no console of ours: guests are asked over ssh, computes through their frontend. */
export class Guests {
  constructor(private readonly ssh: GuestSsh) {}

  /**
   * Waits until a guest is configured from the vc-out.xml of this digest. One that lets us in is asked; of the others an
   * answer of its sshd must do, which it gives only at the address that the file says.
   * @param isThere throws NotReady for a machine that has stopped
   */
  async waitReady(
    node: string,
    cluster: ClusterRecord,
    digest: string,
    limits: WaitLimits,
    isThere: () => Promise<void>,
  ): Promise<void> {
    const started = Date.now();
    const elapsed = () => (Date.now() - started) / 1000;
    let said = 0;
    let last = "its sshd hasn't answered yet";
    while (elapsed() < limits.seconds) {
      const status = await this.ssh.status(node, cluster);
      if (typeof status === "string" || (status?.state === "ready" && isOf(status, digest))) {
        return;
      }
      if (typeof status === "object") {
        if (status.state === "failed") {
          throw new NotReady(`node ${node}`, `its guest program failed: ${status.message}`, HINT);
        }
        last = isOf(status, digest) ? `it says ${status.state}` : "it hasn't taken its vc-out.xml yet";
      }
      await isThere();
      if (elapsed() - said > PROGRESS_EVERY_SECONDS) {
        said = elapsed();
        limits.progress(`waiting until it is ready, ${Math.round(said)} s so far: ${last}`);
      }
      await setTimeout(Math.max(0, Math.min(POLL_MS, (limits.seconds - elapsed()) * 1000)));
    }
    throw new NotReady(`node ${node}`, `not ready after ${limits.seconds} s: ${last}`, HINT);
  }

  async channel(node: string, cluster: ClusterRecord): Promise<Channel> {
    return (await this.ssh.hasGuestProgram(node, cluster)) ? "ssh" : "nextBoot";
  }

  replaceVcOut(node: string, cluster: ClusterRecord, vcOut: string): Promise<boolean> {
    return this.ssh.replaceVcOut(node, cluster, vcOut);
  }

  /** Asks it to shut down by itself. @returns false where it can't be asked */
  async powerOff(node: string, cluster: ClusterRecord): Promise<boolean> {
    return (await this.ssh.run(node, cluster, ["poweroff"])).exitCode === 0;
  }
}

/** Nobody knows which file a kept disk has. */
function isOf(status: GuestSays, digest: string): boolean {
  return digest === "" || status.digest === digest;
}
