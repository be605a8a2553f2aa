import { fromNumber, hostAt, hostCount, macOf, overlap, subnet, toNumber } from "../../plan/addresses";
import type { ClusterRecord, ClusterRef } from "../driver";
import { AddressTaken, Contradiction, NotFound, NotSupported, SiteFailure } from "../errors";
import { isOurs, refuseForeign } from "../ownership";
import type { OpenNebulaSettings } from "../settings";
import type { OneClient } from "./client";
import { rangeOf } from "./macs";
import { named, privateNetworkOf, publicLeaseOf } from "./names";
import { markOf, markTags, parseVnet, parseVnetTemplates, recordOf, TAG, VNET, type Vnet } from "./objects";
import type { Pools } from "./pools";
import { NameTaken, PLAN_ANEW } from "./refusals";
import type { TakenAddresses } from "./taken-addresses";
import { type Template, templateText } from "./template-text";
import { eventually, whenAllowed } from "./waiting";
import { ConnectionLost } from "./xml-rpc";

/** For network drivers to make or remove a network. */
const DRIVER_SECONDS = 60;
/** A machine that is gone may still be cleaned up. */
const IN_USE_SECONDS = 60;

/** The virtual networks of clusters: one for each cluster's private network, one for the lease of its public address. */
export class Networks {
  constructor(
    private readonly client: OneClient,
    private readonly pools: Pools,
    private readonly settings: OpenNebulaSettings,
    private readonly taken: TakenAddresses,
    private readonly uid: () => Promise<number>,
  ) {}

  /** A cluster's private network, whoever made it; undefined where there is none, or it is on its way out. */
  async privateOf(cluster: string): Promise<Vnet | undefined> {
    return (await this.named(privateNetworkOf(cluster)))[0];
  }

  /** Whether a private network is a reservation that was cut off before it was marked: then its name and parent say whose it is. */
  isUnmarkedReservation({ parent, attributes }: Vnet): boolean {
    return this.settings.privateReservation !== undefined && parent !== undefined && !attributes.has(TAG.mark);
  }

  async leaseOf(cluster: string): Promise<Vnet | undefined> {
    return (await this.named(publicLeaseOf(cluster)))[0];
  }

  /**
   * As the list has it, and as it is by itself: of a network that we only may use, each shows what the other hides.
   * @throws NotFound
   */
  async publicNetworkWithLeases(): Promise<Vnet> {
    const listed = await this.publicNetwork();
    const single = parseVnet(await this.client.text("vn.info", listed.id, false));
    const ranges = single.ranges.map((range) => {
      const stored = listed.ranges.find(({ id }) => id === range.id)?.leases ?? [];
      return { ...range, leases: [...stored, ...range.leases] };
    });
    return { ...single, ranges };
  }

  /** @throws NotFound */
  async publicNetwork(): Promise<Vnet> {
    const { network = "" } = this.settings;
    const [vnets, uid] = await Promise.all([this.pools.visibleVnets(), this.uid()]);
    const found = named("network", network, vnets, uid);
    return found;
  }

  /** Where a network takes its addresses from that is a reservation. */
  async parentOfReservations(): Promise<Vnet | undefined> {
    const { privateReservation } = this.settings;
    return privateReservation === undefined
      ? undefined
      : named("privateReservation", privateReservation, await this.pools.visibleVnets(), await this.uid());
  }

  /** @throws NotFound, Contradiction for settings by which no private network can be made */
  async refuseMissingWay(): Promise<void> {
    const { privateTemplate, privateAttributes, privateReservation } = this.settings;
    if ([privateTemplate, privateAttributes, privateReservation].filter((way) => way !== undefined).length !== 1) {
      throw new Contradiction(
        "the site's settings for private networks",
        "must name one of privateTemplate, privateAttributes and privateReservation",
        "A plain user takes privateTemplate, the network template that the site's admin made for it",
      ).about("site");
    }
    await Promise.all([this.template(), this.parentOfReservations()]);
  }

  /**
   * Makes a cluster's private network with its record, and waits until its addresses are there. Of clusters that ask for
   * the same subnet at the same time the one keeps it whose network was made first.
   * @throws AddressTaken, ForeignOwner
   */
  async makePrivate(record: ClusterRecord, tags: Template): Promise<Vnet> {
    const name = privateNetworkOf(record.name);
    const id = await this.make(name, record, () => this.createPrivate(name, record, tags));
    const made = await this.ready(id, name);
    try {
      refuseMissingAddresses(made, record);
      await this.refuseTakenSubnet(made, record);
      if (!markOf(made)) {
        // A reservation has nothing but a name until now.
        await this.client.append("vn", id, { ...tags, NETWORK_MASK: subnet(record.plan.privateNetwork.cidr).netmask });
      }
    } catch (error) {
      await this.remove(made).catch(() => undefined);
      throw error;
    }
    return made;
  }

