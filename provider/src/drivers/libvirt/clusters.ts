import { rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { hashOf, locateDisk } from "../../images/disk/digests";
import type { PrivateKeys } from "../../node-files/set-up";
import { steadyProgress } from "../../setup/steady-progress";
import { inTemporaryFolder, makeTemporaryFolder } from "../../temporary-folder";
import { allDigestsOf, digestsOf, formerBases, withFormerBases } from "../bases";
import { Batcher } from "../batcher";
import { makeKeys, parseKeys, publicHalves } from "../cluster-keys";
import type { ClusterKeys, ClusterRecord, ClusterRef, DiskImage, Progress } from "../driver";
import { AddressTaken, ForeignOwner, NotFound } from "../errors";
import { isOurs, refuseForeign } from "../ownership";
import { allDone, Reverter } from "../reverter";
import { reporting } from "../transfer";
import { listNetworks } from "./site";
import { AlreadyThere, ifThere, type Virsh } from "./virsh";
import type { Volumes } from "./volumes";
import { clusterNetworkXml, LEASE_PREFIX, leaseXml, type ObservedNetwork, parseNetwork, REPLUG_PREFIX } from "./xml";

/** What the engine asks at once arrives within this time. */
export const TOGETHER_MS = 12;
const TRANSFER_SECONDS = 6 * 3600;
const UPLOADER_POLL_MS = 500;
/** A base that hasn't grown for this long has lost its uploader. A slow one only means that the bytes go over twice. */
const UPLOADER_GONE_MS = 5000;

/**
 * What a cluster has at a libvirt beside its machines: its network, whose metadata is the record; the lease of its
 * public address; the volume with its keys; and the base volumes, one per digest, that clusters share.
 */
export class Clusters {
  private readonly definitions: Batcher<string, string>;
  /** Made once for a cluster, and needed for each of its nodes. */
  private readonly keys = new Map<string, Promise<PrivateKeys | undefined>>();
  /** Bases fetched back from the site, by digest, as long as somebody uses them. */
  private readonly copies = new Map<string, { readonly file: Promise<string>; users: number }>();

  constructor(
    private readonly virsh: Virsh,
    private readonly volumes: Volumes,
    /** Names of the base volumes that machines at the site use. */
    private readonly basesInUse: () => Promise<ReadonlySet<string>>,
    /** The keys as a running machine of the cluster's has them. */
    private readonly keysInUse: (cluster: string) => Promise<PrivateKeys | undefined>,
  ) {
    this.definitions = new Batcher(async (names) => {
      const documents = await virsh.batch(names.map((name) => ["net-dumpxml", "--inactive", name]));
      return new Map(names.map((name, index) => [name, documents[index] ?? ""]));
    }, TOGETHER_MS);
  }

  /** One virsh run for all that ask at the same time. */
  async find(name: string): Promise<ClusterRecord | undefined> {
    const xml = await this.definitions.get(name);
    if (!xml?.trim()) {
      return undefined;
    }
    const { cluster } = parseNetwork(xml);
    if (!cluster) {
      throw new ForeignOwner(
        `network ${name}`,
        "exists and carries no mark of a virtual cluster",
        "Give this cluster another clusterName",
      );
    }
    return cluster;
  }

  async allocate(record: ClusterRecord): Promise<ClusterKeys> {
    const present = await this.find(record.name);
    if (present) {
      refuseForeign(`cluster ${record.name}`, present.mark, record);
    }
    const ip = record.plan.frontend.publicIp;
    if (present && present.plan.frontend.publicIp !== ip) {
      // Before the record forgets it.
      await this.releaseAddress(present.plan.frontend.publicIp, present);
    }
    await using reverter = new Reverter();

    const former = formerBases(present, record);
    // The network comes first: what follows belongs to the cluster that it records.
    await this.define(clusterNetworkXml(withFormerBases(record, former)), `subnet ${record.plan.privateNetwork.cidr}`);
    if (!present) {
      reverter.add(() => this.removeNetwork(record.name));
    }
    const lease = async () => {
      if (await this.lease(ip, record)) {
        reverter.add(() => this.releaseAddress(ip, record));
      }
    };
    const haveKeys = async () => {
      const { keys, made } = await this.ensureKeys(record.name, present?.keys);
      if (made) {
        reverter.add(() => this.volumes.remove(keysVolume(record.name)));
      }
      return keys;
    };
    const [keys] = await allDone(haveKeys(), lease(), this.startNetwork(record.name));

    const publicKeys = publicHalves(keys);
    const written = withFormerBases({ ...record, keys: publicKeys }, former);
    await this.virsh.runWithFile(["net-define"], clusterNetworkXml(written));
    reverter.succeed();
    await this.removeUnusedBases(former);
    return publicKeys;
  }

  /** One sentence for each of the cluster's own things that isn't as it should be. */
  async inspect(record: ClusterRecord): Promise<string[]> {
    const ip = record.plan.frontend.publicIp;
    const [[info = "", lease = ""], volumes] = await Promise.all([
      this.virsh.batch([
        ["net-info", record.name],
        ["net-dumpxml", "--inactive", `${LEASE_PREFIX}${ip}`],
      ]),
      this.volumes.list(),
    ]);
    const gone = info.trim() === "";
    const bases = digestsOf(record).flatMap((digest) => [baseVolume(digest), completeVolume(digest)]);
    return [
      ...(gone ? ["its private network is gone"] : []),
      ...(!gone && !isActive(info) ? ["its private network is stopped"] : []),
      ...(!gone && !isAutostarted(info) ? ["its private network doesn't start with its host any more"] : []),
      ...(lease.trim() ? [] : [`the lease of its public address ${ip} is gone`]),
      ...(volumes.has(keysVolume(record.name)) ? [] : ["its keys are gone"]),
      ...(bases.every((base) => volumes.has(base)) ? [] : ["its base image is gone"]),
    ];
  }

  /** All networks at the site. */
  survey(): Promise<ObservedNetwork[]> {
    return listNetworks(this.virsh);
  }

  /** Makes sure that the network is up and comes up with its host. */
  private async startNetwork(name: string): Promise<void> {
    const [info = ""] = await this.virsh.batch([["net-info", name]]);
    await this.virsh.sequence([
      ...(isAutostarted(info) ? [] : [["net-autostart", name]]),
      ...(isActive(info) ? [] : [["net-start", name]]),
    ]);
  }

  async fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    const images = new Map([record.image.frontend, record.image.compute].map((image) => [image.digest, image]));
    for (const image of images.values()) {
      await this.ensureBase(image, progress);
    }
  }

  async release(
    cluster: ClusterRef | ClusterRecord,
    options: { readonly keepBaseImage: boolean; readonly keepKeys: boolean },
  ): Promise<void> {
    const { name } = cluster;
    const present = await this.find(name);
    if (present) {
      refuseForeign(`cluster ${name}`, present.mark, cluster);
    }
    // Whether or not the record is still there: a part of what it names may be.
    const records = [present, "plan" in cluster ? cluster : undefined].filter((record) => record !== undefined);
    const addresses = new Set(records.map(({ plan }) => plan.frontend.publicIp));
    for (const ip of addresses.size > 0 ? addresses : await this.leasesOf(cluster)) {
      await this.releaseAddress(ip, cluster);
    }
    this.keys.delete(name);
    if (!options.keepKeys) {
      await this.volumes.remove(keysVolume(name));
    }
    if (present) {
      // The record goes last, so that an interrupted release can be taken up again.
      await this.removeNetwork(name);
    }
    if (!options.keepBaseImage) {
      await this.removeUnusedBases([...new Set(records.flatMap(allDigestsOf))]);
    }
  }

  private async leasesOf(cluster: ClusterRef): Promise<string[]> {
    const networks = await listNetworks(this.virsh);
    return networks.flatMap(({ lease }) =>
      lease?.cluster === cluster.name && isOurs(lease.mark, cluster) ? [lease.ip] : [],
    );
  }

  /** @throws NotFound when the cluster has no keys: it wasn't allocated here */
  async keysOf(name: string): Promise<PrivateKeys> {
    const read = this.keys.get(name) ?? this.volumes.read(keysVolume(name)).then(parseKeys);
    this.keys.set(name, read);
    const keys = await read.catch(() => undefined);
    if (!keys) {
      this.keys.delete(name);
      await read;
      throw new NotFound(
        `the keys of cluster ${name}`,
        `volume ${keysVolume(name)} is missing or damaged`,
        "Run `pulumi up`, which makes it again",
      );
    }
    return keys;
  }

  /**
   * Hands `use` a base disk as a file on this machine: where it came from, else a copy fetched back from the site, once
   * for all that need it at the same time.
   */
  async withLocalBase<T>(image: DiskImage, progress: Progress, use: (file: string) => Promise<T>): Promise<T> {
    const known = await locateDisk(image.digest);
    if (known) {
      return use(known);
    }
    const copy = this.copies.get(image.digest) ?? { file: this.fetchBase(image, progress), users: 0 };
    this.copies.set(image.digest, copy);
    copy.users += 1;
    try {
      return await use(await copy.file);
    } finally {
      copy.users -= 1;
      if (copy.users === 0) {
        this.copies.delete(image.digest);
        await copy.file.then((file) => rm(dirname(file), { recursive: true })).catch(() => undefined);
      }
    }
  }

  private async fetchBase(image: DiskImage, progress: Progress): Promise<string> {
    const base = baseVolume(image.digest);
    const folder = await makeTemporaryFolder();
    const file = join(folder, "base.raw");
    try {
      progress("fetching the base image back from the site, since its file here is gone");
      const [bytes = 0] = await this.volumes.allocated(base);
      const transfer = {
        what: "fetching the base image",
        bytes,
        arrived: () => allocatedHere(file),
      };
      const download = () => this.volumes.download(base, file, { sparse: true, timeoutSeconds: TRANSFER_SECONDS });
      if (!(await reporting(transfer, progress, download)) || (await hashOf(file)) !== image.digest) {
        throw new NotFound(
          "the base image",
          `neither this machine nor the site has the disk ${image.digest.slice(0, 16)}…`,
          "Put the image back into its repository",
        );
      }
      return file;
    } catch (error) {
      await rm(folder, { recursive: true });
      throw error;
    }
  }

  private async define(xml: string, what: string): Promise<void> {
    try {
      await this.virsh.runWithFile(["net-define"], xml);
    } catch (error) {
      if (error instanceof AlreadyThere) {
        throw new AddressTaken(
          what,
          "somebody else took it since the plan was made",
          "Run `pulumi up` again: it plans anew",
        );
      }
      throw error;
    }
  }

  /** Takes the address by name, and on a network with DHCP keeps the DHCP server from giving it away. */
  private async lease(ip: string, record: ClusterRecord): Promise<boolean> {
    const [present = "", publicXml = ""] = await this.virsh.batch([
      ["net-dumpxml", "--inactive", `${LEASE_PREFIX}${ip}`],
      ["net-dumpxml", record.plan.publicNetwork.name],
    ]);
    if (!publicXml.trim()) {
      throw new NotFound(
        `network ${record.plan.publicNetwork.name}`,
        "is gone",
        "Make it again, or name another in site.network",
      );
    }
    await this.define(leaseXml(ip, record), `public address ${ip}`);
    const publicNetwork = parseNetwork(publicXml);
    if (publicNetwork.hasDhcp && !publicNetwork.dhcpHosts.some((host) => host.ip === ip)) {
      await this.updateDhcp("add", publicNetwork.name, ip, record.plan.frontend.publicMac, record.name);
    }
    return !present.trim();
  }

  private async releaseAddress(ip: string, cluster: ClusterRef): Promise<void> {
    const xml = await this.virsh.runIfThere(["net-dumpxml", "--inactive", `${LEASE_PREFIX}${ip}`]);
    const lease = xml === undefined ? undefined : parseNetwork(xml).lease;
    if (lease?.cluster !== cluster.name || !isOurs(lease.mark, cluster)) {
      return;
    }
    const publicXml = await this.virsh.runIfThere(["net-dumpxml", lease.network]);
    const host = publicXml === undefined ? undefined : parseNetwork(publicXml).dhcpHosts.find((one) => one.ip === ip);
    if (host?.name === cluster.name) {
      await this.updateDhcp("delete", lease.network, ip, host.mac, cluster.name);
    }
    await ifThere(this.virsh.run(["net-undefine", `${LEASE_PREFIX}${ip}`]));
  }

  private async updateDhcp(
    action: "add" | "delete",
    network: string,
    ip: string,
    mac: string,
    name: string,
  ): Promise<void> {
    const host = `<host mac='${mac}' name='${name}' ip='${ip}'/>`;
    await this.virsh.run(["net-update", network, action, "ip-dhcp-host", host, "--live", "--config"]);
  }

  private async removeNetwork(name: string): Promise<void> {
    // What an interrupted plugging in may have left.
    await this.virsh.batch([["net-destroy", `${REPLUG_PREFIX}${name}`]], { tolerant: true });
    await this.virsh.run(["net-destroy", name]).catch((error) => {
      if (!(error instanceof NotFound) && !/not active/.test((error as Error).message)) {
        throw error;
      }
    });
    await ifThere(this.virsh.run(["net-undefine", name]));
  }

  /** @param known of keys that the cluster's machines may have: a lost volume is filled again from one of them */
  private async ensureKeys(name: string, known?: ClusterKeys): Promise<{ keys: PrivateKeys; made: boolean }> {
    const volume = keysVolume(name);
    const present = parseKeys(await this.volumes.read(volume));
    const inUse = !present && known ? await this.keysInUse(name) : undefined;
    const isKnown = inUse?.hostKey.public === known?.hostKey && inUse?.rootKey.public === known?.rootKey;
    const keys = present ?? (isKnown ? inUse : undefined) ?? (await makeKeys(name));
    if (!present) {
      // A volume that is there and can't be read is half-written: no node was made with it.
      await inTemporaryFolder(async (folder) => {
        const file = join(folder, "keys");
        const content = JSON.stringify(keys);
        await writeFile(file, content, { mode: 0o600 });
        await this.volumes.store([{ name: volume, bytes: Buffer.byteLength(content), file }]);
      });
    }
    this.keys.set(name, Promise.resolve(keys));
    return { keys, made: present === undefined };
  }

  /**
   * A base counts as whole when the volume that says so is there. Its name is its content, so where two upload it at the
   * same time they write the same bytes, and a broken upload is simply done again.
   */
  private async ensureBase(image: DiskImage, progress: Progress): Promise<void> {
    const [base, complete] = [baseVolume(image.digest), completeVolume(image.digest)];
    const present = await this.volumes.list();
    if (present.has(base) && present.has(complete)) {
      return;
    }
    if (present.has(complete)) {
      await this.volumes.remove(complete);
    }
    if (present.has(base) && (await this.basesInUse()).has(base)) {
      // Machines read it, so it was whole: nothing may write to it now.
      await this.volumes.create(complete, 0);
      return;
    }
    const file = await locateDisk(image.digest);
    const begun = present.has(base) || (file !== undefined && !(await this.volumes.create(base, image.size)));
    if (begun && (await this.arrives(image, progress))) {
      return;
    }
    if (!file) {
      throw new NotFound(
        "the base image",
        `no file here holds the disk ${image.digest.slice(0, 16)}…`,
        "Put the image back into its repository and run `pulumi up`",
      );
    }
    if (begun) {
      await this.volumes.create(base, image.size);
    }
    const bytes = await allocatedHere(file);
    progress(`copying the base image to the site (${Math.ceil(bytes / 1024 / 1024)} MiB, holes left out)`);
    const started = Date.now();
    const transfer = {
      what: "copying the base image",
      bytes,
      arrived: async () => (await this.volumes.allocated(base))[0],
    };
    await reporting(transfer, progress, () =>
      this.volumes.upload(base, file, { sparse: true, timeoutSeconds: TRANSFER_SECONDS }),
    );
    await this.volumes.create(complete, 0);
    progress(`base image stored in ${((Date.now() - started) / 1000).toFixed(1)} s; every node shares it`);
  }

  /** Whether a base that somebody has begun to upload gets whole: while it grows, they are at it. */
  private async arrives(image: DiskImage, progress: Progress): Promise<boolean> {
    const look = () => this.volumes.allocated(baseVolume(image.digest), completeVolume(image.digest));
    const report = steadyProgress(progress);
    let [before, whole] = await look();
    for (let grown = Date.now(); whole === undefined && Date.now() - grown < UPLOADER_GONE_MS; ) {
      await setTimeout(UPLOADER_POLL_MS);
      const [now, wholeNow] = await look();
      if (now !== before) {
        grown = Date.now();
        report("somebody else is copying this base image to the site: waiting for them");
      }
      [before, whole] = [now, wholeNow];
    }
    return before !== undefined && whole !== undefined;
  }

  /** Removes bases that no cluster's record names and no machine uses. */
  async removeUnusedBases(digests: readonly string[]): Promise<void> {
    if (digests.length === 0) {
      return;
    }
    const unused = await this.unusedOf(digests);
    if (unused.length === 0) {
      return;
    }
    // The sign of wholeness goes first: a cluster that comes now uploads again rather than trust a base on its way out.
    await this.volumes.remove(...unused.map(completeVolume));
    const still = new Set(await this.unusedOf(unused));
    for (const digest of unused) {
      if (still.has(digest)) {
        await this.volumes.remove(baseVolume(digest));
      } else {
        await this.volumes.create(completeVolume(digest), 0);
      }
    }
  }

  /** Those that no cluster's record names and no machine uses. */
  private async unusedOf(digests: readonly string[]): Promise<string[]> {
    const [networks, used] = await Promise.all([listNetworks(this.virsh), this.basesInUse()]);
    const named = new Set(networks.flatMap(({ cluster }) => (cluster ? digestsOf(cluster) : [])));
    return digests.filter((digest) => !named.has(digest) && !used.has(baseVolume(digest)));
  }
}

function isActive(info: string): boolean {
  return /^Active:\s+yes/m.test(info);
}

function isAutostarted(info: string): boolean {
  return /^Autostart:\s+yes/m.test(info);
}

export function baseVolume(digest: string): string {
  return `vc-base-${digest}.raw`;
}

function completeVolume(digest: string): string {
  return `vc-base-${digest}.complete`;
}

function keysVolume(cluster: string): string {
  return `${cluster}-keys`;
}

/** The bytes that a file of this machine holds, holes left out. */
async function allocatedHere(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}
