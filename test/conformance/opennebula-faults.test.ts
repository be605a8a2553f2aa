import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { BootRequest, ClusterRecord, NodeRef } from "../../provider/src/drivers/driver";
import {
  AddressTaken,
  Contradiction,
  Denied,
  InvalidImage,
  NoCapacity,
  NotReady,
  type VirtualClusterError,
} from "../../provider/src/drivers/errors";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { OneClient } from "../../provider/src/drivers/opennebula/client";
import { configureOneAuth } from "../../provider/src/drivers/opennebula/credentials";
import type { OpenNebulaSettings } from "../../provider/src/drivers/settings";
import { type NodePlan, nodesOf, planCluster } from "../../provider/src/plan/plan";
import { sha256 } from "../../provider/src/vc-out/digest";
import { type StandInSite, standInSite } from "../stand-ins/opennebula/site";
import { type Group, groups, parseTemplate } from "../stand-ins/opennebula/template";
import { CODE, failure, Refused } from "../stand-ins/opennebula/wire";
import { type Img, type Machine, NET, type Net, rangeFrom, takeLease, VM } from "../stand-ins/opennebula/world";

const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };

describe("OpenNebula, when things go wrong", () => {
  let site: StandInSite;
  let settings: OpenNebulaSettings;
  let driver: OpenNebulaDriver;
  let folder: string;
  const homeBefore = process.env.VIRTUAL_CLUSTER_HOME;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-one-"));
    process.env.VIRTUAL_CLUSTER_HOME = folder;
    site = await standInSite();
    configureOneAuth(site.session);
    settings = {
      driver: "opennebula",
      endpoint: site.endpoint,
      privateTemplate: "vc-private",
      datastore: "images",
      images: "/images",
      readiness: "oneGate",
    };
    driver = new OpenNebulaDriver(settings);
  });

  afterEach(async () => {
    configureOneAuth(undefined);
    process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
    if (homeBefore === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    }
    await site.oned.stop();
    await rm(folder, { recursive: true });
  });

  const machines = () => site.oned.world.all<Machine>("VM").filter(({ state }) => state !== VM.DONE);
  const nets = () => site.oned.world.all<Net>("NET").filter(({ id }) => id > 0);

  async function planned(computes = 1, name = "demo"): Promise<ClusterRecord> {
    const wish = {
      name,
      numCpus: computes,
      cpusPerNode: 1,
      memoryPerNode: 64,
      frontend: { cpus: 1, memory: 64 },
    };
    const disk = (role: string) => ({
      digest: sha256(role),
      size: 16 * 1024 * 1024,
      devices: "virtio" as const,
      rootOffset: 1024 * 1024,
      takesContext: true as const,
      reportsReady: true as const,
    });
    return {
      name,
      mark: {
        version: 1,
        owner: "o",
        organization: "o",
        project: "p",
        stack: "s",
        cluster: "c",
        createdAt: "2024-02-29T12:00:00.000Z",
      },
      site: settings,
      plan: planCluster(wish, await driver.describe()),
      image: { vcName: "demo", frontend: disk("frontend"), compute: disk("compute") },
      publicKeys: ["ssh-ed25519 AAAA tester"],
    };
  }

  async function allocated(computes = 1, name = "demo"): Promise<ClusterRecord> {
    const record = await planned(computes, name);
    await driver.allocate(record);
    await driver.fixImages(record, SILENT);
    return (await driver.find(name)) as ClusterRecord;
  }

  const boot = (cluster: ClusterRecord, node: string, options: Partial<BootRequest> = {}) =>
    driver.boot(
      { cluster, node },
      {
        role: node === "frontend" ? "frontend" : "compute",
        plan:
          node === "frontend"
            ? cluster.plan.frontend
            : (cluster.plan.computes.find(({ name }) => name === node) as never),
        vcOut: `<vc>${node}</vc>`,
        keepDisk: false,
        power: "on",
        stop: AT_ONCE,
        progress: SILENT,
        ...options,
      },
    );

  async function thrown(work: Promise<unknown>): Promise<VirtualClusterError> {
    return work.then(
      () => expect.fail("nothing was thrown"),
      (error) => error,
    );
  }

  // ── Lost answers ───────────────────────────────────────────────────────────────────────────────────────────────────

  for (const method of [
    "vntemplate.instantiate",
    "vn.reserve",
    "template.allocate",
    "image.allocate",
    "image.clone",
    "vm.allocate",
  ]) {
    it(`makes nothing twice when the answer to ${method} is lost`, async () => {
      site.oned.faults.losesAnswerOf = { method, times: 1 };
      const cluster = await allocated();
      await boot(cluster, "frontend");
      await boot(cluster, "compute-0");
      expect(
        machines()
          .map(({ name }) => name)
          .sort(),
      ).to.deep.equal(["demo-compute-0", "demo-frontend"]);
      expect(
        nets()
          .map(({ name }) => name)
          .sort(),
      ).to.deep.equal(["demo-private", "demo-public"]);
      expect(site.oned.faults.losesAnswerOf.times).to.equal(0);
    });
  }

  it("takes away what a repeated creation has left twice, since machines may share a name (gotcha 1)", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    await driver.waitFor({ cluster, node: "compute-0" }, "running", { seconds: 5, progress: SILENT });
    const [first] = machines() as [Machine];
    site.oned.world.add({ ...first, id: 99, user: new Map(first.user) });
    expect((await driver.read("demo")).get("compute-0")?.machineId).to.equal(String(first.id));
    await boot(cluster, "compute-0");
    expect(machines().map(({ id }) => id)).to.deep.equal([first.id]);
  });

  for (const [call, text] of [
    ["vmpool.infoextended", "Cannot process request, no leader found"],
    ["vm.allocate", "Cannot process request, oned cluster in election mode"],
  ] as const) {
    it(`waits for several servers to have a leader again: ${call}`, async () => {
      const answer = site.oned.answer.bind(site.oned);
      let refusals = 5;
      site.oned.answer = (body) =>
        body.includes(`<methodName>one.${call}<`) && refusals-- > 0
          ? failure(`one.${call}`, new Refused(CODE.INTERNAL, text))
          : answer(body);
      const cluster = await allocated();
      await boot(cluster, "compute-0");
      expect([machines().length, refusals < 0]).to.deep.equal([1, true]);
    });
  }

  it("makes nothing twice when a server that follows has waited in vain for its leader's answer", async () => {
    const cluster = await allocated();
    const answer = site.oned.answer.bind(site.oned);
    let times = 1;
    site.oned.answer = (body) => {
      const real = answer(body);
      return body.includes("<methodName>one.vm.allocate<") && times-- > 0
        ? failure("one.vm.allocate", new Refused(CODE.INTERNAL, "RPC call timed out and aborted"))
        : real;
    };
    await boot(cluster, "compute-0");
    expect(machines().length).to.equal(1);
  });

  it("takes a machine without our tags for somebody else's, whatever its name (gotcha 9)", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    machines()[0]?.user.clear(); // What `onevm update` without append does.
    expect((await driver.read("demo")).get("compute-0")?.mark).to.equal(undefined);
    expect((await thrown(boot(cluster, "compute-0"))).message).to.include("no mark");
  });

  // ── States ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  it("knows a machine that was renamed: its tags tell, which the short list doesn't have (gotcha 2)", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    (machines()[0] as Machine).name = "renamed";
    const short = await new OneClient(site.endpoint).text("vmpool.info", -3, -1, -1, -1);
    expect(short).to.include("renamed").and.not.include("VC_CLUSTER");
    expect((await driver.read("demo")).get("compute-0")?.mark).to.deep.equal(cluster.mark);
    expect(await boot(cluster, "compute-0")).to.equal("kept");
  });

  it("tells two clusters apart at a server that can't search (gotcha 3)", async () => {
    const [demo, other] = [await allocated(), await allocated(1, "other")];
    await Promise.all([boot(demo, "compute-0"), boot(other, "compute-0"), boot(other, "frontend")]);
    const search = new OneClient(site.endpoint).text("vmpool.infoextended", -3, -1, -1, -1, "VM.NAME=demo-compute-0");
    expect((await thrown(search)).message).to.include("search is not supported");
    expect([...(await driver.read("demo")).keys()]).to.deep.equal(["compute-0"]);
    expect([...(await driver.read("other")).keys()].sort()).to.deep.equal(["compute-0", "frontend"]);
  });

  it("turns a machine off to give it more cpus, and on again; one that is off stays off (gotcha 17)", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    const ref = { cluster, node: "compute-0" };
    await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
    const states: number[] = [];
    const answer = site.oned.answer.bind(site.oned);
    site.oned.answer = (body) => {
      if (body.includes("<methodName>one.vm.resize<")) {
        states.push((machines()[0] as Machine).state);
      }
      return answer(body);
    };
    expect(await driver.resize(ref, { cpus: 2, memory: 128 }, AT_ONCE)).to.equal("restarted");
    await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
    expect((await driver.read("demo")).get("compute-0")).to.include({ cpus: 2, memory: 128, state: "running" });
    await driver.shutdown(ref, AT_ONCE);
    await driver.resize(ref, { cpus: 1, memory: 64 }, AT_ONCE);
    expect((await driver.read("demo")).get("compute-0")).to.include({ cpus: 1, memory: 64, state: "off" });
    expect(states).to.deep.equal([VM.POWEROFF, VM.POWEROFF]);
  });

  it("counts a machine that is done as gone, though it stays readable (gotcha 4)", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    await driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
    expect(site.oned.world.all<Machine>("VM").length).to.equal(1);
    expect((await driver.read("demo")).size).to.equal(0);
    await driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
  });

  it("says what the scheduler says of a machine that it never places", async () => {
    site.oned.faults.unschedulable = /compute/;
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    const lines: string[] = [];
    const ref = { cluster, node: "compute-0" };
    const error = (await thrown(
      driver.waitFor(ref, "running", { seconds: 1, progress: (line) => lines.push(line) }),
    )) as NotReady;
    expect(error).to.be.instanceOf(NotReady);
    expect(error.message).to.include("waits for the scheduler");
    expect(error.diagnosis).to.include("No host meets SCHED_REQUIREMENTS");
    expect(lines.length).to.be.greaterThan(0);
    // One that waits can be turned off, and on again.
    await driver.shutdown(ref, AT_ONCE);
    expect((await driver.read("demo")).get("compute-0")?.state).to.equal("off");
    site.oned.faults = {};
    await boot(cluster, "compute-0");
    await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
  });

  it("says why a machine doesn't boot, and makes it anew", async () => {
    site.oned.faults.bootFails = /compute/;
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    const ref = { cluster, node: "compute-0" };
    const error = (await thrown(driver.waitFor(ref, "running", { seconds: 20, progress: SILENT }))) as NotReady;
    expect(error.message).to.include("could not be booted");
    expect(error.diagnosis).to.include("DEPLOY");
    expect((await driver.read("demo")).get("compute-0")?.state).to.equal("crashed");
    site.oned.faults = {};
    expect(await boot(cluster, "compute-0")).to.equal("created");
    await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
  });

  it("makes a frontend anew that failed to boot, on the disk that it had (OpenNebula takes that for broken)", async () => {
    site.oned.faults.bootFails = /frontend/;
    const cluster = await allocated();
    await boot(cluster, "frontend");
    const ref = { cluster, node: "frontend" };
    await thrown(driver.waitFor(ref, "running", { seconds: 20, progress: SILENT }));
    const disk = () => site.oned.world.all<Img>("IMAGE").find(({ name }) => name === "demo-frontend");
    const before = disk()?.id;
    site.oned.faults = {};
    expect(await boot(cluster, "frontend", { keepDisk: true })).to.equal("created");
    await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
    expect([disk()?.id, disk()?.persistent]).to.deep.equal([before, true]);
    expect(site.oned.calls).to.include("image.enable");
  });

  it("doesn't take a node for ready that was ready before it was off", async () => {
    const cluster = await allocated();
    const ref = { cluster, node: "compute-0" };
    await boot(cluster, "compute-0");
    await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
    await driver.shutdown(ref, AT_ONCE);
    const [machine] = machines() as [Machine];
    machine.healthy = false;
    expect(await boot(cluster, "compute-0")).to.equal("started");
    expect(await thrown(driver.waitFor(ref, "ready", { seconds: 0.3, progress: SILENT }))).to.be.instanceOf(NotReady);
    machine.user.set("READY", ["YES"]);
    await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
  });

  it("takes a guest's word over ssh: that it is ready, with this vc-out.xml; another host key isn't its last one", async () => {
    const [program, path] = [join(folder, "ssh"), process.env.PATH];
    const says = (stdout: object, code = 0, stderr = "") =>
      writeFile(program, `#!/bin/sh\necho '${JSON.stringify(stdout)}'\necho '${stderr}' >&2\nexit ${code}\n`, {
        mode: 0o755,
      });
    await says({});
    process.env.PATH = `${folder}:${path}`;
    try {
      driver = new OpenNebulaDriver({ ...settings, readiness: "ssh" });
      const cluster = await allocated();
      const ref = { cluster, node: "frontend" };
      await boot(cluster, "frontend");
      await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
      const ready = (seconds: number) => driver.waitFor(ref, "ready", { seconds, progress: SILENT });
      const status = { state: "ready", message: "", digest: sha256("<vc>frontend</vc>") };
      await says({}, 255, `No ED25519 host key is known for ${cluster.plan.frontend.publicIp} and`);
      expect((await thrown(ready(0))).message, "another key").to.include("hasn't said that it is ready");
      await says({ ...status, state: "configuring" });
      expect((await thrown(ready(0))).message).to.include("hasn't said that it is ready");
      await says({ ...status, digest: sha256("another") });
      expect((await thrown(ready(0))).message, "another file").to.include("hasn't said that it is ready");
      await says({ ...status, state: "failed", message: "no such interface" });
      expect((await thrown(ready(60))).message).to.include("no such interface");
      expect(await driver.channel(ref)).to.equal("nextBoot");
      await says(status);
      await ready(5);
      await says({}, 255, `root@${cluster.plan.frontend.publicIp}: Permission denied (publickey).`);
      await ready(5);
    } finally {
      process.env.PATH = path;
    }
  });

  it("pulls the plug of a guest that heeds no power button as soon as its time is up", async () => {
    site.oned.delays.patience = 60_000;
    site.oned.faults.ignoresStops = () => true;
    const cluster = await allocated();
    const ref = { cluster, node: "compute-0" };
    await boot(cluster, "compute-0");
    await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
    await driver.shutdown(ref, { graceSeconds: 0.2 });
    expect((await driver.read("demo")).get("compute-0")?.state).to.equal("off");
  });

  for (const [state, name] of [
    [VM.SUSPENDED, "suspended"],
    [VM.STOPPED, "stopped"],
  ] as const) {
    it(`gives a machine that is ${name} its new vc-out.xml when it goes on, since its disc can't be changed before`, async () => {
      const cluster = await allocated();
      const ref = { cluster, node: "compute-0" };
      await boot(cluster, "compute-0");
      await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
      const [machine] = machines() as [Machine];
      Object.assign(machine, { state, lcm: 0 });
      expect(await driver.reconfigure(ref, "<vc>new</vc>")).to.equal("nextBoot");
      expect((await driver.read("demo")).get("compute-0")?.vcOutWaits).to.equal(true);
      expect(await boot(cluster, "compute-0", { vcOut: "<vc>new</vc>" })).to.equal("started");
      const onDisc = Buffer.from(machine.context?.get("VC_OUT_XML_BASE64") ?? "", "base64").toString();
      expect(onDisc).to.equal("<vc>new</vc>");
      expect((await driver.read("demo")).get("compute-0")).to.include({
        vcOutWaits: false,
        vcOutDigest: sha256("<vc>new</vc>"),
      });
    });
  }

  for (const [state, name] of [
    [VM.HOLD, "on hold, when it has one"],
    [VM.SUSPENDED, "suspended"],
    [VM.UNDEPLOYED, "undeployed"],
  ] as const) {
    it(`grows the disk of a machine that is ${name}`, async () => {
      const cluster = await allocated();
      const ref = { cluster, node: "compute-0" };
      await boot(cluster, "compute-0", { power: state === VM.HOLD ? "off" : "on" });
      const [machine] = machines() as [Machine];
      if (state !== VM.HOLD) {
        await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
        Object.assign(machine, { state, lcm: 0 });
      }
      const plan = { ...(cluster.plan.computes[0] as NodePlan), diskSize: 64 };
      expect(await boot(cluster, "compute-0", { plan })).to.equal("started");
      await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
      expect((await driver.read("demo")).get("compute-0")?.diskSize).to.equal(64);
    });
  }

  it("counts a machine as running while it is backed up, and as off while a disk of one is copied that is off", async () => {
    const cluster = await allocated();
    const ref = { cluster, node: "compute-0" };
    await boot(cluster, "compute-0");
    await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
    const [machine] = machines() as [Machine];
    Object.assign(machine, { state: VM.ACTIVE, lcm: 69 });
    await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
    Object.assign(machine, { state: VM.ACTIVE, lcm: 51 });
    expect((await driver.read("demo")).get("compute-0")?.state).to.equal("off");
    setTimeout(() => Object.assign(machine, { state: VM.POWEROFF, lcm: 0 }), 100);
    expect(await boot(cluster, "compute-0")).to.equal("started");
  });

  for (const [devices, expected] of [
    ["virtio", { disk: "vd", bus: undefined, nics: ["virtio", "virtio"] }],
    ["sata", { disk: "sd", bus: "sata", nics: ["e1000", "e1000"] }],
  ] as const) {
    it(`says which devices a ${devices} image needs, and leaves nothing to a site's defaults`, async () => {
      const { image, ...cluster } = await allocated();
      const frontend = { ...image.frontend, devices };
      await boot({ ...cluster, image: { ...image, frontend } }, "frontend");
      const [{ disks, nics, template }] = machines() as [Machine];
      expect({
        disk: disks[0]?.get("DEV_PREFIX"),
        bus: groups(template, "OS")[0]?.get("SD_DISK_BUS"),
        nics: nics.map((nic) => nic.get("MODEL")),
      }).to.deep.equal(expected);
    });
  }

  it("says of a machine whose image could not be copied what the image says", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    const [machine] = machines() as [Machine];
    Object.assign(machine, { state: VM.CLONING_FAILURE, lcm: 0 });
    const image = site.oned.world.find<Img>("IMAGE", Number(machine.disks[0]?.get("IMAGE_ID"))) as Img;
    image.state = 5;
    image.template.set("ERROR", ["the disk is full"]);
    const error = (await thrown(
      driver.waitFor({ cluster, node: "compute-0" }, "running", { seconds: 1, progress: SILENT }),
    )) as NotReady;
    expect(error.diagnosis).to.include("the disk is full");
  });

  it("ends a machine that silently runs on after a graceful stop, by force", async () => {
    site.oned.delays.patience = 50;
    site.oned.faults.ignoresStops = () => true;
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    await driver.waitFor({ cluster, node: "compute-0" }, "running", { seconds: 5, progress: SILENT });
    await driver.remove({ cluster, node: "compute-0" }, { graceSeconds: 1 });
    expect(machines().length).to.equal(0);
    expect(site.oned.calls.filter((call) => call === "vm.action").length).to.be.lessThan(6);
  });

  it("asks once to remove a machine by force, however long that takes", async () => {
    site.oned.delays.stop = 1100;
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    await driver.waitFor({ cluster, node: "compute-0" }, "running", { seconds: 5, progress: SILENT });
    await driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
    expect(site.oned.calls.filter((call) => call === "vm.action")).to.have.length(1);
  });

  for (const [state, lcm, name] of [
    [8, 0, "off"],
    [9, 0, "undeployed"],
    [5, 0, "suspended"],
    [4, 0, "stopped"],
    [2, 0, "on hold"],
    [3, 36, "failed to boot"],
    [3, 39, "got no disks"],
    [3, 40, "failed to be cleaned up"],
    [3, 16, "not seen any more"],
    [3, 12, "shutting down"],
    [11, 0, "failed to be cloned"],
  ] as const) {
    it(`removes a machine that is ${name}`, async () => {
      const cluster = await allocated();
      await boot(cluster, "frontend");
      await driver.waitFor({ cluster, node: "frontend" }, "running", { seconds: 5, progress: SILENT });
      Object.assign(machines()[0] as Machine, { state, lcm });
      await driver.remove({ cluster, node: "frontend" }, AT_ONCE);
      expect(machines().length).to.equal(0);
      expect(site.oned.world.all<Img>("IMAGE").some((image) => image.name === "demo-frontend")).to.equal(false);
    });
  }

  // ── Networks ───────────────────────────────────────────────────────────────────────────────────────────────────────

  it("gives each cluster a network of its own, since a reservation shares its parent's (gotcha 7)", async () => {
    await allocated();
    await allocated(1, "other");
    const [one, other] = ["demo-private", "other-private"].map((name) => nets().find((net) => net.name === name)) as [
      Net,
      Net,
    ];
    expect([one.parent, other.parent]).to.deep.equal([undefined, undefined]);
    expect(one.vlan).to.not.equal(other.vlan);
    expect(one.bridge).to.not.equal(other.bridge);
    // Where addresses are what is wanted, a reservation does.
    expect(nets().find(({ name }) => name === "demo-public")).to.include({ parent: 0, bridge: "br-pub" });
  });

  it("leaves alone others' private networks, which the default VDC lets everybody use (gotcha 18)", async () => {
    const neighbour = site.oned.addUser("neighbour", "secret", 100, "hpc");
    configureOneAuth("neighbour:secret");
    const theirs = await allocated();
    configureOneAuth(site.session);
    driver = new OpenNebulaDriver(settings);
    expect(await new OneClient(site.endpoint).text("vnpool.info", -2, -1, -1)).to.include("demo-private");
    expect(await driver.find("demo")).to.equal(undefined);
    expect(await driver.survey()).to.deep.equal([]);
    const cluster = await allocated();
    expect(cluster.plan.frontend.publicIp).to.not.equal(theirs.plan.frontend.publicIp);
    await boot(cluster, "compute-0");
    const joined = Number((machines()[0] as Machine).nics[0]?.get("NETWORK_ID"));
    expect(site.oned.world.get<Net>("NET", joined).uid).to.equal(site.user.id);
    await driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
    await driver.release(cluster, { keepBaseImage: false });
    expect(
      nets()
        .map(({ name, uid }) => `${name} of ${uid}`)
        .sort(),
    ).to.deep.equal([`demo-private of ${neighbour.id}`, `demo-public of ${neighbour.id}`]);
  });

  it("waits for a network that is LOCKED for long before anything joins it", async () => {
    site.oned.delays.network = 1500;
    const started = Date.now();
    const cluster = await allocated();
    expect(Date.now() - started).to.be.greaterThan(1400);
    await boot(cluster, "compute-0");
    expect(machines().length).to.equal(1);
  });

  it("says why a network driver failed, and leaves nothing", async () => {
    site.oned.faults.networkFails = /demo-private/;
    expect((await thrown(planned().then((record) => driver.allocate(record)))).message).to.include(
      "Error creating network",
    );
    expect(nets()).to.deep.equal([]);
  });

  it("verifies the addresses of a network that OpenNebula made without a word (gotcha 8)", async () => {
    const record = await planned();
    const instantiate = site.oned.finishNet.bind(site.oned);
    site.oned.finishNet = (net) => instantiate(net, []);
    expect((await thrown(driver.allocate(record))).message).to.include(record.plan.frontend.privateIp);
    expect(nets()).to.deep.equal([]);
  });

  it("plans the MACs that OpenNebula gives (gotcha 14)", async () => {
    const cluster = await allocated(2);
    await Promise.all(["frontend", "compute-0", "compute-1"].map((node) => boot(cluster, node)));
    const { frontend, computes } = cluster.plan;
    const seen = await driver.read("demo");
    expect(seen.get("frontend")?.macs).to.deep.equal([frontend.privateMac, frontend.publicMac]);
    expect(frontend.publicMac).to.match(/^02:00:c6:33:64:/);
    for (const { name, privateMac } of computes) {
      expect(seen.get(name)?.macs).to.deep.equal([privateMac]);
    }
  });

  it("plans with another address when somebody unseen has one (gotcha 15)", async () => {
    const record = await planned();
    const { publicIp } = record.plan.frontend;
    const net = site.oned.world.get<Net>("NET", 0);
    takeLease(net, "VM 4711", publicIp);
    const error = await thrown(driver.allocate(record));
    expect(error).to.be.instanceOf(AddressTaken);
    expect(error.message).to.include(publicIp);
    expect(nets()).to.deep.equal([]);
    for (const { leases } of net.ranges) {
      leases.clear(); // Even where a list doesn't show it.
    }
    expect((await planned()).plan.frontend.publicIp).to.not.equal(publicIp);
  });

  describe("with a public network of several ranges", () => {
    const addRange = (range: string) => {
      const net = site.oned.world.get<Net>("NET", 0);
      const [group] = groups(parseTemplate(`AR=[ ${range} ]`), "AR");
      net.ranges.push(rangeFrom(group as Group, net.ranges.length) as Net["ranges"][number]);
    };
    const SECOND =
      'TYPE="IP4", IP="203.0.113.0", SIZE="8", NETWORK_MASK="255.255.255.248", GATEWAY="203.0.113.6", DNS="203.0.113.6"';

    it("hands out none of another subnet than the frontend will be told", async () => {
      addRange(SECOND);
      addRange('TYPE="IP4", IP="198.51.100.100", SIZE="2"');
      const { publicAddresses, publicNetwork } = await driver.describe();
      expect(publicNetwork.cidr).to.equal("198.51.100.0/24");
      expect(publicAddresses).to.include("198.51.100.101").and.not.include("203.0.113.2");
    });

    it("takes the one that the settings name, with its own mask, gateway and DNS server", async () => {
      addRange(SECOND);
      driver = new OpenNebulaDriver({ ...settings, publicAddresses: ["203.0.113.0/24"] });
      const { publicAddresses, publicNetwork } = await driver.describe();
      expect(publicNetwork).to.deep.include({ cidr: "203.0.113.0/29", gateway: "203.0.113.6", dns: ["203.0.113.6"] });
      // Neither the subnet's own address, nor the broadcast address, nor the gateway's.
      expect(publicAddresses).to.deep.equal([1, 2, 3, 4, 5].map((host) => `203.0.113.${host}`));
      const cluster = await allocated();
      await boot(cluster, "frontend");
      const context = machines()[0]?.context;
      expect([context?.get("ETH1_IP"), context?.get("ETH1_GATEWAY"), context?.get("ETH1_MASK")]).to.deep.equal([
        cluster.plan.frontend.publicIp,
        "203.0.113.6",
        "255.255.255.248",
      ]);
    });
  });

  it("says that no public address is left", async () => {
    const net = site.oned.world.get<Net>("NET", 0);
    while (takeLease(net, "VM 4711")) {
      // All of them.
    }
    expect(await thrown(driver.describe())).to.be.instanceOf(NoCapacity);
  });

  it("waits with a network until its machines are cleaned up (gotcha 5)", async () => {
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    const removed = driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
    await driver.release(cluster, { keepBaseImage: false });
    await removed;
    expect(nets()).to.deep.equal([]);
  });

  // ── Images ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  it("reports an image that could not be copied with its own text (gotcha 11)", async () => {
    site.oned.faults.imageFails = /vc-base/;
    const record = await planned();
    await driver.allocate(record);
    const error = await thrown(driver.fixImages(record, SILENT));
    expect(error).to.be.instanceOf(InvalidImage);
    expect(error.message).to.include("Error copying image");
    site.oned.faults = {};
    await driver.fixImages(record, SILENT);
  });

  it("says of a path that the front-end doesn't have where to say it", async () => {
    driver = new OpenNebulaDriver({ ...settings, images: "/nope" });
    const record = await planned();
    const error = await thrown(driver.fixImages(record, SILENT));
    expect(error.hint).to.include("site.images");
  });

  it("gives the frontend a persistent disk of its own, computes shared ones (gotchas 10 and 12)", async () => {
    const cluster = await allocated(2);
    await Promise.all(["frontend", "compute-0", "compute-1"].map((node) => boot(cluster, node)));
    const images = site.oned.world.all<Img>("IMAGE");
    expect(images.find(({ name }) => name === "demo-frontend")).to.include({ persistent: true, state: 8 });
    expect(images.filter(({ vms }) => vms.size === 2).map(({ persistent }) => persistent)).to.deep.equal([false]);
    // Clones come with their source's attributes.
    expect((await driver.read("demo")).get("frontend")?.mark).to.deep.equal(cluster.mark);
  });

  // ── CONTEXT ────────────────────────────────────────────────────────────────────────────────────────────────────────

  it("keeps all else in CONTEXT when it changes the vc-out.xml (updateconf appends)", async () => {
    const cluster = await allocated();
    await boot(cluster, "frontend");
    const ref: NodeRef<ClusterRecord> = { cluster, node: "frontend" };
    await driver.waitFor(ref, "ready", { seconds: 5, progress: SILENT });
    const before = Object.fromEntries((machines()[0] as Machine).context ?? []);
    const rekeyed = { ...cluster, publicKeys: ["ssh-ed25519 BBBB another"] };
    expect(await driver.reconfigure({ ...ref, cluster: rekeyed }, "<vc>new</vc>")).to.equal("live");
    expect(Object.fromEntries((machines()[0] as Machine).context ?? [])).to.deep.equal({
      ...before,
      VC_OUT_XML_BASE64: Buffer.from("<vc>new</vc>").toString("base64"),
      SSH_PUBLIC_KEY: "ssh-ed25519 BBBB another",
    });
    expect((machines()[0] as Machine).user.get("VC_ROLE")).to.deep.equal(["frontend"]);
  });

  it("hands a machine that waits for a host its new vc-out.xml without waiting for one", async () => {
    site.oned.faults.unschedulable = /compute/;
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    expect(await driver.reconfigure({ cluster, node: "compute-0" }, "<vc>new</vc>")).to.equal("live");
    const encoded = machines()[0]?.context?.get("VC_OUT_XML_BASE64") ?? "";
    expect(Buffer.from(encoded, "base64").toString()).to.equal("<vc>new</vc>");
  });

  it("gives NICs in the standard's order, and computes the frontend as their gateway (gotcha 15)", async () => {
    const cluster = await allocated();
    await Promise.all([boot(cluster, "frontend"), boot(cluster, "compute-0")]);
    const context = (node: string) => machines().find(({ name }) => name === `demo-${node}`)?.context;
    const { frontend } = cluster.plan;
    expect([context("frontend")?.get("ETH0_IP"), context("frontend")?.get("ETH1_IP")]).to.deep.equal([
      frontend.privateIp,
      frontend.publicIp,
    ]);
    expect([context("frontend")?.get("ETH0_GATEWAY"), context("frontend")?.get("ETH1_GATEWAY")]).to.deep.equal([
      "",
      "198.51.100.1",
    ]);
    expect(context("compute-0")?.get("ETH0_GATEWAY")).to.equal(frontend.privateIp);
  });

  it("keeps private keys where only their owner reads them", async () => {
    await allocated();
    const secrets = site.oned.world.all("TEMPLATE").filter(({ name }) => name === "demo-keys");
    expect(secrets.map(({ permissions }) => permissions.slice(3))).to.deep.equal([[0, 0, 0, 0, 0, 0]]);
    for (const net of nets()) {
      const text = JSON.stringify(
        [...net.template].map(([, values]) => values.map((value) => Buffer.from(String(value), "base64").toString())),
      );
      expect(text).to.not.include("PRIVATE KEY");
    }
  });

  // ── Rights, quotas, settings ───────────────────────────────────────────────────────────────────────────────────────

  it("gives machines their planned MACs as a user who may set none (gotcha 13)", async () => {
    const cluster = await allocated();
    for (const restricted of ['NIC=[ NETWORK_ID="0", MAC="02:00:00:00:00:01" ]', 'CONTEXT=[ FILES="/etc/passwd" ]']) {
      const asked = new OneClient(site.endpoint).id("vm.allocate", `CPU="1"\nMEMORY="64"\n${restricted}\n`, false);
      expect(await thrown(asked), restricted).to.be.instanceOf(Denied);
    }
    await boot(cluster, "frontend");
    const { privateMac, publicMac } = cluster.plan.frontend;
    expect((await driver.read("demo")).get("frontend")?.macs).to.deep.equal([privateMac, publicMac]);
  });

  it("names the missing rule in the preview (gotcha 6)", async () => {
    site.oned.world.rules.pop(); // NET/* CREATE
    const error = await thrown(driver.describe());
    expect(error).to.be.instanceOf(Denied);
    expect(error.hint).to.include('oneacl create "@100 NET/* CREATE"');
  });

  it("says what a network template or a datastore is that isn't there, and which there are", async () => {
    const other = (change: Partial<OpenNebulaSettings>) => new OpenNebulaDriver({ ...settings, ...change }).describe();
    expect((await thrown(other({ privateTemplate: "nope" }))).message).to.include("vc-private");
    expect((await thrown(other({ datastore: "system" }))).message).to.include("images");
    expect((await thrown(other({ network: "nope" }))).message).to.include("public");
    const { privateTemplate: _, ...without } = settings;
    expect(await thrown(new OpenNebulaDriver(without).describe())).to.be.instanceOf(Contradiction);
  });

  it("looks at quotas before: cpus, memory, machines", async () => {
    site.user.quotas.set("VM/CPU", 3);
    const { cpus } = await driver.describe();
    expect([cpus.total, cpus.free]).to.deep.equal([3, 3]);
    expect(await thrown(planned(3).then((record) => driver.allocate(record)))).to.be.instanceOf(NoCapacity);
    site.user.quotas.set("VM/CPU", 30).set("VM/VMS", 2);
    expect((await thrown(planned(3).then((record) => driver.allocate(record)))).message).to.include("machines");
  });

  it("looks at quotas of machines that run: those that are off don't count, those on hold do", async () => {
    const quotas = site.user.quotas;
    quotas.set("VM/RUNNING_VMS", 3).set("VM/RUNNING_CPU", 4);
    expect((await driver.describe()).cpus).to.include({ total: 4, free: 4 });
    const cluster = await allocated(2);
    await Promise.all(["compute-0", "compute-1"].map((node) => boot(cluster, node)));
    await driver.waitFor({ cluster, node: "compute-1" }, "running", { seconds: 5, progress: SILENT });
    expect((await thrown(planned(1, "second").then((record) => driver.allocate(record)))).message).to.include(
      "2 more running machines",
    );
    await driver.shutdown({ cluster, node: "compute-1" }, AT_ONCE);
    await driver.allocate(await planned(1, "second"));
  });

  it("goes by the limits of all clusters, not by one cluster's that stands first", async () => {
    const ofCluster =
      "<VM><CLUSTER_IDS>0</CLUSTER_IDS><CPU>1</CPU><CPU_USED>1</CPU_USED><VMS>1</VMS><VMS_USED>1</VMS_USED></VM>";
    const escaped = ofCluster.replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const answer = site.oned.answer.bind(site.oned);
    site.oned.answer = (body) => answer(body).replaceAll("&lt;VM_QUOTA&gt;", `&lt;VM_QUOTA&gt;${escaped}`);
    expect((await driver.describe()).cpus.free).to.equal(200);
    await driver.allocate(await planned());
  });

  it("looks at an admin's own quotas, whose group has none", async () => {
    const admin = site.oned.addUser("second-admin", "secret", 0, "oneadmin");
    admin.quotas.set("VM/CPU", 3);
    configureOneAuth("second-admin:secret");
    expect((await driver.describe()).cpus.free).to.equal(3);
  });

  const limits: Record<string, [() => Map<string, number>, quota: string, limit: number, words: string]> = {
    "a user's leases": [() => site.user.quotas, "NETWORK/0/LEASES", 1, "1 more leases of network public"],
    "the usual leases": [() => site.oned.world.defaultQuotas, "NETWORK/0/LEASES", 1, "1 more leases of network public"],
    "a group's leases": [() => site.oned.world.groupQuotas, "NETWORK/0/LEASES", 1, "1 more leases of network public"],
    "a user's images": [() => site.user.quotas, "DATASTORE/100/IMAGES", 5, "3 more images in datastore images"],
    "a group's space": [
      () => site.oned.world.groupQuotas,
      "DATASTORE/100/SIZE",
      160,
      "48 more MiB in datastore images",
    ],
    "the usual space": [() => site.oned.world.defaultQuotas, "DATASTORE/100/SIZE", 160, "48 more MiB in datastore"],
  };
  for (const [what, [quotas, quota, limit, words]] of Object.entries(limits)) {
    it(`looks at quotas before anything is made: ${what}`, async () => {
      quotas().set(quota, limit);
      const first = await allocated();
      await boot(first, "frontend");
      // What the cluster has is no need.
      await driver.allocate(first);
      const second = await planned(1, "second").catch((error) => error as VirtualClusterError);
      const disk = (role: string) => ({ ...first.image.frontend, digest: sha256(`second ${role}`) });
      const image = { vcName: "second", frontend: disk("frontend"), compute: disk("compute") };
      const calls = site.oned.calls.length;
      const error = "plan" in second ? await thrown(driver.allocate({ ...second, image })) : second;
      expect(error, "refused").to.be.instanceOf(NoCapacity);
      expect(error.message).to.include(words);
      expect(
        site.oned.calls.slice(calls).filter((call) => /allocate|clone|reserve|instantiate/.test(call)),
      ).to.deep.equal([]);
    });
  }

  it("says in the preview that no lease is left of a quota", async () => {
    site.user.quotas.set("NETWORK/0/LEASES", 0);
    expect((await thrown(driver.describe())).message).to.include("the quota for network public is 0");
  });

  it("goes by its own quotas where it may not see its group's", async () => {
    site.user.quotas.set("DATASTORE/100/IMAGES", 2);
    const answer = site.oned.answer.bind(site.oned);
    site.oned.answer = (body) => answer(body.replace("one.group.info", "one.group.hidden"));
    expect((await thrown(planned().then((record) => driver.allocate(record)))).message).to.include("3 more images");
  });

  it("doesn't refuse what nobody tells it: a plain user sees no hosts", async () => {
    site.user.quotas.clear();
    const { cpus, memory } = await driver.describe();
    expect([cpus.free, memory.free, cpus.perNode]).to.deep.equal([
      Number.POSITIVE_INFINITY,
      Number.POSITIVE_INFINITY,
      Number.POSITIVE_INFINITY,
    ]);
    await driver.allocate(await planned(40));
  });

  it("sees hosts as an admin, and makes networks without a template", async () => {
    configureOneAuth(site.adminSession);
    const { privateTemplate: _, ...rest } = settings;
    driver = new OpenNebulaDriver({
      ...rest,
      privateAttributes: { VN_MAD: "vxlan", PHYDEV: "eth1", AUTOMATIC_VLAN_ID: "YES" },
      privateCluster: 100,
    });
    expect((await driver.describe()).cpus).to.deep.equal({ total: 24, free: 24, perNode: 8 });
    const cluster = await allocated();
    expect(nets().find(({ name }) => name === "demo-private")?.automaticVlan).to.equal(true);
    await boot(cluster, "frontend");
    await driver.remove({ cluster, node: "frontend" }, AT_ONCE);
    await driver.release(cluster, { keepBaseImage: false });
  });

  /** A network that clusters take their private ones out of. */
  function shareNetwork(): void {
    const shared = site.oned.world.get<Net>("NET", 0);
    const template = new Map([
      ["VN_MAD", ["dummy"]],
      ["BRIDGE", ["shared"]],
    ]);
    const range = {
      id: 0,
      ip: "10.84.0.1",
      mac: "02:00:0a:54:00:01",
      size: 65_000,
      next: 0,
      leases: new Map<string, string>(),
    };
    site.oned.world.add({ ...shared, id: 900, name: "shared", template, ranges: [range], state: NET.READY });
    const { privateTemplate: _, ...rest } = settings;
    settings = { ...rest, privateReservation: "shared" };
    driver = new OpenNebulaDriver(settings);
  }

  it("goes on with a private network that was taken out of a shared one, and not marked any more", async () => {
    shareNetwork();
    const record = await planned();
    const answer = site.oned.answer.bind(site.oned);
    site.oned.answer = (body) => {
      if (body.includes("one.vn.reserve") && body.includes("demo-private")) {
        site.oned.letThrough = 0;
      }
      return answer(body);
    };
    await thrown(driver.allocate(record));
    site.oned.answer = answer;
    site.oned.letThrough = Number.POSITIVE_INFINITY;
    expect(nets().map(({ name }) => name)).to.include("demo-private");
    await driver.allocate(record);
    expect((await driver.find("demo"))?.plan).to.deep.equal(record.plan);
    await driver.release(record, { keepBaseImage: false });
    expect(nets().map(({ name }) => name)).to.deep.equal(["shared"]);
  });

  it("takes private networks out of a shared one, with its MACs", async () => {
    shareNetwork();
    const cluster = await allocated();
    await Promise.all([boot(cluster, "frontend"), boot(cluster, "compute-0")]);
    const seen = await driver.read("demo");
    for (const { name, privateMac } of cluster.plan.computes) {
      expect(privateMac).to.match(/^02:00:/);
      expect(seen.get(name)?.macs).to.deep.equal([privateMac]);
    }
  });

  // ── Requests ───────────────────────────────────────────────────────────────────────────────────────────────────────

  it("needs a bounded number of requests for 1+32, and none per node to wait for them", async () => {
    const record = await planned(32);
    const before = site.oned.requests;
    await driver.allocate(record);
    await driver.fixImages(record, SILENT);
    const cluster = (await driver.find("demo")) as ClusterRecord;
    const nodes = ["frontend", ...cluster.plan.computes.map(({ name }) => name)];
    await boot(cluster, "frontend");
    const computes = nodes.slice(1);
    // As the resources do: eight at a time.
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let node = computes.shift(); node; node = computes.shift()) {
          await boot(cluster, node);
        }
      }),
    );
    const made = site.oned.requests - before;
    expect(nodesOf(cluster.plan).length).to.equal(33);
    expect(made, "33 machines, and what is looked up for eight at a time").to.be.lessThan(33 + 120);

    const waiting = site.oned.requests;
    await Promise.all(
      nodes.map((node) => driver.waitFor({ cluster, node }, "ready", { seconds: 10, progress: SILENT })),
    );
    expect(site.oned.requests - waiting).to.be.lessThan(20);
    expect(site.oned.mostAtOnce).to.be.at.most(8);
  });
});