  /** @throws AddressTaken when an older network of ours has addresses of the same subnet */
  async refuseTakenSubnet(own: Vnet, record: ClusterRecord): Promise<void> {
    const wanted = subnet(record.plan.privateNetwork.cidr);
    const rival = (await this.pools.vnets())
      .filter(({ id, state }) => id < own.id && state !== VNET.LOCK_DELETE)
      .map((vnet) => recordOf(vnet))
      .find((other) => other && other.name !== record.name && overlap(wanted, subnet(other.plan.privateNetwork.cidr)));
    if (rival) {
      throw new AddressTaken(`subnet ${wanted.cidr}`, `cluster ${rival.name} has it`, PLAN_ANEW);
    }
  }

  /**
   * Takes the planned public address away from its network, as a reservation of the cluster's own: OpenNebula does so in
   * one act.
   * @throws AddressTaken, NoCapacity
   */
  async lease(record: ClusterRecord): Promise<{ readonly vnet: Vnet; readonly made: boolean }> {
    const ip = record.plan.frontend.publicIp;
    const name = publicLeaseOf(record.name);
    const present = await this.leaseOf(record.name);
    if (present) {
      this.refuseForeignLease(present, record);
      if (rangeOf(present.ranges, ip)) {
        if (!markOf(present)) {
          await this.client.append("vn", present.id, markTags(record.name, record.mark));
        }
        return { vnet: present, made: false };
      }
      await this.remove(present);
    }
    const parent = await this.publicNetwork();
    const range = rangeOf(parent.ranges, ip);
    if (!range) {
      throw new AddressTaken(`public address ${ip}`, `network ${parent.name} doesn't have it`, PLAN_ANEW);
    }
    if (parent.parent !== undefined) {
      throw new NotSupported(
        `site.network ${parent.name}`,
        "is itself a reservation, of which OpenNebula reserves nothing",
        "Name the network that it was taken from, or let the site's admin make one of its own for clusters",
      ).about("site");
    }
    const reserve = () =>
      this.client.id("vn.reserve", parent.id, templateText({ NAME: name, SIZE: 1, AR_ID: range.id, IP: ip }));
    let id: number;
    try {
      id = await this.make(name, record, reserve);
    } catch (error) {
      if (error instanceof AddressTaken) {
        const isOurs = (await this.pools.vnets()).some((vnet) => vnet.parent === parent.id && rangeOf(vnet.ranges, ip));
        if (!isOurs) {
          this.taken.remember(parent.id, ip);
        }
        throw new AddressTaken(`public address ${ip}`, "somebody else has it", PLAN_ANEW);
      }
      throw error;
    }
    const vnet = await this.ready(id, name);
    if (!rangeOf(vnet.ranges, ip)) {
      await this.remove(vnet);
      throw new AddressTaken(`public address ${ip}`, "OpenNebula gave another one", PLAN_ANEW);
    }
    await this.client.append("vn", id, markTags(record.name, record.mark));
    return { vnet, made: true };
  }

  /** @throws ForeignOwner for what isn't the cluster's lease */
  refuseForeignLease(lease: Vnet, cluster: ClusterRef): void {
    const mark = markOf(lease);
    // Between its making and its marking a reservation has its name alone.
    const isUnmarked = mark === undefined && lease.parent !== undefined && !lease.attributes.has(TAG.mark);
    if (!isUnmarked) {
      refuseForeign(`network ${lease.name}`, mark, cluster);
    }
  }

  async releaseLease(cluster: ClusterRef): Promise<void> {
    const lease = await this.leaseOf(cluster.name);
    if (lease && (markOf(lease) === undefined ? lease.parent !== undefined : isOurs(markOf(lease), cluster))) {
      await this.remove(lease);
    }
  }

  /** Already gone is success; it is gone when this returns. */
  async remove({ id, name }: Pick<Vnet, "id" | "name">): Promise<void> {
    const gone = async () => {
      const present = (await this.pools.vnets()).find((vnet) => vnet.id === id);
      return present ? undefined : true;
    };
    const remove = async () => {
      try {
        await this.client.call("vn.delete", id);
      } catch (error) {
        const isGoing = /wrong state LOCK_DELETE/.test((error as Error).message);
        if (!(error instanceof NotFound) && !isGoing) {
          throw error;
        }
      }
    };
    await whenAllowed(remove, IN_USE_SECONDS);
    if (!(await eventually(gone, DRIVER_SECONDS))) {
      throw new SiteFailure(
        `network ${name}`,
        `OpenNebula hasn't removed it within ${DRIVER_SECONDS} s`,
        "See what `onevnet show` says of it",
      );
    }
  }

