import { readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { ClusterRecord, Driver, NodeRef } from "../../provider/src/drivers/driver";
import {
  AddressTaken,
  Contradiction,
  ForeignOwner,
  NoCapacity,
  NotFound,
  Unreachable,
} from "../../provider/src/drivers/errors";
import { RocksDriver } from "../../provider/src/drivers/rocks";
import { vmName } from "../../provider/src/drivers/rocks/names";
import { macsOf, planCluster } from "../../provider/src/plan/plan";
import { failure } from "../failure";
import { differences, type RocksSite, rocksSite } from "./rocks";

const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };

/** What the real commands do that nobody would think (docs/sites/rocks.md). */
describe("hazards of rocks", () => {
  let site: RocksSite;
  let driver: Driver;
  let clean: string;
  let serial = 0;

  before(async function () {
    site = await rocksSite(this);
    driver = site.backend.driver;
    clean = JSON.stringify(site.rocks.state);
  });

  after(() => site?.backend.tearDown());

  afterEach(async () => {
    site.rocks.before = SILENT;
    Object.assign(site.rocks.state, {
      silent: [],
      unstoppable: [],
      databaseIsDown: false,
      version: "7.0",
      restarted: [],
    });
    expect(left(), "left in the tables").to.deep.equal([]);
  });

  const left = () => differences(JSON.parse(clean), site.rocks.state);

  async function planned(computes = 1, name = `hazard-${++serial}`, dealt = {}): Promise<ClusterRecord> {
    const frontend = { cpus: 1, memory: 64 };
    const wish = { name, numCpus: computes, cpusPerNode: 1, memoryPerNode: 64, frontend };
    const mark = { owner: "tester@example", organization: "o", project: "p", stack: "s", cluster: name };
    return {
      name,
      mark: { version: 1, ...mark, createdAt: "2024-02-29T12:00:00.000Z" },
      site: site.settings,
      plan: planCluster(wish, await driver.describe(), dealt, "site"),
      image: site.backend.image,
      publicKeys: ["ssh-ed25519 AAAA"],
    };
  }

  async function allocated(computes = 1): Promise<ClusterRecord> {
    const record = await planned(computes);
    await driver.allocate(record);
    await driver.fixImages(record, SILENT);
    return (await driver.find(record.name)) as ClusterRecord;
  }

  /** The same with other computes, and what was dealt. */
  async function resized(record: ClusterRecord, computes: number): Promise<ClusterRecord> {
    const { frontend, privateNetwork } = record.plan;
    const dealt = { privateCidr: privateNetwork.cidr, publicIp: frontend.publicIp, macs: macsOf(record.plan) };
    const grown = await planned(computes, record.name, dealt);
    await driver.allocate(grown);
    await driver.fixImages(grown, SILENT);
    return (await driver.find(record.name)) as ClusterRecord;
  }

  function boot(cluster: ClusterRecord, node: string) {
    const plan = node === "frontend" ? cluster.plan.frontend : cluster.plan.computes.find(({ name }) => name === node);
    return driver.boot({ cluster, node } as NodeRef<ClusterRecord>, {
      role: node === "frontend" ? "frontend" : "compute",
      plan: plan as ClusterRecord["plan"]["frontend"],
      ...{ vcOut: "<vc/>", keepDisk: false, power: "on", stop: AT_ONCE, progress: SILENT },
    });
  }

  async function destroy(cluster: ClusterRecord): Promise<void> {
    const nodes = ["frontend", ...cluster.plan.computes.map(({ name }) => name)];
    await Promise.all(nodes.map((node) => driver.remove({ cluster, node }, AT_ONCE)));
    await driver.release(cluster, { keepBaseImage: false });
  }

  const commands = (verb: string) => site.rocks.commands.filter((words) => words.join(" ").startsWith(verb));
  const isAddCluster = (words: readonly string[]) => words[0] === "add" && words[1] === "cluster";

  it("a late failure of add cluster leaves machines and VLANs: all of it is undone", async () => {
    const record = await planned(2);
    const container = site.rocks.state.nodes[2];
    site.rocks.before = (words) => {
      if (isAddCluster(words) && container) {
        container.membership = "Compute"; // Which has no partition for disks.
      } else if (container) {
        container.membership = "VM Container";
      }
    };
    expect((await failure(driver.allocate(record))).message).to.include("could not find a partition");
    expect(left()).to.deep.equal([]);
    expect((await readdir(site.folder)).filter((name) => name.startsWith(record.name))).to.deep.equal([]);
  });

  it("the same public address is taken twice: it is seen, and ours is undone", async () => {
    const record = await planned();
    const { publicIp } = record.plan.frontend;
    site.rocks.before = (words) => {
      if (isAddCluster(words)) {
        site.rocks.before = SILENT;
        site.rocks.run("add", "cluster", publicIp, "0", "fe-name=rival", "vlan=900");
      }
    };
    const error = await failure(driver.allocate(record));
    expect(error).to.be.instanceOf(AddressTaken);
    expect(error.message).to.include(`${publicIp} is given twice`);
    expect(site.rocks.run("list", "cluster", "rival")).to.include("rival");
    site.rocks.run("remove", "cluster", "rival");
  });

  it("the same VLAN is taken twice: it is seen, and only ours is undone", async () => {
    const record = await planned();
    site.rocks.before = (words) => {
      if (isAddCluster(words)) {
        site.rocks.before = SILENT;
        const vlan = words.find((word) => word.startsWith("vlan=")) ?? "";
        site.rocks.run("add", "cluster", "198.51.100.99", "1", "fe-name=rival", "cluster-naming=yes", vlan);
      }
    };
    const error = await failure(driver.allocate(record));
    expect(error.message).to.include("is that of rival too");
    expect(site.rocks.run("list", "cluster", "rival")).to.include("vm-rival-0");
    site.rocks.run("remove", "cluster", "rival");
  });

  it("remove cluster takes whoever is in its VLAN: then it isn't run", async () => {
    const cluster = await allocated();
    const { vlan } = site.rocks.state.interfaces.find(({ node }) => node === cluster.name) ?? {};
    site.rocks.run("add", "host", "vm", "vm-container-0-0", "membership=Hosted VM", "name=stranger", `vlan=${vlan}`);
    const error = await failure(driver.release(cluster, { keepBaseImage: false }));
    expect(error).to.be.instanceOf(ForeignOwner);
    expect(error.message).to.include("stranger");
    expect(site.rocks.run("list", "cluster", cluster.name)).to.include("stranger");
    site.rocks.run("remove", "host", "stranger");
    await destroy(cluster);
  });

  it("remove cluster restarts the network of every host where it finds no VLAN to remove: then it isn't run", async () => {
    const cluster = await allocated();
    // As a `remove cluster` that was cut off leaves it.
    for (const { node, iface } of site.rocks.state.interfaces.filter((nic) => nic.iface.startsWith("vlan"))) {
      site.rocks.run("remove", "host", "interface", node, iface);
    }
    await destroy(cluster);
    expect(site.rocks.state.restarted).to.deep.equal([]);
    await destroy(await allocated());
    expect(site.rocks.state.restarted).to.not.include("compute-0-0");
  });

  it("a VLAN that somebody has put on a host without machines stays there", async () => {
    const cluster = await allocated();
    const { vlan } = site.rocks.state.interfaces.find(({ node }) => node === cluster.name) ?? {};
    site.rocks.run("add", "host", "interface", "compute-0-0", `vlan${vlan}`, "subnet=private", `vlan=${vlan}`);
    await destroy(cluster);
    expect(site.rocks.run("list", "host", "interface", "compute-0-0")).to.include(`vlan${vlan}`);
    site.rocks.run("remove", "host", "interface", "compute-0-0", `vlan${vlan}`);
  });

  it("only the cluster's own machines and one of each container's are asked for: each may take minutes", async () => {
    site.rocks.run("add", "cluster", "198.51.100.99", "8", "fe-name=rival", "cluster-naming=yes", "mem-per-compute=64");
    site.rocks.commands.length = 0;
    await destroy(await allocated());
    const asked = commands("list").filter((words) => words.includes("status=true") && words[1] === "host");
    const names = asked.map((words) => words.slice(3).filter((word) => !word.includes("=")));
    expect(
      names.map((one) => one.length > 0 && one.filter((name) => name.includes("rival")).length <= 2),
    ).to.not.include(false);
    site.rocks.run("remove", "cluster", "rival");
  });

  it("a machine that runs goes on without its row: it is stopped before", async () => {
    const cluster = await allocated();
    site.rocks.run("start", "host", "vm", vmName(cluster.name, "compute-0"));
    await driver.release(cluster, { keepBaseImage: false });
    expect(site.rocks.state.domains).to.deep.equal({});
  });

  it("a machine that its guest has suspended is off to Rocks: it is stopped all the same", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    Object.assign(site.rocks.state.domains[vmName(cluster.name, "compute-0")] ?? {}, { status: "suspended" });
    await destroy(cluster);
    expect(site.rocks.state.domains).to.deep.equal({});
  });

  it("a container that doesn't answer makes its machines unknown, never gone", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    const host = site.rocks.state.vms.find(({ node }) => node === vmName(cluster.name, "compute-0"))?.host ?? "";
    site.rocks.state.silent = [host];
    expect((await driver.read(cluster.name)).get("compute-0")?.state).to.equal("unknown");
    const ref = { cluster, node: "compute-0" };
    for (const work of [() => driver.remove(ref, AT_ONCE), () => boot(cluster, "compute-0")]) {
      expect(await failure(work())).to.be.instanceOf(Unreachable);
    }
    expect(await readdir(site.folder)).to.include(`${vmName(cluster.name, "compute-0")}.vda`);
    // Nothing new is put there.
    const other = await allocated(2);
    expect(site.rocks.state.vms.filter((vm) => vm.node.includes(other.name)).map((vm) => vm.host)).to.not.include(host);
    site.rocks.state.silent = [];
    await destroy(other);
    await destroy(cluster);
  });

  it("a container that was removed leaves machines without one: they go one by one", async () => {
    const cluster = await allocated(2);
    const before = structuredClone(site.rocks.state);
    site.rocks.run("remove", "host", "vm-container-0-1");
    await destroy(cluster);
    expect(site.rocks.state.vms).to.deep.equal([]);
    const { nodes, interfaces } = before;
    const isContainers = (name: string) => name === "vm-container-0-1";
    site.rocks.state.nodes.splice(2, 0, ...nodes.filter(({ name }) => isContainers(name)));
    site.rocks.state.interfaces.push(
      ...interfaces.filter(({ node, iface }) => isContainers(node) && !/vlan/.test(iface)),
    );
  });

  it("stop ends well whether or not the machine does: it is waited for", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    site.rocks.state.unstoppable = [vmName(cluster.name, "compute-0")];
    const removed = driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(await readdir(site.folder), "while it runs").to.include(`${vmName(cluster.name, "compute-0")}.vda`);
    delete site.rocks.state.domains[vmName(cluster.name, "compute-0")];
    await removed;
    await destroy(cluster);
  });

  it("new computes boot by install: they are set to os before they start, each by a command of its own", async () => {
    site.rocks.commands.length = 0;
    const cluster = await allocated(2);
    await Promise.all(["frontend", "compute-0", "compute-1"].map((node) => boot(cluster, node)));
    expect(Object.values(site.rocks.state.domains).map(({ bootAction }) => bootAction)).to.deep.equal([
      "os",
      "os",
      "os",
    ]);
    expect(commands("start host vm").map((words) => words.length)).to.deep.equal([4, 4, 4]);
    await destroy(cluster);
    for (const verb of ["start host vm", "stop host vm", "sync host network", "remove host", "remove cluster"]) {
      for (const words of commands(verb)) {
        expect(words.slice(verb.split(" ").length), verb).to.not.deep.equal([]);
        expect(words).to.not.include("");
      }
    }
  });

  it("placement is exact: as many entries as computes, and a container for the frontend", async () => {
    site.rocks.commands.length = 0;
    const cluster = await allocated(3);
    const [add = []] = commands("add cluster");
    const hosts = add
      .find((word) => word.startsWith("container-hosts="))
      ?.slice(16)
      .split(" ");
    expect(hosts).to.have.length(3);
    expect(site.rocks.state.vms.slice(1).map(({ host }) => host)).to.deep.equal(hosts);
    expect(add).to.include(`fe-container=${site.rocks.state.vms[0]?.host}`);
    await destroy(cluster);
    const alone = await allocated(0);
    expect(
      commands("add cluster")
        .at(-1)
        ?.some((word) => word.startsWith("container-hosts")),
    ).to.equal(false);
    await destroy(alone);
  });

  it("add host vm forgets the VLAN of its host: a cluster that grows sees to it", async () => {
    const cluster = await resized(await allocated(0), 3);
    const vlan = site.rocks.state.interfaces.find(({ node }) => node === cluster.name)?.vlan;
    for (const host of ["vm-container-0-0", "vm-container-0-1"]) {
      expect(site.rocks.state.interfaces.some((nic) => nic.node === host && nic.iface === `vlan${vlan}`)).to.equal(
        true,
      );
    }
    expect(site.rocks.state.restarted, "below other machines there").to.deep.equal([]);
    await destroy(await resized(cluster, 1));
  });

  it("a frontend gets its public NIC only where its host has one: it goes there, or nowhere", async () => {
    const { state } = site.rocks;
    const nics = state.interfaces;
    const without = (...hosts: string[]) =>
      nics.filter(({ node, subnet }) => !(hosts.includes(node) && subnet === "public"));
    state.interfaces = without("vm-container-0-0");
    const cluster = await allocated(2);
    expect(state.vms.map(({ host }) => host).slice(0, 1)).to.deep.equal(["vm-container-0-1"]);
    await destroy(cluster);
    state.interfaces = without("vm-container-0-0", "vm-container-0-1");
    const error = await failure(driver.describe());
    expect(error).to.be.instanceOf(NotFound);
    expect(error.message).to.include("site.frontendHost");
    state.interfaces = nics;
  });

  it("frontends with a host of their own take no cpus of the containers", async () => {
    const containers = site.rocks.state.nodes.filter(({ membership }) => membership === "VM Container");
    for (const container of containers) {
      container.cpus = 1;
    }
    const apart = new RocksDriver({ ...site.settings, frontendHost: "rocks" });
    const record = await planned(2);
    await apart.allocate(record);
    await apart.allocate(record);
    expect((await apart.describe()).cpus.free).to.equal(0);
    for (const container of containers) {
      container.cpus = 16;
    }
    await destroy(record);
  });

  it("a container that is down and has no machines isn't chosen for all the room that it has", async () => {
    const gate = join(site.folder, "..", "gate");
    const ssh = `while [ $# -gt 2 ]; do shift; done; [ "$1" != vm-container-0-1 ] || exit 255; exec bash -c "$2"`;
    await writeFile(join(gate, "ssh"), `#!/bin/bash\n${ssh}\n`, { mode: 0o755 });
    const apart = new RocksDriver({ ...site.settings, sharedDisks: false });
    const record = await planned(3);
    await apart.allocate(record);
    expect([...new Set(site.rocks.state.vms.map(({ host }) => host))]).to.deep.equal(["vm-container-0-0"]);
    const tooLarge = await planned(16);
    const error = await failure(apart.allocate(tooLarge));
    expect(error).to.be.instanceOf(NoCapacity);
    expect(error.message).to.include("vm-container-0-1: no answer");
    await rm(join(gate, "ssh"));
    await destroy(record);
  });

  it("machines that don't run count too, and those of others", async () => {
    site.rocks.run("add", "cluster", "198.51.100.99", "2", "fe-name=rival", "cluster-naming=y", "cpus-per-compute=15");
    const { cpus } = await driver.describe();
    expect(cpus).to.include({ total: 32, free: 2 });
    expect(await failure(driver.allocate(await planned(2)))).to.be.instanceOf(NoCapacity);
    site.rocks.run("remove", "cluster", "rival");
  });

  it("a name that Rocks takes for something else is refused before it gets there", async () => {
    site.rocks.commands.length = 0;
    for (const name of ["vm-container", "rack7", "select-x", "compute"]) {
      expect(await failure(driver.find(name))).to.be.instanceOf(Contradiction);
    }
    expect(site.rocks.commands).to.deep.equal([]);
  });

  it("a name that DNS knows of elsewhere is free here", async () => {
    const record = await planned();
    site.rocks.state.elsewhere = [record.name, vmName(record.name, "compute-0")];
    expect(await driver.find(record.name)).to.equal(undefined);
    await driver.allocate(record);
    await driver.fixImages(record, SILENT);
    await boot(record, "compute-0");
    site.rocks.run("remove", "host", record.name);
    expect([...(await driver.read(record.name)).keys()]).to.deep.equal(["compute-0"]);
    await destroy(record);
  });

  it("another's frontend that is called as a compute of ours would be is left alone", async () => {
    const cluster = await allocated(0);
    const rival = vmName(cluster.name, "compute-0");
    site.rocks.run("add", "cluster", "198.51.100.99", "0", `fe-name=${rival}`);
    const error = await failure(resized(cluster, 1));
    expect(error).to.be.instanceOf(ForeignOwner);
    expect(error.message).to.include(rival);
    await resized(cluster, 0);
    await destroy(cluster);
    expect(site.rocks.run("list", "cluster", rival)).to.include(rival);
    site.rocks.run("remove", "cluster", rival);
  });

  it("a host of the site's that is called as a compute of ours would be is told before anything is made", async () => {
    const error = await failure(driver.allocate(await planned(1, "container-0")));
    expect(error).to.be.instanceOf(ForeignOwner);
    expect(error.message).to.include("vm-container-0-0");
  });

  it("clusters of others may have names that Rocks itself chokes on", async () => {
    site.rocks.run("add", "cluster", "198.51.100.99", "0", "fe-name=odd");
    const rename = (from: string, to: string) => {
      const text = JSON.stringify(site.rocks.state).replaceAll(JSON.stringify(from), JSON.stringify(to));
      Object.assign(site.rocks.state, JSON.parse(text));
    };
    rename("odd", "Bob's");
    expect(await driver.survey()).to.deep.equal([]);
    rename("Bob's", "odd");
    site.rocks.run("remove", "cluster", "odd");
  });

  it("a database that is down is no site without clusters", async () => {
    const record = await planned();
    site.rocks.state.databaseIsDown = true;
    for (const work of [() => driver.describe(), () => driver.find("nobody"), () => driver.allocate(record)]) {
      expect(await failure(work())).to.be.instanceOf(Unreachable);
    }
  });

  for (const version of ["6.1", "6.2"] as const) {
    it(`Rocks ${version} prints tables whatever it is asked for: a cluster lives there too`, async () => {
      site.rocks.state.version = version;
      const cluster = await allocated();
      await Promise.all([boot(cluster, "frontend"), boot(cluster, "compute-0")]);
      const nodes = await driver.read(cluster.name);
      const { frontend } = cluster.plan;
      expect(nodes.get("frontend")?.macs).to.deep.equal([frontend.privateMac, frontend.publicMac]);
      expect([...nodes.values()].map(({ state }) => state)).to.deep.equal(["running", "running"]);
      await destroy(cluster);
    });
  }
});
