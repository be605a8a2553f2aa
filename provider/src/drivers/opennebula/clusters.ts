import type { PrivateKeys } from "../../node-files/set-up";
import { allDigestsOf, digestsOf, formerBases, withFormerBases } from "../bases";
import { makeKeys, parseKeys, publicHalves } from "../cluster-keys";
import type { ClusterKeys, ClusterRecord, ClusterRef, DiskImage, FoundCluster, Progress } from "../driver";
import { ForeignOwner, NotFound } from "../errors";
import { isOurs, refuseForeign } from "../ownership";
import { allDone, Reverter } from "../reverter";
import type { OpenNebulaSettings } from "../settings";
import type { OneClient } from "./client";
import { keysInContext } from "./context";
import { type Images, isWhole, mayHoldData, refuseForeignDisk } from "./images";
import { isInjected } from "./injected-images";
import { LOCK_PREFIX } from "./locks";
import { nodeOf } from "./machines";
import { baseOf, diskOf, keysOf } from "./names";
import type { Networks } from "./networks";
import {
  IMAGE,
  type Image,
  jsonIn,
  jsonTag,
  markOf,
  markTags,
  recordOf,
  TAG,
  type VmTemplate,
  VNET,
  type Vnet,
} from "./objects";
import type { Pools } from "./pools";
import { NameTaken } from "./refusals";
import { base64, fromBase64, type Template, templateText } from "./template-text";
import { ConnectionLost } from "./xml-rpc";

/**
 * What a cluster has at an OpenNebula beside its machines: its private network, whose attributes hold the record; the
 * reservation of its public address; a VM template with its keys, which only its owner can read; base images.
 */
export class Clusters {
  constructor(
    private readonly client: OneClient,
    private readonly pools: Pools,
    private readonly networks: Networks,
    private readonly images: Images,
    private readonly settings: OpenNebulaSettings,
  ) {}

  /** @throws ForeignOwner for a network of the cluster's that carries no mark */
  async find(name: string): Promise<ClusterRecord | undefined> {
    const vnet = await this.networks.privateOf(name);
    if (!vnet || this.networks.isUnmarkedReservation(vnet)) {
      return undefined;
    }
    const record = recordOf(vnet);
    if (!markOf(vnet) || !record) {
      throw new ForeignOwner(
        `network ${vnet.name} of cluster ${name}`,
        "exists and carries no mark of a virtual cluster",
        "Give this cluster another clusterName",
      );
    }
    return record;
  }

  async allocate(record: ClusterRecord): Promise<ClusterKeys> {
    const present = await this.find(record.name);
    if (present) {
      refuseForeign(`cluster ${record.name}`, present.mark, record);
      if (present.plan.frontend.publicIp !== record.plan.frontend.publicIp) {
        await this.networks.releaseLease(present);
      }
    }
    const former = formerBases(present, record);
    await using reverter = new Reverter();
    // The network comes first: what follows belongs to the cluster that it records.
    const vnet = await this.ensurePrivate(withFormerBases(record, former), present);
    if (!present) {
      reverter.add(() => this.networks.remove(vnet));
    }
    const lease = async () => {
      if ((await this.networks.lease(record)).made) {
        reverter.add(() => this.networks.releaseLease(record));
      }
    };
    const haveKeys = async () => {
      const { keys, template, made } = await this.ensureKeys(record);
      if (made) {
        reverter.add(() => this.removeTemplate(template));
      }
      return keys;
    };
    const [keys] = await allDone(haveKeys(), lease());
    const publicKeys = publicHalves(keys);
    const written = withFormerBases({ ...record, keys: publicKeys }, former);
    await this.client.append("vn", vnet.id, recordTags(written));
    reverter.succeed();
    if (former.length > 0) {
      await this.removeUnusedBases(former);
      const left = new Set((await this.pools.images()).map(({ name }) => name));
      const still = former.filter((digest) => left.has(baseOf(digest)));
      await this.client.append("vn", vnet.id, recordTags(withFormerBases(written, still)));
    }
    return publicKeys;
  }

