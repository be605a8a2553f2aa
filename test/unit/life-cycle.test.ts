import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import type { ClusterRecord, Mark } from "../../provider/src/drivers/driver";
import { ForeignOwner, Unreachable, WrongSite } from "../../provider/src/drivers/errors";
import { MemoryDriver } from "../../provider/src/drivers/memory";
import { type MemoryMachine, type MemorySite, memorySite } from "../../provider/src/drivers/memory/site";
import { overlap, subnet } from "../../provider/src/plan/addresses";
import { type ClusterPlan, macsOf, SITE_DECIDES } from "../../provider/src/plan/plan";
import { PartialFailure, type Properties } from "../../provider/src/resources/host";
import { readVcOut } from "../../provider/src/vc-out/read";
import { makeFakeDisk } from "../conformance/fake-guest";
import { failure } from "../failure";
import { CheckFailed, directLifeCycles, Stack, type State, UNKNOWN } from "./stack";

const [KEY = "", OTHER_KEY = ""] = ["k", "l"].map((letter) => {
  const bytes = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${letter.repeat(32)}`, "latin1");
  return `ssh-ed25519 ${bytes.toString("base64")} tester`;
});
const DOMAIN = (disk: string) =>
  `<domain><devices><disk device="disk"><driver type="raw"/><source file="${disk}"/></disk></devices></domain>`;
const VC_IN = `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/>
  <frontend>${DOMAIN("frontend.raw")}</frontend><compute>${DOMAIN("compute.raw")}</compute></vc>`;

describe("the life of a cluster", () => {
  let folder: string;
  let repository: string;
  let site: MemorySite;
  let siteName: string;
  let stack: Stack;
  let serial = 0;
  let args: Properties;
  const log = console.log;
  const homeBefore = process.env.VIRTUAL_CLUSTER_HOME;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "life-cycle-"));
    process.env.VIRTUAL_CLUSTER_HOME = join(folder, "home");
    repository = join(folder, "images");
    for (const image of ["demo", "other"]) {
      await mkdir(join(repository, image), { recursive: true });
      await writeFile(join(repository, image, "vc-in.xml"), VC_IN);
      await makeFakeDisk(join(repository, image, "frontend.raw"), { virtio: true, heedsPowerButton: false });
      await makeFakeDisk(join(repository, image, "compute.raw"), { virtio: true, heedsPowerButton: false });
    }
    await writeFile(join(repository, "vcdb.txt"), "demo,demo/vc-in.xml\nother,other/vc-in.xml\n");
  });

  after(async () => {
    if (homeBefore === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    } else {
      process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
    }
    await rm(folder, { recursive: true });
  });

  beforeEach(() => {
    // The provider prints its progress; what tests print comes through again in between.
    console.log = () => undefined;
    freshSite();
    args = { image: "demo", repository, numCpus: 2, publicKey: KEY };
  });

  afterEach(() => {
    console.log = log;
  });

  function freshSite(): void {
    serial += 1;
    siteName = `life-cycle-${serial}`;
    site = memorySite(siteName);
    site.siteId = siteName;
    stack = stackOf();
  }

  function stackOf(identity: Properties = {}, config: Readonly<Record<string, string>> = {}): Stack {
    return new Stack(
      directLifeCycles({
        "virtual-cluster:site": JSON.stringify({ driver: "memory", name: siteName }),
        "virtual-cluster:owner": "tester@example",
        ...config,
      }),
      identity,
    );
  }

  function expectEmptySite(): void {
    const { networks, leases, keys, bases, disks, machines } = site;
    const left = [networks, leases, keys, bases, disks, machines].flatMap((things) => [...things.keys()]);
    expect(left, "left at the site").to.deep.equal([]);
  }

  function machine(node: string, cluster = "docking-dev-dock"): MemoryMachine {
    const found = site.machines.get(`${cluster}/${node}`);
    if (!found) {
      throw new Error(`no machine ${node}; there are ${[...site.machines.keys()].join(", ") || "none"}`);
    }
    return found;
  }

  /** Ends the provider, so to speak, at its next change of the site but `steps`. */
  function interruptAfter(steps: number): void {
    let left = steps;
    site.beforeStep = () => {
      if (left-- <= 0) {
        throw new Error("interrupted by the test");
      }
    };
  }

  function letThrough(): void {
    site.beforeStep = () => undefined;
  }

  /** What the provider prints meanwhile. */
  async function sayings(work: () => Promise<unknown>): Promise<string> {
    const lines: string[] = [];
    console.log = (line: string) => void lines.push(line);
    try {
      await work();
    } finally {
      console.log = () => undefined;
    }
    return lines.join("\n");
  }

  // ── A preview ────────────────────────────────────────────────────────────────────────────────────────────────────

  describe("preview", () => {
    it("fills in the whole plan and every default, and makes nothing", async () => {
      const inputs = await stack.preview({ image: "demo", repository, numCpus: 3, cpusPerNode: 2, publicKey: KEY });
      expect(inputs).to.deep.include({
        clusterName: "docking-dev-dock",
        owner: "tester@example",
        siteId: siteName,
        memoryPerNode: 512,
        frontend: { cpus: 1, memory: 512 },
        keepBaseImage: false,
        retainDisks: false,
        publicKey: KEY,
      });
      expect(inputs.plan.frontend).to.include.all.keys("name", "publicIp", "privateIp", "privateMac", "cpus", "memory");
      expect(inputs.plan.computes.map(({ name, cpus }) => [name, cpus])).to.deep.equal([
        ["compute-0", 2],
        ["compute-1", 2],
      ]);
      expectEmptySite();
    });

    it("makes only a frontend when numCpus is left out", async () => {
      expect((await stack.preview({ image: "demo", repository, publicKey: KEY })).plan.computes).to.deep.equal([]);
    });

    it("shows what up then makes", async () => {
      const { plan } = await stack.preview(args);
      await stack.up(args);
      expect(stack.cluster.plan).to.deep.equal(plan);
      expect(site.networks.get("docking-dev-dock")).to.deep.include({ plan });
      expect(machine("frontend").macs).to.deep.equal([plan.frontend.privateMac, plan.frontend.publicMac]);
    });

    it("shows the same when nothing has changed, and keeps what a default was at first", async () => {
      await stack.up(args);
      const inputs = stack.state.get("cluster")?.inputs;
      const elsewhere = stackOf({}, { "virtual-cluster:owner": "somebody@else" });
      elsewhere.state.set("cluster", stack.state.get("cluster") as never);
      const { publicKey: _, ...withoutKey } = args;
      expect(await elsewhere.preview(withoutKey)).to.deep.equal(inputs);
    });

    it("keeps what the site holds when the state is lost", async () => {
      await stack.up(args);
      const { plan } = stack.cluster;
      stack.state.clear();
      expect((await stack.preview(args)).plan).to.deep.equal(plan);
    });

    it("waits with the plan for what is unknown yet, and asks no site", async () => {
      const requests = site.requests;
      const inputs = await stack.preview({ ...args, image: UNKNOWN, frontend: { cpus: UNKNOWN } });
      expect(inputs).to.deep.include({ image: UNKNOWN, numCpus: 2 });
      expect(inputs).to.not.have.property("plan");
      expect(site.requests).to.equal(requests);
    });

    it("needs the repository no more when the cluster is there", async () => {
      await stack.up(args);
      expect(await stack.up({ ...args, repository: join(folder, "gone"), numCpus: 1 })).to.include("update cluster");
    });

    it("asks the site a bounded number of times, however large the cluster", async () => {
      const requestsFor = async (numCpus: number) => {
        const before = site.requests;
        await stack.preview({ ...args, numCpus, memoryPerNode: 64 });
        return site.requests - before;
      };
      expect(await requestsFor(60)).to.equal(await requestsFor(1));
    });
  });

  // ── What check refuses ───────────────────────────────────────────────────────────────────────────────────────────

  describe("bad input", () => {
    const refused: Record<string, [() => Properties | Promise<Properties>, string, RegExp]> = {
      "an unknown vc name": [() => ({ image: "dmeo" }), "image", /"dmeo".*demo, other/],
      "an empty vc name": [() => ({ image: "" }), "image", /image/],
      "a repository that isn't there": [() => ({ repository: join(folder, "nowhere") }), "repository", /nowhere/],
      "negative numCpus": [() => ({ numCpus: -1 }), "numCpus", /must not be negative.*-1/],
      "fractional numCpus": [() => ({ numCpus: 1.5 }), "numCpus", /whole number/],
      "numCpus that isn't a number": [() => ({ numCpus: "two" }), "numCpus", /whole number/],
      "no cpus per node": [() => ({ cpusPerNode: 0 }), "cpusPerNode", /at least 1/],
      "more cpus than the site has": [() => ({ numCpus: 64 }), "numCpus", /65 cpus.*64 of 64/],
      "more computes than a network holds": [() => ({ numCpus: 5000 }), "numCpus", /cpusPerNode/],
      "more cpus than a node can have": [() => ({ numCpus: 17, cpusPerNode: 17 }), "cpusPerNode", /at most 16/],
      "a frontend larger than a node can be": [() => ({ frontend: { cpus: 17 } }), "frontend", /at most 16/],
      "more memory than the site has": [() => ({ memoryPerNode: 262_144 }), "memoryPerNode", /MiB/],
      "too little memory to boot": [() => ({ memoryPerNode: 8 }), "memoryPerNode", /at least 64 MiB/],
      "a frontend with too little memory": [() => ({ frontend: { memory: 8 } }), "frontend.memory", /at least 64 MiB/],
      "a public address outside the site's": [
        () => ({ publicIp: "192.0.2.1" }),
        "publicIp",
        /192\.0\.2\.1.*198\.51\.100\.10/,
      ],
      "a public address that is none": [
        () => ({ publicIp: "198.51.100.400" }),
        "publicIp",
        /IPv4.*"198\.51\.100\.400"/,
      ],
      "a public address in use": [
        async () => {
          const other = stackOf({ name: "holder" });
          await other.up({ ...args, publicIp: "198.51.100.12" });
          return { publicIp: "198.51.100.12" };
        },
        "publicIp",
        /in use by cluster docking-dev-holder/,
      ],
      "a malformed key": [() => ({ publicKey: "ssh-ed25519 AAAA" }), "publicKey", /not a public ssh key/],
      "a private key": [
        () => ({ publicKey: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----" }),
        "publicKey",
        /is a private key/,
      ],
      "the file of a private key": [
        async () => {
          await writeFile(join(folder, "id"), "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n");
          return { publicKey: join(folder, "id") };
        },
        "publicKey",
        /is a private key/,
      ],
      "a key file that isn't there": [() => ({ publicKey: join(folder, "nobody.pub") }), "publicKey", /nobody\.pub/],
      "a cluster name in upper case": [() => ({ clusterName: "Dock" }), "clusterName", /lower-case.*"Dock"/],
      "a cluster name that ends with a dash": [() => ({ clusterName: "dock-" }), "clusterName", /dash.*"dock-"/],
      "the name of a compute": [() => ({ clusterName: "compute-1" }), "clusterName", /compute-1/],
      "the name that every machine has for itself": [
        () => ({ clusterName: "localhost" }),
        "clusterName",
        /"localhost"/,
      ],
      "an unknown dialect": [() => ({ vcOutDialect: "C" }), "vcOutDialect", /"A" or "B".*"C"/],
      "a cluster name that is too long": [() => ({ clusterName: "d".repeat(64) }), "clusterName", /63/],
      "a libvirt that isn't there": [
        () => ({ site: { driver: "libvirt", uri: `qemu:///system?socket=${join(folder, "nobody")}` } }),
        "site",
        /libvirt/,
      ],
      "a URI that isn't libvirt's": [
        () => ({ site: { driver: "libvirt", uri: "http://x" } }),
        "site.uri",
        /qemu:\/\/\/system/,
      ],
      "an unknown driver": [() => ({ site: { driver: "cloud" } }), "site.driver", /libvirt/],
      "an unknown setting of the site": [
        () => ({ site: { driver: "memory", colour: "red" } }),
        "site.colour",
        /colour/,
      ],
      "public addresses that are none": [
        () => ({ site: { driver: "libvirt", uri: "qemu:///x?socket=/x", publicAddresses: ["nonsense"] } }),
        "site.publicAddresses",
        /"nonsense"/,
      ],
      "a netmask with holes": [
        () => ({ site: { driver: "libvirt", uri: "qemu:///x?socket=/x", netmask: "255.0.255.0" } }),
        "site.netmask",
        /netmask/,
      ],
      "a property that doesn't exist": [() => ({ numCPUs: 2 }), "numCPUs", /numCPUs is not a property/],
      "a wrong type": [() => ({ keepBaseImage: "yes" }), "keepBaseImage", /boolean/],
    };
    for (const [what, [make, property, reason]] of Object.entries(refused)) {
      it(`is refused with ${what}, in one sentence that names ${property}`, async () => {
        const given = await make();
        const machines = site.machines.size;
        const error = await failure<CheckFailed>(stack.preview({ ...args, ...given }));
        expect(error).to.be.instanceOf(CheckFailed);
        expect(error.failures).to.have.length(1);
        expect(error.failures[0]?.property).to.equal(property);
        expect(error.failures[0]?.reason).to.match(reason).and.not.include("\n");
        expect(site.machines.size).to.equal(machines);
      });
    }

    it("is refused all at once where there is more than one", async () => {
      const error = await failure<CheckFailed>(stack.preview({ ...args, image: "dmeo", publicKey: "x" }));
      expect(error.failures.map(({ property }) => property).sort()).to.deep.equal(["image", "publicKey"]);
    });

    it("is refused from the configuration too", async () => {
      const garbled = stackOf({}, { "virtual-cluster:site": "{driver: memory" });
      const error = await failure<CheckFailed>(garbled.preview(args));
      expect(error.failures.map(({ property }) => property)).to.deep.equal(["site"]);
    });

    const changes: Record<string, Properties> = {
      clusterName: { clusterName: "another" },
      image: { image: "other" },
      publicIp: { publicIp: "198.51.100.40" },
      site: { site: { driver: "memory", name: "another" } },
    };
    for (const [property, change] of Object.entries(changes)) {
      it(`is refused as a change of ${property}, which would lose the frontend's data`, async () => {
        await stack.up(args);
        const error = await failure<CheckFailed>(stack.up({ ...args, ...change }));
        expect(error).to.be.instanceOf(CheckFailed);
        const failures = error.failures.filter((one) => one.property === property);
        expect(failures).to.have.length(1);
        expect(failures[0]?.reason).to.match(/can't change: .*\. .*\.$/);
        expect(machine("frontend").state).to.equal("running");
      });
    }
  });

  // ── Up, again and again ──────────────────────────────────────────────────────────────────────────────────────────

  describe("up", () => {
    it("makes everything once, says how to log in, and destroy gives everything back", async () => {
      expect(await stack.up(args)).to.deep.equal([
        "create cluster",
        "create frontend",
        "create compute-0",
        "create compute-1",
      ]);
      const { ssh, knownHosts, plan, keys } = stack.cluster;
      expect(ssh).to.match(/^ssh /).and.include(`root@${plan.frontend.publicIp}`);
      expect(knownHosts).to.equal(`${plan.frontend.publicIp} ${keys.hostKey}`);
      expect(stack.outputs("compute-1")).to.deep.include({ ready: true, state: "running" });
      expect(machine("frontend").vcOut).to.include(KEY).and.include('name="compute-1"');
      expect(machine("compute-0").vcOut).to.include('name="compute-0"').and.not.include("compute-1");
      await stack.destroy();
      expectEmptySite();
    });

    it("does nothing when nothing has changed", async () => {
      await stack.up(args);
      const machines = structuredClone([...site.machines]);
      expect(await stack.up(args)).to.deep.equal([]);
      await stack.refresh();
      expect(await stack.up(args), "after a refresh").to.deep.equal([]);
      expect([...site.machines]).to.deep.equal(machines);
    });

    it("grows: the frontend in place, new computes, and the others untouched", async () => {
      await stack.up(args);
      const before = structuredClone({ frontend: machine("frontend"), compute: machine("compute-1") });
      expect(await stack.up({ ...args, numCpus: 4 })).to.deep.equal([
        "update cluster",
        "update frontend",
        "create compute-2",
        "create compute-3",
      ]);
      expect(machine("frontend").machineId).to.equal(before.frontend.machineId);
      expect(machine("frontend").vcOut).to.include('name="compute-3"');
      expect(machine("compute-1")).to.deep.equal(before.compute);
      await stack.destroy();
      expectEmptySite();
    });

    it("shrinks: the frontend forgets the computes before they go", async () => {
      await stack.up({ ...args, numCpus: 3 });
      expect(await stack.up({ ...args, numCpus: 1 })).to.deep.equal([
        "update cluster",
        "update frontend",
        "delete compute-1",
        "delete compute-2",
      ]);
      expect([...site.machines.keys()]).to.deep.equal(["docking-dev-dock/frontend", "docking-dev-dock/compute-0"]);
      await stack.destroy();
      expectEmptySite();
    });

    it("gives nodes another shape and keeps their disks", async () => {
      await stack.up(args);
      const disks = [...site.disks];
      await stack.up({ ...args, numCpus: 4, cpusPerNode: 2, memoryPerNode: 1024, frontend: { cpus: 2, memory: 768 } });
      expect(machine("compute-1").shape).to.deep.equal({ cpus: 2, memory: 1024 });
      expect(machine("frontend").shape).to.deep.equal({ cpus: 2, memory: 768 });
      expect([...site.disks]).to.deep.equal(disks);
    });

    it("gives every node a vc-out.xml in another dialect, in place", async () => {
      await stack.up(args);
      const ids = [...site.machines.values()].map(({ machineId }) => machineId);
      expect(await stack.up({ ...args, vcOutDialect: "A" })).to.deep.equal([
        "update cluster",
        "update frontend",
        "update compute-0",
        "update compute-1",
      ]);
      expect([...site.machines.values()].map(({ vcOut }) => readVcOut(vcOut).dialect)).to.deep.equal(["A", "A", "A"]);
      expect([...site.machines.values()].map(({ machineId }) => machineId)).to.deep.equal(ids);
      await stack.refresh();
      expect(await stack.up({ ...args, vcOutDialect: "A" })).to.deep.equal([]);
      await stack.up(args);
      expect([...site.machines.values()].map(({ vcOut }) => readVcOut(vcOut).dialect)).to.deep.equal(["B", "B", "B"]);
      expect(await stack.up({ ...args, vcOutDialect: "B" }), "the same").to.have.lengthOf(4);
      expect([...site.machines.values()].map(({ vcOut }) => readVcOut(vcOut).dialect)).to.deep.equal(["B", "B", "B"]);
    });

    it("writes a vc-out.xml as the image says, unless the program does", async () => {
      const manifest = join(repository, "demo", "manifest.json");
      const dialects = () => [...site.machines.values()].map(({ vcOut }) => readVcOut(vcOut).dialect);
      await writeFile(manifest, JSON.stringify({ vcOutDialect: "A", disks: {} }));
      try {
        await stack.up(args);
        expect(dialects()).to.deep.equal(["A", "A", "A"]);
        expect(stack.cluster.imageRecord.compute.vcOutDialect).to.equal("A");
        await stack.up({ ...args, vcOutDialect: "B" });
        expect(dialects()).to.deep.equal(["B", "B", "B"]);
      } finally {
        await rm(manifest);
      }
      await stack.up(args);
      expect(dialects(), "what was recorded counts, whatever the repository says now").to.deep.equal(["A", "A", "A"]);
    });

    it("gives every node a new public key's vc-out.xml", async () => {
      await stack.up(args);
      const done = await stack.up({ ...args, publicKey: OTHER_KEY });
      expect(done).to.deep.equal(["update cluster", "update frontend", "update compute-0", "update compute-1"]);
      for (const node of ["frontend", "compute-0", "compute-1"]) {
        expect(machine(node).vcOut, node).to.include(`<key>${OTHER_KEY}</key>`).and.not.include(KEY);
      }
      expect(await stack.up({ ...args, publicKey: OTHER_KEY })).to.deep.equal([]);
      expect(site.networks.get("docking-dev-dock")).to.deep.include({ publicKeys: [OTHER_KEY] });
    });

    it("starts a machine that was turned off behind its back, after a refresh", async () => {
      await stack.up(args);
      machine("compute-0").state = "off";
      await stack.refresh();
      expect(stack.outputs("compute-0")).to.deep.include({ state: "off", ready: false });
      expect(await stack.up(args)).to.deep.equal(["update compute-0"]);
      expect(machine("compute-0").state).to.equal("running");
      expect(stack.outputs("compute-0").ready).to.equal(true);
    });

    it("makes a machine again that is gone, after a refresh", async () => {
      await stack.up(args);
      site.machines.delete("docking-dev-dock/compute-0");
      await stack.refresh();
      expect(stack.state.has("compute-0")).to.equal(false);
      expect(await stack.up(args)).to.deep.equal(["create compute-0"]);
    });

    it("keeps the data on the frontend's disk when its machine is gone, after a refresh", async () => {
      await stack.up(args);
      const disk = site.disks.get("docking-dev-dock/frontend");
      site.machines.delete("docking-dev-dock/frontend");
      await stack.refresh();
      expect(stack.outputs("frontend")).to.deep.include({ state: "missing", ready: false });
      expect(await stack.up(args)).to.deep.equal(["update frontend"]);
      expect(machine("frontend").state).to.equal("running");
      expect(site.disks.get("docking-dev-dock/frontend")).to.equal(disk);
    });

    it("gives back the shape that somebody changed", async () => {
      await stack.up(args);
      machine("compute-1").shape = { cpus: 1, memory: 64 };
      await stack.refresh();
      expect(await stack.up(args)).to.deep.equal(["update compute-1"]);
      expect(machine("compute-1").shape).to.deep.equal({ cpus: 1, memory: 512 });
    });

    it("makes the network again that is gone, around the machines that are left", async () => {
      await stack.up(args);
      const { machineId } = machine("frontend");
      site.networks.clear();
      await stack.refresh();
      expect(stack.state.has("cluster"), "while something with its mark is left").to.equal(true);
      await stack.up(args);
      expect(site.networks.has("docking-dev-dock")).to.equal(true);
      expect(machine("frontend").machineId).to.equal(machineId);
      await stack.destroy();
      expectEmptySite();
    });

    it("keeps its address when network and machines are gone, after a refresh", async () => {
      await stack.up(args);
      const addresses = [...site.leases.keys()];
      site.networks.clear();
      site.machines.clear();
      await stack.refresh();
      await stack.up(args);
      expect([...site.leases.keys()]).to.deep.equal(addresses);
      await stack.destroy();
      expectEmptySite();
    });

    it("hands its new vc-out.xml to a frontend that was off when the cluster grew", async () => {
      await stack.up(args);
      machine("frontend").state = "off";
      await stack.up({ ...args, numCpus: 3 });
      expect(machine("frontend").vcOut).to.include('name="compute-2"');
      expect(stack.outputs("frontend").ready).to.equal(true);
    });

    it("leaves a frontend without a channel its new vc-out.xml for its next boot, and says so", async () => {
      await stack.up(args);
      Object.assign(machine("frontend"), { takesVcOut: false, healthy: false });
      const old = machine("frontend").vcOut;
      const said = await sayings(() => stack.up({ ...args, numCpus: 3 }));
      expect(said).to.match(/frontend: its new vc-out.xml waits for its next start/);
      expect(stack.outputs("frontend")).to.deep.include({ ready: true, vcOut: "nextBoot" });
      expect(machine("frontend").vcOut).to.equal(old);
      expect(await stack.up({ ...args, numCpus: 3 })).to.deep.equal([]);

      await stack.up({ ...args, numCpus: 3, power: "off" });
      machine("frontend").healthy = true;
      await stack.up({ ...args, numCpus: 3 });
      expect(machine("frontend").vcOut).to.include('name="compute-2"');
      expect(stack.outputs("frontend")).to.not.have.property("vcOut");
    });

    it("says by which way a running frontend gets its new vc-out.xml", async () => {
      await stack.up(args);
      const said = await sayings(() => stack.up({ ...args, numCpus: 3 }));
      expect(said).to.match(/frontend: its new vc-out.xml goes through the guest agent, while it runs/);
    });

    it("waits for nothing when it is told so", async () => {
      site.beforeStep = (step) => {
        if (step === "start machine") {
          spoil();
        }
      };
      await stack.up({ ...args, waitFor: "none" });
      expect(stack.state.size).to.equal(5);
    });
  });

  /** No machine that is there now gets ready. */
  function spoil(): void {
    for (const one of site.machines.values()) {
      Object.assign(one, { healthy: false, console: "Kernel panic" });
    }
  }

  describe("a node that doesn't get ready", () => {
    it("is in the state with id, __provider and ready: false; the next up repairs it", async () => {
      site.beforeStep = (step) => {
        if (step === "start machine") {
          spoil();
        }
      };
      const error = await failure<PartialFailure>(stack.up(args));
      expect(error).to.be.instanceOf(PartialFailure);
      expect(error.id).to.equal(`${stack.state.get("cluster")?.id}/frontend`);
      expect(error.properties).to.deep.include({ __provider: "text of the shim", ready: false, node: "frontend" });
      expect(error.reasons.join())
        .to.match(/frontend/)
        .and.include("Kernel panic");

      letThrough();
      const { machineId } = machine("frontend");
      machine("frontend").healthy = true;
      expect(await stack.up(args)).to.deep.equal(["update frontend", "create compute-0", "create compute-1"]);
      expect(machine("frontend").machineId).to.equal(machineId);
      expect(stack.outputs("frontend").ready).to.equal(true);
    });

    it("can be destroyed", async () => {
      site.beforeStep = (step) => {
        if (step === "start machine") {
          spoil();
        }
      };
      await failure(stack.up(args));
      letThrough();
      await stack.destroy();
      expectEmptySite();
    });
  });

  // ── A cluster that lives ─────────────────────────────────────────────────────────────────────────────────────────

  describe("another shape", () => {
    it("is said in the preview to change while the machine runs where it can, else to need a restart", async () => {
      await stack.up({ ...args, memoryPerNode: 512, frontend: { cpus: 1, memory: 512 } });
      const live = await sayings(() => stack.up({ ...args, memoryPerNode: 256, frontend: { cpus: 2, memory: 512 } }));
      expect(live).to.match(/frontend: cpus 1 → 2: changes while the machine runs/);
      expect(live).to.match(/compute-0: memory 512 → 256: changes while the machine runs/);
      expect([...site.machines.values()].map(({ boots }) => boots)).to.deep.equal([1, 1, 1]);

      const restart = await sayings(() =>
        stack.up({ ...args, memoryPerNode: 1024, frontend: { cpus: 2, memory: 512 } }),
      );
      expect(restart).to.match(/compute-0: memory 256 → 1024: needs a restart/);
      expect(machine("compute-0")).to.deep.include({ boots: 2, shape: { cpus: 1, memory: 1024 } });
      expect(machine("frontend").boots).to.equal(1);
    });

    it("of computes alone doesn't touch the frontend", async () => {
      await stack.up(args);
      expect(await stack.up({ ...args, memoryPerNode: 256 })).to.deep.equal([
        "update cluster",
        "update compute-0",
        "update compute-1",
      ]);
    });

    it("grows disks in place, keeps a grown one that is asked for no more, and is refused where one would shrink", async () => {
      await stack.up({ ...args, diskSize: 32 });
      const disks = [...site.disks];
      await stack.up({ ...args, diskSize: 64, frontend: { diskSize: 128 } });
      expect(Object.fromEntries(site.diskSizes)).to.deep.equal({
        "docking-dev-dock/frontend": 128,
        "docking-dev-dock/compute-0": 64,
        "docking-dev-dock/compute-1": 64,
      });
      expect([...site.disks]).to.deep.equal(disks);
      await stack.up({ ...args, numCpus: 3 });
      expect(site.diskSizes.get("docking-dev-dock/compute-2")).to.equal(64);

      const error = await failure<CheckFailed>(stack.up({ ...args, diskSize: 32, frontend: { diskSize: 64 } }));
      expect(error.failures.map(({ property }) => property)).to.have.members(["diskSize", "frontend.diskSize"]);
      expect(error.message)
        .to.match(/from 64 to 32/)
        .and.match(/from 128 to 64/)
        .and.match(/never shrinks/);
    });

    it("is refused as a disk that its image doesn't fit on", async () => {
      const error = await failure<CheckFailed>(stack.preview({ ...args, diskSize: 8 }));
      expect(error.failures.map(({ property }) => property)).to.deep.equal(["diskSize"]);
      expect(error.message).to.include("16 MiB");
    });
  });

  describe("power", () => {
    it("off shuts everything down, computes first, and on brings the same machines and disks back", async () => {
      await stack.up(args);
      const disks = [...site.disks];
      const ids = [...site.machines.values()].map(({ machineId }) => machineId);
      const order: string[] = [];
      site.beforeStep = (step) => void (step === "shut down" && order.push([...running()].join()));
      expect(await stack.up({ ...args, power: "off" })).to.deep.equal([
        "update cluster",
        "update frontend",
        "update compute-0",
        "update compute-1",
      ]);
      expect(order.at(-1)).to.equal("docking-dev-dock/frontend");
      letThrough();
      expect([...site.machines.values()].map(({ state }) => state)).to.deep.equal(["off", "off", "off"]);
      expect(stack.outputs("compute-0")).to.deep.include({ state: "off", ready: true, power: "off" });
      await stack.refresh();
      expect(await stack.up({ ...args, power: "off" }), "off is how it should be").to.deep.equal([]);

      await stack.up(args);
      expect(running()).to.have.length(3);
      expect([...site.disks]).to.deep.equal(disks);
      expect([...site.machines.values()].map(({ machineId }) => machineId)).to.deep.equal(ids);
      expect(await stack.up(args)).to.deep.equal([]);
      await stack.destroy();
      expectEmptySite();
    });

    it("off takes no room at the site, and no machine starts with its host", async () => {
      await stack.up({ ...args, power: "off" });
      site.cpus = 1;
      await stack.up({ ...args, power: "off", numCpus: 3 });
      expect([...site.machines.values()].map(({ autostart }) => autostart)).to.deep.equal([false, false, false, false]);
      const error = await failure<CheckFailed>(stack.up({ ...args, numCpus: 3 }));
      expect(error.message).to.match(/4 cpus: the site has 1 of 1 free/);
      site.cpus = 64;
      await stack.up({ ...args, numCpus: 3 });
      expect([...site.machines.values()].map(({ autostart }) => autostart)).to.deep.equal([true, true, true, true]);
    });

    it("off keeps new computes off, and a machine that somebody turned on is turned off again", async () => {
      await stack.up({ ...args, power: "off" });
      expect(running()).to.deep.equal([]);
      machine("compute-1").state = "running";
      await stack.refresh();
      expect(await stack.up({ ...args, power: "off", numCpus: 3 })).to.include.members([
        "update compute-1",
        "create compute-2",
      ]);
      expect(running()).to.deep.equal([]);
    });
  });

  function running(): string[] {
    return [...site.machines].flatMap(([key, { state }]) => (state === "running" ? [key] : []));
  }

  describe("drift", () => {
    const drifts: Record<string, [() => unknown, string, RegExp]> = {
      "a network that was stopped": [
        () => site.stoppedNetworks.add("docking-dev-dock"),
        "cluster",
        /its private network is stopped/,
      ],
      "a lost lease": [
        () => site.leases.clear(),
        "cluster",
        /the lease of its public address 198\.51\.100\.\d+ is gone/,
      ],
      "a lost base image": [() => site.bases.clear(), "cluster", /its base image is gone/],
      "a frontend that doesn't start with its host": [
        () => {
          machine("frontend").autostart = false;
        },
        "frontend",
        /doesn't start with its host/,
      ],
      "a compute that was killed": [
        () => {
          machine("compute-1").state = "off";
        },
        "compute-1",
        /"state":"off"/,
      ],
      "a compute with other memory": [
        () => {
          machine("compute-0").shape = { cpus: 1, memory: 64 };
        },
        "compute-0",
        /"memory":64/,
      ],
      "a compute with other memory from its next start on": [
        () => {
          machine("compute-0").nextStart = { cpus: 1, memory: 64 };
        },
        "compute-0",
        /from its next start on it would have cpus 1 and memory 64/,
      ],
    };
    for (const [what, [spoilt, resource, shown]] of Object.entries(drifts)) {
      it(`of ${what} is shown by refresh, and repaired by the next up, which changes nothing else`, async () => {
        await stack.up(args);
        const ids = [...site.machines].map(([key, { machineId }]) => [key, machineId]);
        spoilt();
        await stack.refresh();
        expect(JSON.stringify(stack.outputs(resource)))
          .to.match(shown)
          .and.include('"ready":false');
        expect(await stack.up(args)).to.deep.equal([`update ${resource}`]);
        expect(stack.outputs(resource)).to.deep.include({ ready: true }).and.not.to.have.property("drift");
        await stack.refresh();
        expect(await stack.up(args)).to.deep.equal([]);
        expect([...site.machines].map(([key, { machineId }]) => [key, machineId])).to.deep.equal(ids);
        await stack.destroy();
        expectEmptySite();
      });
    }

    it("is noticed and repaired by up without a refresh before", async () => {
      await stack.up(args);
      site.stoppedNetworks.add("docking-dev-dock");
      machine("frontend").autostart = false;
      machine("compute-0").state = "off";
      site.machines.delete("docking-dev-dock/compute-1");
      const said = await sayings(() => stack.up(args));
      expect(stack.done).to.deep.equal(["update cluster", "update frontend", "update compute-0", "update compute-1"]);
      expect(said).to.match(/dock: will be mended: its private network is stopped/);
      expect(said)
        .to.match(/compute-0: its machine is off/)
        .and.match(/compute-1: its machine is missing/);
      expect(running()).to.have.length(3);
      expect(await stack.up(args)).to.deep.equal([]);
    });

    it("of a compute that is gone with its disk makes only that one again", async () => {
      await stack.up(args);
      site.machines.delete("docking-dev-dock/compute-0");
      site.disks.delete("docking-dev-dock/compute-0");
      await stack.refresh();
      expect(await stack.up(args)).to.deep.equal(["create compute-0"]);
    });
  });

  describe("an address", () => {
    it("may be asked for that the cluster has already, and asked for no more", async () => {
      await stack.up(args);
      const { publicIp } = stack.cluster.plan.frontend;
      expect(await stack.up({ ...args, publicIp })).to.deep.equal(["update cluster"]);
      await stack.up(args);
      expect(stack.cluster.plan.frontend.publicIp).to.equal(publicIp);
    });
  });

  describe("another image", () => {
    it("rolls the computes where that is allowed, keeps the frontend, and gives the former image back", async () => {
      await stack.up(args);
      const { machineId } = machine("frontend");
      const refused = await failure<CheckFailed>(stack.up({ ...args, image: "other" }));
      expect(refused.message).to.include('allowReplace: "computes"');

      const rolled = { ...args, image: "other", allowReplace: "computes" };
      expect(await stack.up(rolled)).to.deep.equal([
        "update cluster",
        ...["delete compute-0", "delete compute-1", "create compute-0", "create compute-1"],
      ]);
      expect(machine("frontend").machineId).to.equal(machineId);
      const { imageRecord } = stack.cluster;
      expect(imageRecord).to.deep.include({ vcName: "demo", computeVcName: "other" });
      expect(machine("compute-0").base).to.equal(imageRecord.compute.digest);
      expect([...site.bases.keys()].sort()).to.deep.equal(
        [imageRecord.frontend.digest, imageRecord.compute.digest].sort(),
      );
      expect(await stack.up(rolled)).to.deep.equal([]);
      await stack.destroy();
      expectEmptySite();
    });
  });

  describe("computes that don't get ready", () => {
    /** Each of these never gets ready, however often it is made. */
    function spoilNew(...nodes: string[]): void {
      site.beforeStep = (step) => {
        if (step === "start machine") {
          for (const node of nodes) {
            const one = site.machines.get(`docking-dev-dock/${node}`);
            Object.assign(one ?? {}, { healthy: false, console: "No bootable device." });
          }
        }
      };
    }

    it("leave their siblings finished, are named with their console, and are all that the next up repairs", async () => {
      spoilNew("compute-2");
      const error = await failure<PartialFailure>(stack.up({ ...args, numCpus: 4 }));
      expect(error).to.be.instanceOf(PartialFailure);
      expect(error.message)
        .to.match(/compute-2/)
        .and.include("No bootable device.")
        .and.match(/pulumi up/);
      expect(stack.outputs("compute-3").ready).to.equal(true);
      expect(stack.outputs("compute-2")).to.deep.include({ ready: false, state: "not ready" });
      await stack.refresh();
      expect(stack.outputs("compute-2").state).to.equal("not ready");

      letThrough();
      const { machineId } = machine("compute-2");
      const said = await sayings(() => stack.up({ ...args, numCpus: 4 }));
      expect(said).to.match(/compute-2: didn't get ready last time: it will be made anew unless it is ready by now/);
      expect(stack.done).to.deep.equal(["update compute-2"]);
      expect(machine("compute-2").machineId).to.not.equal(machineId);
      expect(stack.outputs("compute-2")).to.deep.include({ ready: true, state: "running" });
      await stack.destroy();
      expectEmptySite();
    });

    it("are kept where they only needed more time", async () => {
      spoilNew("compute-1");
      await failure(stack.up(args));
      letThrough();
      machine("compute-1").healthy = true;
      const { machineId } = machine("compute-1");
      expect(await stack.up(args)).to.deep.equal(["update compute-1"]);
      expect(machine("compute-1").machineId).to.equal(machineId);
    });

    it("may be as many as minReady leaves, and the next up tries them again", async () => {
      spoilNew("compute-1", "compute-3");
      const wish = { ...args, numCpus: 4, minReady: 2 };
      const said = await sayings(() => stack.up(wish));
      expect(said).to.match(/compute-1.*counts as up without it \(minReady 2\)/);
      expect(stack.outputs("compute-1")).to.deep.include({ ready: false });
      letThrough();
      expect(await stack.up(wish)).to.deep.equal(["update compute-1", "update compute-3"]);
      expect(stack.outputs("compute-3").ready).to.equal(true);
    });

    it("may not be more than minReady leaves", async () => {
      spoilNew("compute-1", "compute-3");
      expect(await failure(stack.up({ ...args, numCpus: 4, minReady: 3 }))).to.be.instanceOf(PartialFailure);
      letThrough();
      await stack.destroy();
      expectEmptySite();
    });

    it("are refused as a minReady that there aren't enough computes for", async () => {
      const error = await failure<CheckFailed>(stack.preview({ ...args, minReady: 3 }));
      expect(error.failures).to.deep.equal([
        { property: "minReady", reason: "minReady is 3, and there are 2 computes" },
      ]);
    });
  });

  describe("a cluster whose state was lost", () => {
    it("is refused and named without adopt, and a destroy of what was begun leaves it alone", async () => {
      // A process that has seen the cluster in the state takes it for one that is being replaced.
      const driver = new MemoryDriver({ driver: "memory", name: siteName });
      const { plan, imageRecord } = await upElsewhere();
      const record = (await driver.find("docking-dev-lost")) as ClusterRecord;
      expect(record.plan).to.deep.equal(plan);
      expect(imageRecord).to.deep.equal(record.image);
      const lost = stackOf({ name: "lost" });
      const machines = structuredClone(site.machines);
      const error = await failure<CheckFailed>(lost.up(args));
      expect(error.failures.map(({ property }) => property)).to.deep.equal(["adopt"]);
      expect(error.message)
        .to.match(/adopt: true/)
        .and.match(/vc sweep/);
      await lost.destroy();
      expect(site.machines).to.deep.equal(machines);
      await lost.up({ ...args, adopt: true });
      expect([...site.machines.values()].map(({ machineId }) => machineId)).to.deep.equal(
        [...machines.values()].map(({ machineId }) => machineId),
      );
    });

    /** A cluster that no check of this process has seen in a state. */
    async function upElsewhere() {
      const elsewhere = stackOf({ name: "lost" });
      await elsewhere.up(args);
      return elsewhere.cluster;
    }

    it("is taken over with its machines and disks by adopt, and destroyed from there", async () => {
      await stack.up(args);
      stack = stackOf();
      const ids = [...site.machines.values()].map(({ machineId }) => machineId);
      const disks = [...site.disks];
      await stack.up({ ...args, adopt: true });
      expect([...site.machines.values()].map(({ machineId }) => machineId)).to.deep.equal(ids);
      expect([...site.disks]).to.deep.equal(disks);
      expect(await stack.up({ ...args, adopt: true })).to.deep.equal([]);
      await stack.destroy();
      expectEmptySite();
    });

    it("keeps a frontend's disk whose machine is gone too", async () => {
      await stack.up(args);
      stack = stackOf();
      site.machines.delete("docking-dev-dock/frontend");
      const disk = site.disks.get("docking-dev-dock/frontend");
      await stack.up({ ...args, adopt: true });
      expect(site.disks.get("docking-dev-dock/frontend")).to.equal(disk);
    });
  });

  // ── Interruption ─────────────────────────────────────────────────────────────────────────────────────────────────

  describe("an interrupted", () => {
    /** Interrupts the work at its first change of the site, then at its second, … until it gets through. */
    async function everywhere(
      prepare: () => Promise<unknown>,
      work: () => Promise<unknown>,
      then: () => Promise<unknown>,
    ) {
      for (let step = 0; ; step++) {
        freshSite();
        await prepare();
        interruptAfter(step);
        const done = await work().then(
          () => true,
          () => false,
        );
        letThrough();
        await then();
        if (done) {
          expect(step).to.be.greaterThan(3);
          return;
        }
      }
    }

    const expectWhole = (computes: number) => {
      expect(site.networks.size).to.equal(1);
      expect(site.leases.size).to.equal(1);
      expect(site.machines.size).to.equal(computes + 1);
      expect(site.disks.size).to.equal(computes + 1);
      expect([...site.machines.values()].every(({ state }) => state === "running")).to.equal(true);
      const known = [...stack.state].filter(([resource]) => resource !== "claim");
      expect(known.every(([, { outputs }]) => outputs.ready)).to.equal(true);
    };

    it("up is finished by the next one, nothing is there twice, and destroy leaves nothing", async () => {
      await everywhere(
        async () => undefined,
        () => stack.up(args),
        async () => {
          await stack.up(args);
          expectWhole(2);
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("up can be given up at once: destroy leaves nothing, whatever the state knows", async () => {
      await everywhere(
        async () => undefined,
        () => stack.up(args),
        async () => {
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("destroy may be followed by up, without a refresh", async () => {
      await everywhere(
        () => stack.up(args),
        () => stack.destroy(),
        async () => {
          await stack.up(args);
          expectWhole(2);
          expect(await stack.up(args)).to.deep.equal([]);
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("up keeps the plan that the site already holds", async () => {
      await everywhere(
        async () => undefined,
        () => stack.up(args),
        async () => {
          const [held] = site.networks.values();
          const { plan } = await stack.preview(args);
          if (held !== undefined && held !== "unmarked") {
            expect(plan).to.deep.equal(held.plan);
          }
        },
      );
    });

    it("up can be given up: destroy leaves nothing as soon as the state knows the cluster", async () => {
      await everywhere(
        async () => undefined,
        () => stack.up(args),
        async () => {
          if (stack.state.has("cluster")) {
            await stack.destroy();
            expectEmptySite();
          }
        },
      );
    });

    it("up may be followed by one that asks for something else", async () => {
      await everywhere(
        async () => undefined,
        () => stack.up({ ...args, publicIp: "198.51.100.11" }),
        async () => {
          if (stack.state.has("cluster")) {
            return; // Then check refuses it.
          }
          await stack.up({ ...args, publicIp: "198.51.100.12", image: "other", numCpus: 1 });
          expect([...site.leases.keys()]).to.deep.equal(["198.51.100.12"]);
          expect(stack.cluster.imageRecord.vcName).to.equal("other");
          expectWhole(1);
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("resize is finished by the next one", async () => {
      const grown = { ...args, numCpus: 4, memoryPerNode: 1024 };
      await everywhere(
        () => stack.up(args),
        () => stack.up(grown),
        async () => {
          await stack.up(grown);
          expectWhole(4);
          await stack.up({ ...args, numCpus: 0 });
          expectWhole(0);
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("up may be followed by one that wants fewer computes, and none is left over", async () => {
      await everywhere(
        async () => undefined,
        () => stack.up(args),
        async () => {
          await stack.up({ ...args, numCpus: 0 });
          expectWhole(0);
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("destroy may be followed by up, after a refresh", async () => {
      await everywhere(
        () => stack.up(args),
        () => stack.destroy(),
        async () => {
          await stack.refresh();
          await stack.up(args);
          expectWhole(2);
          await stack.destroy();
          expectEmptySite();
        },
      );
    });

    it("destroy is finished by the next one", async () => {
      await everywhere(
        () => stack.up(args),
        () => stack.destroy(),
        async () => {
          await stack.destroy();
          expectEmptySite();
        },
      );
    });
  });

  // ── Several, and others ──────────────────────────────────────────────────────────────────────────────────────────

  describe("clusters of one program", () => {
    it("never get the same address, planned before any is made", async () => {
      const stacks = Array.from({ length: 12 }, (_, index) => stackOf({ name: `dock-${index}` }));
      const plans = await Promise.all(stacks.map(async (one) => (await one.preview({ ...args, numCpus: 1 })).plan));
      expect(new Set(plans.map(({ frontend }) => frontend.publicIp)).size).to.equal(12);
      const nets = plans.map(({ privateNetwork }) => subnet(privateNetwork.cidr));
      expect(nets.some((one, index) => nets.slice(index + 1).some((other) => overlap(one, other)))).to.equal(false);

      await Promise.all(stacks.map((one) => one.up({ ...args, numCpus: 1 })));
      expect(site.machines.size).to.equal(24);
      await Promise.all(stacks.map((one) => one.destroy()));
      expectEmptySite();
    });

    it("share the image's disks until the last is gone", async () => {
      const other = stackOf({ name: "other" });
      await stack.up(args);
      await other.up(args);
      expect(site.bases.size).to.equal(2);
      await stack.destroy();
      expect(site.bases.size).to.equal(2);
      await other.destroy();
      expectEmptySite();
    });

    it("are told to choose a name where theirs read alike", async () => {
      await stackOf({ project: "a", stack: "b-c" }).up(args);
      const error = await failure<CheckFailed>(stackOf({ project: "a-b", stack: "c" }).preview(args));
      expect(error.failures).to.have.length(1);
      expect(error.failures[0]?.reason).to.include("clusterName").and.include("tester@example");
    });

    it("leave the image's disks at the site where they are told to", async () => {
      await stack.up({ ...args, keepBaseImage: true });
      await stack.destroy();
      expect(site.bases.size).to.equal(2);
      site.bases.clear();
      expectEmptySite();
    });
  });

  describe("destroy with retainDisks", () => {
    const DISK = "docking-dev-dock/frontend";
    const keeping = () => ({ ...args, retainDisks: true });
    let disk: string | undefined;

    beforeEach(async () => {
      // Said later than its disk was made.
      await stack.up(args);
      expect(await stack.up(keeping())).to.include("update frontend");
      disk = site.disks.get(DISK);
      await stack.destroy();
      expect([...site.disks]).to.deep.equal([[DISK, disk]]);
      expect([site.machines.size, site.networks.size, site.leases.size, site.bases.size]).to.deep.equal([0, 0, 0, 0]);
    });

    it("keeps the frontend's disk, on which a later cluster runs again that says so", async () => {
      const keys = site.keys.get("docking-dev-dock");
      const refused = await failure<CheckFailed>(stackOf().preview(args));
      expect(refused.failures.map(({ property }) => property)).to.deep.equal(["adopt"]);
      expect(refused.message).to.include("retainDisks").and.include("vc sweep");
      const stranger = stackOf({ project: "another" });
      const foreign = await failure(stranger.preview({ ...args, adopt: true, clusterName: "docking-dev-dock" }));
      expect(foreign.message).to.include("tester@example");

      await stack.up({ ...args, adopt: true });
      expect([site.disks.get(DISK), site.keys.get("docking-dev-dock")]).to.deep.equal([disk, keys]);
      await stack.destroy();
      expectEmptySite();
    });

    it("keeps it whenever a later cluster's creation is cut off and cleared away", async () => {
      for (let steps = 0; ; steps++) {
        stack = stackOf();
        interruptAfter(steps);
        const whole = await stack.up({ ...keeping(), adopt: true }).then(
          () => true,
          () => false,
        );
        site.beforeStep = () => undefined;
        await stack.destroy();
        expect([...site.disks], `after ${steps} steps`).to.deep.equal([[DISK, disk]]);
        expect([site.machines.size, site.networks.size, site.leases.size]).to.deep.equal([0, 0, 0]);
        if (whole) {
          expect(steps).to.be.greaterThan(8);
          break;
        }
      }
    });
  });

  describe("destroy", () => {
    it("works when everything is gone already", async () => {
      await stack.up(args);
      for (const things of [site.networks, site.leases, site.keys, site.bases, site.disks, site.machines]) {
        things.clear();
      }
      await stack.destroy();
      expect(stack.state.size).to.equal(0);
    });

    it("works when the image repository is gone", async () => {
      const copy = join(folder, "copy");
      await mkdir(copy);
      await writeFile(join(copy, "vcdb.txt"), "demo,demo/vc-in.xml\n");
      await mkdir(join(copy, "demo"));
      await writeFile(join(copy, "demo", "vc-in.xml"), VC_IN);
      await makeFakeDisk(join(copy, "demo", "frontend.raw"), { virtio: false, heedsPowerButton: false });
      await makeFakeDisk(join(copy, "demo", "compute.raw"), { virtio: false, heedsPowerButton: false });
      await stack.up({ ...args, repository: copy });
      await rm(copy, { recursive: true });
      await stack.destroy();
      expectEmptySite();
    });

    it("gives back what is left when the record is lost", async () => {
      await stack.up(args);
      site.networks.clear();
      await stack.destroy();
      expectEmptySite();
    });

    it("takes machines too that the state never heard of", async () => {
      await stack.up(args);
      stack.state.delete("compute-1");
      await stack.destroy();
      expectEmptySite();
    });

    it("doesn't touch a namesake of somebody else's", async () => {
      await stack.up(args);
      const network = site.networks.get("docking-dev-dock");
      const theirMark = { ...(network as { mark: Mark }).mark, owner: "somebody@else" };
      site.networks.set("docking-dev-dock", { ...(network as object), mark: theirMark } as never);
      for (const [key, one] of site.machines) {
        site.machines.set(key, { ...one, mark: theirMark });
      }
      for (const [ip, lease] of site.leases) {
        site.leases.set(ip, { ...lease, mark: theirMark });
      }
      const theirs = structuredClone([site.networks, site.machines, site.leases, site.keys, site.disks]);
      await stack.destroy();
      expect([site.networks, site.machines, site.leases, site.keys, site.disks]).to.deep.equal(theirs);
    });
  });

  describe("another's cluster of the same name", () => {
    it("is named by the preview, and left alone by up", async () => {
      await stackOf({}, { "virtual-cluster:owner": "somebody@else" }).up(args);
      const theirs = structuredClone(site.machines);
      const error = await failure<CheckFailed>(stack.up(args));
      expect(error.failures).to.have.length(1);
      expect(error.failures[0]?.reason).to.include("somebody@else").and.include("clusterName");
      expect(site.machines).to.deep.equal(theirs);
    });

    it("is refused by create too, when it came in between", async () => {
      const inputs = await stack.preview(args);
      await stackOf({}, { "virtual-cluster:owner": "somebody@else" }).up(args);
      const theirs = structuredClone(site.networks);
      const lifeCycles = stack as unknown as { step(resource: string, inputs: unknown): Promise<void> };
      expect(await failure(lifeCycles.step("cluster", inputs))).to.be.instanceOf(ForeignOwner);
      expect(site.networks).to.deep.equal(theirs);
    });
  });

  describe("two processes", () => {
    it("don't change one cluster at the same time: the second says who is at it and gives up", async () => {
      const inputs = await stack.preview(args);
      const elsewhere = new MemoryDriver({ driver: "memory", name: siteName });
      const mark = { owner: inputs.owner, organization: "o", project: "p", stack: "s", cluster: "c" };
      const lock = await elsewhere.lock({ name: inputs.clusterName, mark }, { seconds: 1, progress: () => undefined });
      let done = false;
      const up = stack.up(args).then(() => {
        done = true;
      });
      await setTimeout(200);
      expect(done, "while the lock is held").to.equal(false);
      expect(site.networks.size).to.equal(0);
      await lock[Symbol.asyncDispose]();
      await up;
      expect(site.locks.size).to.equal(0);
    });
  });

  describe("a site", () => {
    it("that doesn't answer is an error, never a cluster that is gone", async () => {
      await stack.up(args);
      const state = structuredClone([...stack.state]);
      site.reachable = false;
      expect(await failure(stack.refresh())).to.be.instanceOf(Unreachable);
      expect(await failure(stack.destroy())).to.be.instanceOf(Unreachable);
      expect((await failure<CheckFailed>(stack.up(args))).failures.map(({ property }) => property)).to.deep.equal([
        "site",
      ]);
      expect([...stack.state]).to.deep.equal(state);
      site.reachable = true;
      await stack.destroy();
      expectEmptySite();
    });

    it("that is another than the recorded one is an error, and nothing is touched", async () => {
      await stack.up(args);
      const state = structuredClone([...stack.state]);
      const machines = structuredClone(site.machines);
      site.siteId = "another host";
      expect(await failure(stack.refresh())).to.be.instanceOf(WrongSite);
      expect(await failure(stack.destroy())).to.be.instanceOf(WrongSite);
      expect((await failure<CheckFailed>(stack.up(args))).failures[0]?.property).to.equal("siteId");
      expect([...stack.state]).to.deep.equal(state);
      expect(site.machines).to.deep.equal(machines);
    });
  });

  // ── A site that decides on MACs itself ───────────────────────────────────────────────────────────────────────────

  describe("where the site decides on MACs", () => {
    const DECIDED = /^0a:64:33(:[0-9a-f]{2}){3}$/;
    const macsIn = (plan: ClusterPlan) => [...macsOf(plan).values()];

    beforeEach(() => {
      args = { ...args, site: { driver: "memory", name: siteName, macs: "site" } };
    });

    it("says so in the preview, and says the MACs after the first up", async () => {
      const { plan } = await stack.preview(args);
      expect(macsIn(plan)).to.deep.equal(Array(4).fill(SITE_DECIDES));
      await stack.up(args);
      expect(macsIn(stack.cluster.plan)).to.have.length(4);
      for (const mac of macsIn(stack.cluster.plan)) {
        expect(mac).to.match(DECIDED);
      }
    });

    it("tells the nodes and their vc-out.xml the real ones", async () => {
      await stack.up(args);
      const { frontend, computes } = stack.cluster.plan;
      expect(machine("frontend").macs).to.deep.equal([frontend.privateMac, frontend.publicMac]);
      expect(stack.outputs("frontend")).to.include({ privateMac: frontend.privateMac, publicMac: frontend.publicMac });
      expect(stack.outputs("compute-1").privateMac).to.equal(computes[1]?.privateMac);
      const { vcOut } = readVcOut(machine("frontend").vcOut);
      expect(vcOut.nics.map(({ mac }) => mac)).to.deep.equal([frontend.privateMac, frontend.publicMac]);
      expect(vcOut.role === "frontend" && vcOut.computes.map(({ nics }) => nics[0]?.mac)).to.deep.equal(
        computes.map(({ privateMac }) => privateMac),
      );
    });

    it("changes nothing when nothing has changed", async () => {
      await stack.up(args);
      const { plan } = stack.cluster;
      expect(await stack.up(args)).to.deep.equal([]);
      expect(await stack.up(args)).to.deep.equal([]);
      expect(stack.cluster.plan).to.deep.equal(plan);
    });

    it("keeps them when the cluster grows, and leaves only the new ones open", async () => {
      await stack.up(args);
      const before = stack.cluster.plan;
      const { plan } = await stack.preview({ ...args, numCpus: 3 });
      expect(plan.frontend).to.deep.equal(before.frontend);
      expect(plan.computes.map(({ privateMac }) => privateMac)).to.deep.equal([
        ...before.computes.map(({ privateMac }) => privateMac),
        SITE_DECIDES,
      ]);
      expect(await stack.up({ ...args, numCpus: 3 })).to.have.members([
        "update cluster",
        "update frontend",
        "create compute-2",
      ]);
      expect(machine("compute-2").macs[0]).to.match(DECIDED);
      expect(stack.outputs("compute-2").privateMac).to.equal(machine("compute-2").macs[0]);
    });

    it("learns them from the site after an interruption", async () => {
      interruptAfter(5);
      await failure(stack.up(args));
      letThrough();
      await stack.up(args);
      expect(machine("frontend").macs[0]).to.match(DECIDED);
      expect(stack.cluster.plan.frontend.privateMac).to.equal(machine("frontend").macs[0]);
    });

    it("takes a plan that leaves a node's MAC open again for no change of the node", async () => {
      await stack.up(args);
      const { inputs } = stack.state.get("frontend") as State;
      const { node, clusterId, __provider, ...rest } = inputs;
      const slice = { ...rest, privateMac: SITE_DECIDES, publicMac: SITE_DECIDES };
      const checked = await directLifeCycles({}).frontend.check(inputs, { node, clusterId, __provider, slice });
      expect(checked.failures).to.deep.equal([]);
      expect(checked.inputs).to.deep.include({ privateMac: inputs.privateMac, publicMac: inputs.publicMac });
    });
  });
});