  private async createPrivate(name: string, record: ClusterRecord, tags: Template): Promise<number> {
    const { privateAttributes, privateCluster = -1 } = this.settings;
    const net = subnet(record.plan.privateNetwork.cidr);
    const [first, size] = [hostAt(net, 1), hostCount(net)];
    const parent = await this.parentOfReservations();
    if (parent) {
      const range = rangeOf(parent.ranges, first);
      if (!range || !rangeOf([range], hostAt(net, -1))) {
        throw new AddressTaken(
          `subnet ${net.cidr}`,
          `network ${parent.name} doesn't have all of its addresses in one range`,
          "Set site.privateRange to what that network has",
        ).about("site");
      }
      return this.client.id(
        "vn.reserve",
        parent.id,
        templateText({ NAME: name, SIZE: size, AR_ID: range.id, IP: first }),
      );
    }
    const attributes = {
      ...tags,
      NETWORK_ADDRESS: net.network,
      NETWORK_MASK: net.netmask,
      AR: [{ TYPE: "IP4", IP: first, MAC: macOf(first), SIZE: size }],
    };
    const template = await this.template();
    return template
      ? this.client.id("vntemplate.instantiate", template.id, name, templateText(attributes))
      : this.client.id(
          "vn.allocate",
          templateText({ NAME: name, ...privateAttributes, ...attributes }),
          privateCluster,
        );
  }

  private async template() {
    const { privateTemplate } = this.settings;
    if (privateTemplate === undefined) {
      return undefined;
    }
    const templates = parseVnetTemplates(await this.client.text("vntemplatepool.info", -2, -1, -1));
    return named("privateTemplate", privateTemplate, templates, await this.uid());
  }

  /**
   * Makes a network unless there is one of its name meanwhile: another process's of the same cluster, or that of a call
   * whose answer got lost.
   */
  private async make(name: string, cluster: ClusterRef, make: () => Promise<number>): Promise<number> {
    try {
      return await make();
    } catch (error) {
      if (!(error instanceof NameTaken || error instanceof ConnectionLost)) {
        throw error;
      }
      const [present] = await this.named(name);
      if (present) {
        if (present.parent === undefined || markOf(present)) {
          refuseForeign(`network ${name}`, markOf(present), cluster);
        }
        return present.id;
      }
      // Nothing was made; or one of this name is just being removed.
      return eventually(
        async () => ((await this.named(name, true)).length === 0 ? true : undefined),
        DRIVER_SECONDS,
      ).then(make);
    }
  }

  private async named(name: string, leaving = false): Promise<Vnet[]> {
    return (await this.pools.vnets()).filter(
      (vnet) => vnet.name === name && (leaving || vnet.state !== VNET.LOCK_DELETE),
    );
  }

  /** Until its driver is through a network has no addresses. */
  private async ready(id: number, name: string): Promise<Vnet> {
    const vnet = await eventually(async () => {
      const now = (await this.pools.vnets()).find((one) => one.id === id);
      if (!now) {
        throw new NotFound(`network ${name}`, "is gone again", PLAN_ANEW);
      }
      return isUsable(now) || now.state === VNET.ERROR ? now : undefined;
    }, DRIVER_SECONDS);
    if (vnet && isUsable(vnet)) {
      return vnet;
    }
    const said = vnet?.attributes.get("ERROR");
    await this.remove({ id, name }).catch(() => undefined);
    throw new SiteFailure(
      `network ${name}`,
      vnet
        ? `OpenNebula could not make it: ${said ?? "it says no reason"}`
        : `it isn't ready after ${DRIVER_SECONDS} s`,
      "Let the site's admin look at its network driver (`onevnet show`, oned.log)",
    );
  }
}

/** Also where a machine on it didn't take a change of its attributes. */
function isUsable({ state }: Vnet): boolean {
  return state === VNET.READY || state === VNET.UPDATE_FAILURE;
}

/** OpenNebula takes a range that makes no sense without a word, and leaves the network without addresses. */
function refuseMissingAddresses(vnet: Vnet, { plan }: ClusterRecord): void {
  const missing = [plan.frontend, ...plan.computes].find(({ privateIp }) => !rangeOf(vnet.ranges, privateIp));
  if (missing) {
    const has = vnet.ranges.map(({ ip, size }) => `${ip} … ${fromNumber(toNumber(ip) + size - 1)}`).join(", ");
    throw new SiteFailure(
      `network ${vnet.name}`,
      `it doesn't have ${missing.privateIp}, the address of ${missing.name}, but ${has || "no addresses"}`,
      "See whether the network template names addresses of its own (AR): it must leave them out",
    );
  }
}
