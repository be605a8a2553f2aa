import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import pLimit from "p-limit";
import { withOverlay } from "../../images/overlay";
import { inTemporaryFolder } from "../../temporary-folder";
import { sha256 } from "../../vc-out/digest";
import { Batcher } from "../batcher";
import type {
  BootRequest,
  ClusterRecord,
  ClusterRef,
  NodeRef,
  NodeState,
  ObservedNode,
  Shape,
  StopLimits,
  WaitLimits,
} from "../driver";
import { NotFound, NotReady } from "../errors";
import { refuseForeign } from "../ownership";
import { Reverter } from "../reverter";
import { baseVolume, type Clusters, TOGETHER_MS } from "./clusters";
import type { Guests } from "./guest";
import { ifThere, type Virsh } from "./virsh";
import type { Volumes } from "./volumes";
import { domainXml, MARK_NAMESPACE, type NodeMark, nodeMetadataXml, type ObservedDomain, parseDomain } from "./xml";

/** An {@link ObservedNode} with what only this driver needs. */
interface Machine extends ObservedNode {
  readonly domain: ObservedDomain;
}

const CONSOLE_TAIL_LINES = 20;
/** A starting machine keeps a processor busy with its firmware; preparing its siblings goes on meanwhile. */
const PARALLEL_STARTS = 4;
const RESTART_GRACE_SECONDS = 60;
const MOST_CONSOLE = 4 * 1024 * 1024;

/** The machines of clusters: each one domain, its overlay volume and its console's log. */
export class Nodes {
  private readonly startLimit = pLimit(PARALLEL_STARTS);
  private readonly clustersRead: Batcher<string, ReadonlyMap<string, Machine>>;

  constructor(
    private readonly virsh: Virsh,
    private readonly volumes: Volumes,
    private readonly clusters: Clusters,
    private readonly guests: Guests,
    private readonly kvm: () => Promise<boolean>,
  ) {
    this.clustersRead = new Batcher((names) => this.loadClusters(names), TOGETHER_MS);
  }

  /** Two virsh runs for all that ask at the same time. */
  async read(cluster: string): Promise<ReadonlyMap<string, Machine>> {
    return (await this.clustersRead.get(cluster)) ?? new Map();
  }

