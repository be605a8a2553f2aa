import { randomUUID } from "node:crypto";
import type { LockHolder, LockStore, TakenLock } from "../beat-locks";
import type { ClusterRef } from "../driver";
import { ForeignOwner } from "../errors";
import { AlreadyThere, ifThere, type Virsh } from "./virsh";
import { LOCK_PREFIX, lockXml, parseNetwork } from "./xml";

/**
 * The lock of each cluster: a network definition `vc-lock-<cluster>` that is never started. libvirt refuses a second one
 * of the same name with another UUID, in one act.
 */
export class NetworkLocks implements LockStore {
  constructor(private readonly virsh: Virsh) {}

  async take(cluster: ClusterRef, holder: LockHolder): Promise<TakenLock | undefined> {
    const uuid = randomUUID();
    if (!(await this.define(cluster.name, uuid, holder))) {
      return undefined;
    }
    return {
      beat: (now) => this.define(cluster.name, uuid, now),
      giveBack: () => this.undefine(uuid),
    };
  }

  async present(cluster: string) {
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
    return { holder: lock, remove: () => this.undefine(uuid) };
  }

  private async undefine(uuid: string): Promise<void> {
    await ifThere(this.virsh.run(["net-undefine", uuid]));
  }

  /** @returns false where another holder's is there */
  private async define(cluster: string, uuid: string, holder: LockHolder): Promise<boolean> {
    try {
      await this.virsh.runWithFile(["net-define"], lockXml(cluster, uuid, holder));
      return true;
    } catch (error) {
      if (error instanceof AlreadyThere) {
        return false;
      }
      throw error;
    }
  }
}
