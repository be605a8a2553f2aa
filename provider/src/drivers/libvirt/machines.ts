import { Batcher } from "../batcher";
import type { NodeRef, NodeState, ObservedNode } from "../driver";
import { machineGone } from "../errors";
import { refuseForeign } from "../ownership";
import { TOGETHER_MS } from "./clusters";
import type { Virsh } from "./virsh";
import { type NodeMark, type ObservedDomain, parseDomain } from "./xml";

/** An {@link ObservedNode} with what only this driver needs. */
export interface Machine extends ObservedNode {
  readonly domain: ObservedDomain;
  /** Whether its memory lies on the host's disk, to go on with at its next start. */
  readonly isSaved: boolean;
}

const MIB = 1024 * 1024;
/** By how much a balloon may miss its mark, MiB. */
export const BALLOON_TOLERANCE_MIB = 2;

/** The machines at a site as libvirt shows them. */
export class Machines {
  private readonly clustersRead: Batcher<string, ReadonlyMap<string, Machine>>;

  constructor(private readonly virsh: Virsh) {
    this.clustersRead = new Batcher((names) => this.loadClusters(names), TOGETHER_MS);
  }

  /** Two virsh runs for all that ask at the same time. */
  async read(cluster: string): Promise<ReadonlyMap<string, Machine>> {
    return (await this.clustersRead.get(cluster)) ?? new Map();
  }

  /** @throws ForeignOwner for a machine of that name that isn't this cluster's */
  async find(ref: NodeRef): Promise<Machine | undefined> {
    const machine = (await this.read(ref.cluster.name)).get(ref.node);
    if (machine) {
      refuseForeign(`machine ${machine.domain.name}`, machine.mark, ref.cluster);
    }
    return machine;
  }

  /** @throws NotFound, ForeignOwner */
  async existing(ref: NodeRef): Promise<Machine> {
    const machine = await this.find(ref);
    if (!machine) {
      throw machineGone(ref.node, ref.cluster.name);
    }
    return machine;
  }

  /** Every machine at the site that carries a mark. */
  async survey(): Promise<NodeMark[]> {
    return (await this.all()).flatMap(({ mark }) => (mark ? [mark] : []));
  }

  async basesInUse(): Promise<Set<string>> {
    return new Set((await this.all()).map(({ base }) => base));
  }

  private async all(): Promise<ObservedDomain[]> {
    const names = lines(await this.virsh.run(["list", "--all", "--name"]));
    const documents = await this.virsh.batch(names.map((name) => ["dumpxml", "--inactive", name]));
    return documents.filter((xml) => xml.trim()).map(parseDomain);
  }

  private async loadClusters(names: readonly string[]): Promise<Map<string, ReadonlyMap<string, Machine>>> {
    const [all = "", autostarted = "", saved = "", states = ""] = await this.virsh.batch([
      ["list", "--all", "--name"],
      ["list", "--all", "--autostart", "--name"],
      ["list", "--all", "--with-managed-save", "--name"],
      ["domstats", "--state"],
    ]);
    const clusters = new Map<string, Map<string, Machine>>(names.map((name) => [name, new Map()]));
    const found = lines(all).flatMap((domain) => {
      const match = /^([a-z][a-z0-9-]*)-(frontend|compute-\d+)$/.exec(domain);
      const nodes = match && clusters.get(match[1] ?? "");
      return nodes ? [{ domain, node: match[2] ?? "", nodes }] : [];
    });
    const answers = await this.virsh.batch(
      found.flatMap(({ domain }) => [
        ["dumpxml", domain],
        ["dumpxml", "--inactive", domain],
        ["domstats", domain, "--block", "--balloon"],
      ]),
    );
    const [autostart, savedNames] = [new Set(lines(autostarted)), new Set(lines(saved))];
    const stateOf = parseStates(states);
    found.forEach(({ domain, node, nodes }, index) => {
      const [xml = "", next = "", stats = ""] = answers.slice(index * 3, index * 3 + 3);
      if (xml.trim() && next.trim()) {
        const state = stateOf.get(domain) ?? "unknown";
        const observed = machineOf(parseDomain(xml), parseDomain(next), stats, state, autostart.has(domain));
        nodes.set(node, { ...observed, isSaved: savedNames.has(domain) });
      } // Else it has gone between the two runs.
    });
    return clusters;
  }
}

/** @param next its definition, from which the next start is made */
function machineOf(
  domain: ObservedDomain,
  next: ObservedDomain,
  stats: string,
  state: NodeState,
  autostart: boolean,
): Omit<Machine, "isSaved"> {
  const { cpus, mostCpus, mostMemory, mark } = domain;
  const memory = Math.abs(domain.memory - next.memory) <= BALLOON_TOLERANCE_MIB ? next.memory : domain.memory;
  const bytes = Number(/^\s*block\.0\.capacity=(\d+)/m.exec(stats)?.[1] ?? 0);
  const hasBalloonDriver = /^\s*balloon\.available=\d/m.test(stats);
  return {
    domain,
    state,
    machineId: domain.uuid,
    ...{ cpus, memory, autostart },
    macs: domain.nics.map(({ mac }) => mac),
    ...(bytes > 0 && { diskSize: Math.floor(bytes / MIB) }),
    vcOutDigest: mark?.vcOutDigest ?? "",
    vcOutWaits: mark?.vcOutWaits === true,
    live: {
      // Taking cpus away makes a later start of one end QEMU 7.2, and without an agent nobody in the guest uses a new one.
      cpus: { min: cpus, max: domain.hasAgent ? mostCpus : cpus },
      memory: hasBalloonDriver ? { min: Math.ceil(mostMemory / 2), max: mostMemory } : { min: memory, max: memory },
    },
    ...((next.cpus !== cpus || next.memory !== memory) && { nextStart: { cpus: next.cpus, memory: next.memory } }),
    ...(mark && { mark: mark.mark }),
  };
}

export function lines(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
}

/** virDomainState by number, as `domstats` prints it. */
const STATES: Readonly<Record<string, NodeState>> = {
  1: "running",
  2: "running",
  3: "paused",
  4: "running",
  5: "off",
  6: "crashed",
  7: "paused",
};

function parseStates(stats: string): Map<string, NodeState> {
  const states = new Map<string, NodeState>();
  for (const match of stats.matchAll(/Domain: '([^']+)'\s+state\.state=(\d+)/g)) {
    states.set(match[1] ?? "", STATES[match[2] ?? ""] ?? "unknown");
  }
  return states;
}

/** The volume of a machine's disk. */
export function diskVolume(domain: string): string {
  return `${domain}.qcow2`;
}