  async boot(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "kept"> {
    const machine = await this.find(ref);
    if (!machine) {
      await this.create(ref, request);
      return "created";
    }
    if (!machine.autostart) {
      await this.virsh.run(["autostart", machine.domain.name]);
    }
    const fits = machine.cpus === request.plan.cpus && machine.memory === request.plan.memory;
    if (!fits) {
      await this.resize(ref, request.plan, { graceSeconds: RESTART_GRACE_SECONDS });
    }
    const started = !fits || machine.state !== "running";
    if (started) {
      await this.start(await this.existing(ref));
    } else if (machine.vcOutDigest !== sha256(request.vcOut)) {
      await this.reconfigure(ref, request.vcOut);
    }
    return started ? "started" : "kept";
  }

  async waitFor(ref: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    const machine = await this.existing(ref);
    if (machine.state !== "running") {
      throw new NotReady(
        `node ${ref.node}`,
        `its machine is ${machine.state}`,
        "Run `pulumi up` again",
        await this.diagnose(ref),
      );
    }
    if (goal === "running") {
      return;
    }
    try {
      await this.guests.waitReady(machine.domain.name, ref.node, ref.cluster, machine.vcOutDigest, limits);
    } catch (error) {
      if (error instanceof NotReady) {
        throw new NotReady(error.summary, error.detail, error.hint, await this.diagnose(ref));
      }
      throw error;
    }
  }

  async reconfigure(ref: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    const machine = await this.existing(ref);
    if (machine.state !== "running") {
      return "nextBoot";
    }
    if (!(await this.guests.replaceVcOut(machine.domain.name, ref.node, ref.cluster, vcOut))) {
      return "nextBoot";
    }
    await this.setMark(ref, machine, sha256(vcOut));
    return "live";
  }

  async resize(ref: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    const machine = await this.existing(ref);
    if (machine.cpus === shape.cpus && machine.memory === shape.memory) {
      return "live";
    }
    await this.stop(machine, limits);
    await this.reshape(machine.domain.name, shape);
    if (machine.state !== "off") {
      await this.start({ ...machine, state: "off" });
    }
    return "restarted";
  }

  async shutdown(ref: NodeRef, limits: StopLimits): Promise<void> {
    await this.stop(await this.existing(ref), limits);
  }

  async remove(ref: NodeRef, limits: StopLimits): Promise<void> {
    const name = domainName(ref);
    const machine = await this.find(ref);
    if (machine) {
      await this.stop(machine, limits);
      await ifThere(this.virsh.run(["undefine", name, "--managed-save", "--snapshots-metadata", "--nvram"]));
    } else {
      await this.refuseForeignCluster(ref.cluster);
    }
    await this.volumes.remove(diskVolume(name), consoleVolume(name));
  }

  /**
   * Takes away the disks of nodes whose `boot` was cut off before it got to the machine, and what virtlogd has set aside
   * of long consoles.
   */
  async removeLeftovers(cluster: ClusterRef): Promise<void> {
    const [machines, volumes] = await Promise.all([
      this.read(cluster.name),
      this.volumes.refresh().then(() => this.volumes.list()),
      this.refuseForeignCluster(cluster),
    ]);
    const left = [...volumes].filter((volume) => {
      const [, name, node = ""] = /^(.+)-(frontend|compute-\d+)\.(?:qcow2|console(?:\.\d+)?)$/.exec(volume) ?? [];
      return name === cluster.name && !machines.has(node);
    });
    await this.volumes.remove(...left);
  }

  async diagnose(ref: NodeRef): Promise<string> {
    return inTemporaryFolder(async (folder) => {
      const file = join(folder, "console");
      const there = await this.volumes.download(consoleVolume(domainName(ref)), file).catch(() => false);
      const text = there ? (await readFile(file)).subarray(-MOST_CONSOLE).toString("latin1") : "";
      // A guest may print anything; only plain text goes to people's terminals.
      const plain = stripVTControlCharacters(text).replaceAll(/[^\x20-\x7e\n]/g, "");
      return lines(plain).slice(-CONSOLE_TAIL_LINES).join("\n");
    });
  }

  private async create(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const name = domainName(ref);
    const image = ref.cluster.image[request.role];
    await using reverter = new Reverter();

    const [disk, base, console] = await Promise.all([
      this.volumes.pathOf(diskVolume(name)),
      this.volumes.pathOf(baseVolume(image.digest)),
      this.volumes.pathOf(consoleVolume(name)),
    ]);
    const made = await this.createVolumes(ref, request, base);
    reverter.add(() => this.volumes.remove(...made));

    const xml = domainXml({
      name,
      mark: markOf(ref, sha256(request.vcOut)),
      plan: request.plan,
      disk: { path: disk, base },
      devices: image.devices,
      console,
      publicNetwork: ref.cluster.plan.publicNetwork.name,
      kvm: await this.kvm(),
    });
    await this.virsh.runWithFile(["define"], xml);
    // Not before: a machine that somebody else has defined meanwhile isn't ours to undo.
    reverter.add(() => this.virsh.run(["undefine", name]));
    reverter.add(() => this.virsh.run(["destroy", name]));
    await this.startLimit(() =>
      this.virsh.sequence([
        ["autostart", name],
        ["start", name],
      ]),
    );
    reverter.succeed();
  }

  /** @returns the volumes that were made now: all of the node's but a disk that is kept */
  private async createVolumes(
    ref: NodeRef<ClusterRecord>,
    request: BootRequest,
    baseAtSite: string,
  ): Promise<string[]> {
    const name = domainName(ref);
    const console = { name: consoleVolume(name), bytes: 0 };
    if (request.keepDisk && (await this.volumes.list()).has(diskVolume(name))) {
      await this.volumes.store([console]);
      return [console.name];
    }
    const image = ref.cluster.image[request.role];
    const keys = await this.clusters.keysOf(ref.cluster.name);
    return this.clusters.withLocalBase(image, request.progress, async (base) => {
      const files = [
        { path: "/root/vc-out.xml", content: request.vcOut, mode: 0o644 },
        { path: "/etc/vc/id_ed25519", content: keys.rootKey.private, mode: 0o600 },
        { path: "/etc/vc/id_ed25519.pub", content: `${keys.rootKey.public}\n`, mode: 0o644 },
        { path: "/etc/vc/ssh_host_ed25519_key", content: keys.hostKey.private, mode: 0o600 },
        { path: "/etc/vc/ssh_host_ed25519_key.pub", content: `${keys.hostKey.public}\n`, mode: 0o644 },
      ];
      const overlay = { base, baseAtSite, size: image.size, rootOffset: image.rootOffset, files };
      return withOverlay(overlay, async (file, bytes) => {
        const disk = { name: diskVolume(name), bytes, file };
        await this.volumes.store([console, disk]);
        return [console.name, disk.name];
      });
    });
  }

  private async start(machine: Machine): Promise<void> {
    const name = machine.domain.name;
    if (machine.state === "paused") {
      await this.virsh.run(["resume", name]);
    } else if (machine.state !== "running") {
      await this.startLimit(() => this.virsh.run(["start", name]));
    }
  }

  /** Asks the guest by every way there is, then pulls the plug. */
  private async stop(machine: Machine, limits: StopLimits): Promise<void> {
    const name = machine.domain.name;
    if (machine.state === "off") {
      return;
    }
    if (limits.graceSeconds > 0 && machine.state === "running") {
      await this.virsh
        .run(["shutdown", name, "--mode", "agent"])
        .catch(() => this.virsh.run(["shutdown", name, "--mode", "acpi"]).catch(() => ""));
      const limit = Date.now() + limits.graceSeconds * 1000;
      while (Date.now() < limit) {
        const [state = ""] = await this.virsh.batch([["domstate", name]]);
        if (state.trim() === "shut off" || state.trim() === "") {
          return;
        }
        await setTimeout(500);
      }
    }
    await this.virsh.run(["destroy", name]).catch((error) => {
      if (!(error instanceof NotFound) && !/not running/.test((error as Error).message)) {
        throw error;
      }
    });
  }

  private async reshape(name: string, shape: Shape): Promise<void> {
    const memory = `${shape.memory}MiB`;
    await this.virsh.run(["setmaxmem", name, memory, "--config"]);
    await this.virsh.run(["setmem", name, memory, "--config"]);
    await this.virsh.run(["setvcpus", name, String(shape.cpus), "--config", "--maximum"]);
    await this.virsh.run(["setvcpus", name, String(shape.cpus), "--config"]);
  }

  private async setMark(ref: NodeRef<ClusterRecord>, machine: Machine, vcOutDigest: string): Promise<void> {
    const xml = nodeMetadataXml(markOf(ref, vcOutDigest));
    const where = machine.state === "running" ? ["--live", "--config"] : ["--config"];
    await this.virsh.run(["metadata", machine.domain.name, MARK_NAMESPACE, "--key", "vc", "--set", xml, ...where]);
  }

  /** @throws ForeignOwner for a machine of that name that isn't this cluster's */
  private async find(ref: NodeRef): Promise<Machine | undefined> {
    const machine = (await this.read(ref.cluster.name)).get(ref.node);
    if (machine) {
      refuseForeign(`machine ${machine.domain.name}`, machine.mark, ref.cluster);
    }
    return machine;
  }

  /** A disk without a machine says by its name alone whose it is. */
  private async refuseForeignCluster(cluster: ClusterRef): Promise<void> {
    const record = await this.clusters.find(cluster.name);
    if (record) {
      refuseForeign(`cluster ${record.name}`, record.mark, cluster);
    }
  }

  private async existing(ref: NodeRef): Promise<Machine> {
    const machine = await this.find(ref);
    if (!machine) {
      throw new NotFound(
        `node ${ref.node} of cluster ${ref.cluster.name}`,
        "its machine is gone",
        "Run `pulumi up`, which makes it again",
      );
    }
    return machine;
  }

  private async loadClusters(names: readonly string[]): Promise<Map<string, ReadonlyMap<string, Machine>>> {
    const [all = "", autostarted = "", states = ""] = await this.virsh.batch([
      ["list", "--all", "--name"],
      ["list", "--all", "--autostart", "--name"],
      ["domstats", "--state"],
    ]);
    const clusters = new Map<string, Map<string, Machine>>(names.map((name) => [name, new Map()]));
    const found = lines(all).flatMap((domain) => {
      const match = /^([a-z][a-z0-9-]*)-(frontend|compute-\d+)$/.exec(domain);
      const nodes = match && clusters.get(match[1] ?? "");
      return nodes ? [{ domain, node: match[2] ?? "", nodes }] : [];
    });
    const documents = await this.virsh.batch(found.map(({ domain }) => ["dumpxml", domain]));
    const autostart = new Set(lines(autostarted));
    const stateOf = parseStates(states);
    found.forEach(({ domain, node, nodes }, index) => {
      const xml = documents[index] ?? "";
      if (!xml.trim()) {
        return; // Gone between the two runs.
      }
      const observed = parseDomain(xml);
      nodes.set(node, {
        domain: observed,
        state: stateOf.get(domain) ?? "unknown",
        machineId: observed.uuid,
        cpus: observed.cpus,
        memory: observed.memory,
        macs: observed.macs,
        autostart: autostart.has(domain),
        vcOutDigest: observed.mark?.vcOutDigest ?? "",
        ...(observed.mark && { mark: observed.mark.mark }),
      });
    });
    return clusters;
  }
}

function markOf(ref: NodeRef<ClusterRecord>, vcOutDigest: string): NodeMark {
  return { cluster: ref.cluster.name, node: ref.node, mark: ref.cluster.mark, vcOutDigest };
}

function domainName({ cluster, node }: NodeRef): string {
  return `${cluster.name}-${node}`;
}

function diskVolume(domain: string): string {
  return `${domain}.qcow2`;
}

function consoleVolume(domain: string): string {
  return `${domain}.console`;
}

function lines(text: string): string[] {
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