  /** One sentence for each of the cluster's own things that isn't as it should be. */
  async inspect(record: ClusterRecord): Promise<string[]> {
    const ip = record.plan.frontend.publicIp;
    const [vnet, lease, templates, images] = await Promise.all([
      this.networks.privateOf(record.name),
      this.networks.leaseOf(record.name),
      this.pools.templates(),
      this.pools.images(),
    ]);
    const bases = new Set(images.filter(isWhole).map(({ name }) => name));
    return [
      ...(vnet ? [] : ["its private network is gone"]),
      ...(vnet?.state === VNET.ERROR ? ["its private network is in state ERROR"] : []),
      ...(lease?.ranges.some((range) => range.ip === ip) ? [] : [`the lease of its public address ${ip} is gone`]),
      ...(templates.some(({ name }) => name === keysOf(record.name)) ? [] : ["its keys are gone"]),
      ...(this.basesOf(record).every(({ digest }) => bases.has(baseOf(digest))) ? [] : ["its base image is gone"]),
    ];
  }

  async fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    for (const image of this.basesOf(record)) {
      await this.images.ensureBase(image, progress);
    }
  }

  /** The disks that machines share; one that is made for its node alone comes from here. */
  private basesOf({ image: { frontend, compute } }: ClusterRecord): readonly DiskImage[] {
    const shared = [frontend, compute].filter((image) => !isInjected(this.settings, image));
    return [...new Map(shared.map((image) => [image.digest, image])).values()];
  }

  async release(
    cluster: ClusterRef | ClusterRecord,
    options: { readonly keepBaseImage: boolean; readonly keepDisks: boolean },
  ): Promise<void> {
    const { name } = cluster;
    const [vnet, present] = await Promise.all([this.networks.privateOf(name), this.find(name)]);
    if (present) {
      refuseForeign(`cluster ${name}`, present.mark, cluster);
    }
    const disk = await this.images.disk({ cluster, node: "frontend" });
    const keepsDisk = disk !== undefined && options.keepDisks;
    if (disk && !keepsDisk) {
      refuseForeignDisk(disk, cluster);
      await this.images.remove(disk);
    }
    await this.images.removeLeftovers(cluster);
    await this.networks.releaseLease(cluster);
    if (!keepsDisk) {
      const keys = await this.keysTemplate(name);
      if (keys && isOurs(markOf(keys), cluster)) {
        await this.removeTemplate(keys.id);
      }
    }
    if (vnet) {
      // The record goes last, so that an interrupted release can be taken up again.
      await this.networks.remove(vnet);
    }
    if (!options.keepBaseImage) {
      const records = [present, "plan" in cluster ? cluster : undefined].filter((record) => record !== undefined);
      await this.removeUnusedBases([...new Set(records.flatMap(allDigestsOf))]);
    }
  }

  async survey(): Promise<readonly FoundCluster[]> {
    const [vnets, vms, templates, images] = await Promise.all([
      this.pools.vnets(),
      this.pools.vms(),
      this.pools.templates(),
      this.pools.images(),
    ]);
    const marks = new Map<string, ClusterRef["mark"]>();
    for (const template of templates.filter(({ name }) => name.startsWith(LOCK_PREFIX))) {
      const holder = jsonIn(template.attributes.get(TAG.lock)) as { mark?: ClusterRef["mark"] } | undefined;
      if (holder?.mark) {
        marks.set(template.name.slice(LOCK_PREFIX.length), holder.mark);
      }
    }
    for (const object of [...images, ...templates, ...vnets, ...vms]) {
      const [cluster, mark] = [object.attributes.get(TAG.cluster), markOf(object)];
      if (cluster && mark) {
        marks.set(cluster, mark);
      }
    }
    const records = vnets.flatMap((vnet) => {
      const record = markOf(vnet) && recordOf(vnet);
      return record ? [record] : [];
    });
    for (const { name, mark } of records) {
      marks.set(name, mark);
    }
    return [...marks].map(([name, mark]) => {
      const record = records.find((one) => one.name === name);
      const nodes = vms.map(nodeOf).flatMap((node) => (node?.cluster === name && node.mark ? [node.node] : []));
      const leases = vnets.filter(
        ({ attributes, parent }) => attributes.get(TAG.cluster) === name && parent !== undefined,
      );
      return {
        name,
        mark,
        ...(record && { record }),
        machines: [...new Set(nodes)].sort(),
        ...(!nodes.includes("frontend") && images.some((image) => isKept(image, name)) && { hasKeptDisk: true }),
        publicAddresses: leases.filter((lease) => !recordOf(lease)).flatMap(({ ranges }) => ranges.map(({ ip }) => ip)),
      };
    });
  }

  /** @throws NotFound when the cluster has no keys: it wasn't allocated here */
  async keysOf(name: string): Promise<PrivateKeys> {
    const template = await this.keysTemplate(name);
    const keys = template && keysIn(template);
    if (!keys) {
      throw new NotFound(
        `the keys of cluster ${name}`,
        `template ${keysOf(name)} is missing or damaged`,
        "Run `pulumi up`, which makes it again",
      );
    }
    return keys;
  }

  /** Removes those that no cluster's record names and no machine uses. */
  async removeUnusedBases(digests: readonly string[]): Promise<void> {
    if (digests.length === 0) {
      return;
    }
    const [vnets, vms, images] = await Promise.all([this.pools.vnets(), this.pools.vms(), this.pools.images()]);
    const named = new Set(
      vnets.flatMap((vnet) => (markOf(vnet) && recordOf(vnet) ? digestsOf(recordOf(vnet) as ClusterRecord) : [])),
    );
    const used = new Set(vms.flatMap(({ disks }) => disks.map(({ imageId }) => imageId)));
    const isUsed = (digest: string) => images.some(({ id, name }) => name === baseOf(digest) && used.has(id));
    await this.images.removeBases(digests.filter((digest) => !named.has(digest) && !isUsed(digest)));
  }

  private async ensurePrivate(record: ClusterRecord, present: ClusterRecord | undefined): Promise<Vnet> {
    const vnet = present && (await this.networks.privateOf(record.name));
    if (!vnet) {
      return this.networks.makePrivate(record, recordTags(record));
    }
    if (vnet.state === VNET.ERROR) {
      await this.networks.remove(vnet);
      return this.networks.makePrivate(record, recordTags(record));
    }
    // The one that another process has made just now, or a call that was cut off.
    try {
      await this.networks.refuseTakenSubnet(vnet, record);
    } catch (error) {
      await this.networks.remove(vnet);
      throw error;
    }
    await this.client.append("vn", vnet.id, recordTags({ ...record, ...(present?.keys && { keys: present.keys }) }));
    return vnet;
  }

  private async keysTemplate(cluster: string): Promise<VmTemplate | undefined> {
    return (await this.pools.templates()).find(({ name }) => name === keysOf(cluster));
  }

  /** Keeps the keys that are there; where they are lost, those that its machines were given; else new ones. */
  private async ensureKeys(
    record: ClusterRecord,
  ): Promise<{ readonly keys: PrivateKeys; readonly template: number; readonly made: boolean }> {
    const present = await this.keysTemplate(record.name);
    if (present) {
      refuseForeign(`template ${present.name}`, markOf(present), record);
      const keys = keysIn(present);
      if (keys) {
        return { keys, template: present.id, made: false };
      }
      await this.removeTemplate(present.id);
    }
    const keys = (await this.keysInUse(record)) ?? (await makeKeys(record.name));
    const name = keysOf(record.name);
    const tags = { ...markTags(record.name, record.mark), [TAG.keys]: base64(JSON.stringify(keys)) };
    try {
      return {
        keys,
        template: await this.client.id("template.allocate", templateText({ NAME: name, ...tags })),
        made: true,
      };
    } catch (error) {
      const made =
        error instanceof NameTaken || error instanceof ConnectionLost
          ? await this.keysTemplate(record.name)
          : undefined;
      const kept = made && isOurs(markOf(made), record) ? keysIn(made) : undefined;
      if (made && kept) {
        return { keys: kept, template: made.id, made: false };
      }
      throw error;
    }
  }

  private async keysInUse(cluster: ClusterRef): Promise<PrivateKeys | undefined> {
    const machines = (await this.pools.vms()).filter(
      (vm) => nodeOf(vm)?.cluster === cluster.name && isOurs(markOf(vm), cluster),
    );
    return machines.map(({ context }) => keysInContext(context)).find(Boolean);
  }

  private async removeTemplate(id: number): Promise<void> {
    try {
      await this.client.call("template.delete", id, false);
    } catch (error) {
      if (!(error instanceof NotFound)) {
        throw error;
      }
    }
  }
}

function recordTags(record: ClusterRecord): Template {
  return { ...markTags(record.name, record.mark), [TAG.role]: "private", [TAG.record]: jsonTag(record) };
}

function isKept(image: Image, cluster: string): boolean {
  return image.name === diskOf(cluster) && image.state !== IMAGE.DELETE && mayHoldData(image);
}

function keysIn({ attributes }: VmTemplate): PrivateKeys | undefined {
  return parseKeys(fromBase64(attributes.get(TAG.keys) ?? ""));
}
