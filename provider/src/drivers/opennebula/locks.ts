import { randomUUID } from "node:crypto";
import type { LockHolder, LockStore, TakenLock } from "../beat-locks";
import type { ClusterRef } from "../driver";
import { ForeignOwner, NotFound } from "../errors";
import type { OneClient } from "./client";
import { jsonIn, jsonTag, markTags, TAG } from "./objects";
import type { Pools } from "./pools";
import { NameTaken } from "./refusals";
import { templateText } from "./template-text";
import { ConnectionLost } from "./xml-rpc";

export const LOCK_PREFIX = "vc-lock-";

/** The lock of each cluster: a VM template `vc-lock-<cluster>` that no machine is made from. A user has one of a name. */
export class TemplateLocks implements LockStore {
  constructor(
    private readonly client: OneClient,
    private readonly pools: Pools,
  ) {}

  async take(cluster: ClusterRef, holder: LockHolder): Promise<TakenLock | undefined> {
    const name = `${LOCK_PREFIX}${cluster.name}`;
    const id = await this.make(name, cluster, holder);
    return id === undefined
      ? undefined
      : {
          beat: (now) =>
            this.client.append("template", id, { [TAG.lock]: jsonTag(now) }).then(
              () => true,
              (error) => {
                if (error instanceof NotFound) {
                  return false;
                }
                throw error;
              },
            ),
          giveBack: () => this.remove(id),
        };
  }

  async present(cluster: string) {
    const name = `${LOCK_PREFIX}${cluster}`;
    const found = (await this.pools.templates()).find((template) => template.name === name);
    if (!found) {
      return undefined;
    }
    const holder = jsonIn(found.attributes.get(TAG.lock)) as LockHolder | undefined;
    if (!holder) {
      throw new ForeignOwner(
        `template ${name}`,
        "exists and carries no mark of a virtual cluster",
        "Rename or remove it",
      );
    }
    return { holder, remove: () => this.remove(found.id) };
  }

  private async make(name: string, cluster: ClusterRef, holder: LockHolder): Promise<number | undefined> {
    const nonce = randomUUID();
    const tags = { ...markTags(cluster.name, undefined), [TAG.lock]: jsonTag(holder), [TAG.nonce]: nonce };
    try {
      return await this.client.id("template.allocate", templateText({ NAME: name, ...tags }));
    } catch (error) {
      if (error instanceof NameTaken) {
        return undefined;
      }
      if (error instanceof ConnectionLost) {
        const made = (await this.pools.templates()).find(({ attributes }) => attributes.get(TAG.nonce) === nonce);
        if (made) {
          return made.id;
        }
      }
      throw error;
    }
  }

  private async remove(id: number): Promise<void> {
    try {
      await this.client.call("template.delete", id, false);
    } catch (error) {
      if (!(error instanceof NotFound)) {
        throw error;
      }
    }
  }
}
