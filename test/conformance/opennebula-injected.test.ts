import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import type { ClusterRecord, DiskImage } from "../../provider/src/drivers/driver";
import { NotSupported } from "../../provider/src/drivers/errors";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { configureOneAuth } from "../../provider/src/drivers/opennebula/credentials";
import type { OpenNebulaSettings } from "../../provider/src/drivers/settings";
import { digestOf } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import { ExtFileSystem } from "../../provider/src/images/root/file-system";
import { virtualCluster } from "../../provider/src/index";
import { planCluster } from "../../provider/src/plan/plan";
import { sha256 } from "../../provider/src/vc-out/digest";
import { computeVcOut, frontendVcOut } from "../../provider/src/vc-out/vc-out";
import { writeVcOut } from "../../provider/src/vc-out/write";
import { fetchImages } from "../stand-ins/opennebula/front-end";
import { type StandInSite, standInSite } from "../stand-ins/opennebula/site";
import { type Img, type Machine, type Net, VM } from "../stand-ins/opennebula/world";
import { makeFakeDisk } from "./fake-guest";

const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };
const PROGRAMS = ["qemu-img", "qemu-storage-daemon", "debugfs", "mke2fs", "setpriv"];

describe("OpenNebula, with an image that reads no context disc", () => {
  let site: StandInSite;
  let settings: OpenNebulaSettings;
  let driver: OpenNebulaDriver;
  let folder: string;
  let session: string;
  let image: DiskImage;
  const before = { ...process.env };

  beforeEach(async function () {
    const found = await Promise.all(PROGRAMS.map((one) => execa("which", [one], { reject: false })));
    if (found.some(({ failed }) => failed)) {
      console.log(`    Disks of nodes' own aren't tested: that takes ${PROGRAMS.join(", ")}.`);
      this.skip();
    }
    folder = await mkdtemp(join(tmpdir(), "vc-one-"));
    process.env.VIRTUAL_CLUSTER_HOME = folder;
    // No guest of these can be reached, until a test says otherwise.
    await writeFile(join(folder, "ssh"), "#!/bin/sh\nexit 255\n");
    await chmod(join(folder, "ssh"), 0o755);
    process.env.PATH = `${folder}:${before.PATH}`;
    const disk = join(folder, "disk.raw");
    await makeFakeDisk(disk, { virtio: true, heedsPowerButton: true, files: { "usr/bin/cloud-init": "" } });
    image = { ...(await examineDisk(disk)), digest: await digestOf(disk) };
    site = await standInSite();
    fetchImages(site.oned, folder);
    session = site.session;
    configureOneAuth(session);
    settings = {
      driver: "opennebula",
      endpoint: site.endpoint,
      privateTemplate: "vc-private",
      datastore: "images",
      imageServer: "http://127.0.0.1:0",
    };
    driver = new OpenNebulaDriver(settings);
  });

  afterEach(async () => {
    configureOneAuth(undefined);
    Object.assign(process.env, { PATH: before.PATH, VIRTUAL_CLUSTER_HOME: before.VIRTUAL_CLUSTER_HOME });
    if (before.VIRTUAL_CLUSTER_HOME === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    }
    await site?.oned.stop();
    await rm(folder, { recursive: true });
  });

  const images = () => site.oned.world.all<Img>("IMAGE");
  const machines = () => site.oned.world.all<Machine>("VM").filter(({ state }) => state !== VM.DONE);
  const root = (name: string) => new ExtFileSystem(join(folder, name), image.rootOffset);

  async function planned(computes: number): Promise<ClusterRecord> {
    const wish = { name: "demo", numCpus: computes, cpusPerNode: 1, memoryPerNode: 64 };
    const mark = { owner: "o", organization: "o", project: "p", stack: "s", cluster: "c" };
    return {
      name: "demo",
      mark: { version: 1, ...mark, createdAt: "2024-02-29T12:00:00.000Z" },
      site: settings,
      plan: planCluster({ ...wish, frontend: { cpus: 1, memory: 64 } }, await driver.describe()),
      image: { vcName: "demo", frontend: image, compute: image },
      publicKeys: ["ssh-ed25519 AAAA tester"],
    };
  }

  async function allocated(computes = 1): Promise<ClusterRecord> {
    const record = await planned(computes);
    await driver.allocate(record);
    await driver.fixImages(record, SILENT);
    return (await driver.find("demo")) as ClusterRecord;
  }

  const boot = (
    cluster: ClusterRecord,
    node: string,
    vcOut = vcOutOf(cluster, node),
    progress: (line: string) => void = SILENT,
  ) =>
    driver.boot(
      { cluster, node },
      {
        role: node === "frontend" ? "frontend" : "compute",
        plan:
          node === "frontend"
            ? cluster.plan.frontend
            : (cluster.plan.computes.find(({ name }) => name === node) as never),
        vcOut,
        keepDisk: machines().length > 0,
        power: "on",
        stop: AT_ONCE,
        progress,
      },
    );

  it("gives each node a disk of its own with its vc-out.xml in it, which goes with it", async () => {
    const cluster = await allocated(2);
    const nodes = ["frontend", "compute-0", "compute-1"];
    await Promise.all(nodes.map((node) => boot(cluster, node)));
    for (const node of nodes) {
      expect(await root(`demo-${node}`).read("/root/vc-out.xml")).to.equal(vcOutOf(cluster, node));
      const machine = machines().find(({ name }) => name === `demo-${node}`);
      expect(machine?.disks.map((disk) => disk.get("IMAGE"))).to.deep.equal([`demo-${node}`]);
      // Else cloud-init would take that for its seed.
      expect(machine?.context).to.equal(undefined);
    }
    expect(await root("demo-compute-0").list("/var/lib/cloud/seed/nocloud")).to.not.deep.equal([]);
    expect(images().every(({ persistent }) => persistent)).to.equal(true);
    expect(await driver.inspect(cluster), "no base is missed").to.deep.equal([]);
    expect(await boot(cluster, "compute-0")).to.equal("kept");
    for (const node of nodes) {
      await driver.remove({ cluster, node }, AT_ONCE);
    }
    expect(images()).to.deep.equal([]);
  });

  it("makes a compute's disk anew for its new vc-out.xml, and says that a frontend's stays as it is", async () => {
    const cluster = await allocated();
    await Promise.all([boot(cluster, "frontend"), boot(cluster, "compute-0")]);
    for (const node of ["frontend", "compute-0"]) {
      const ref = { cluster, node };
      await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
      expect(await driver.channel(ref)).to.equal("nextBoot");
      expect(await driver.reconfigure(ref, vcOutOf(cluster, ref.node, "new"))).to.equal("nextBoot");
      await driver.shutdown(ref, AT_ONCE);
    }
    expect((await driver.read("demo")).get("compute-0")).to.include({ vcOutWaits: true, state: "off" });
    const said: string[] = [];
    expect(await boot(cluster, "compute-0", vcOutOf(cluster, "compute-0", "new"))).to.equal("created");
    expect(await boot(cluster, "frontend", vcOutOf(cluster, "frontend", "new"), (line) => said.push(line))).to.equal(
      "started",
    );
    expect(await root("demo-compute-0").read("/root/vc-out.xml")).to.equal(vcOutOf(cluster, "compute-0", "new"));
    expect(said.join()).to.include("starts with the vc-out.xml that it has");
    const seen = await driver.read("demo");
    expect(seen.get("compute-0")).to.include({
      vcOutWaits: false,
      vcOutDigest: sha256(vcOutOf(cluster, "compute-0", "new")),
    });
    expect(seen.get("frontend")).to.include({ vcOutWaits: true, vcOutDigest: sha256(vcOutOf(cluster, "frontend")) });
  });

  it("hands a frontend its new vc-out.xml over ssh where it is reached", async () => {
    const cluster = await allocated();
    await boot(cluster, "frontend");
    const ref = { cluster, node: "frontend" };
    await driver.waitFor(ref, "running", { seconds: 5, progress: SILENT });
    await writeFile(join(folder, "ssh"), `#!/bin/sh\nfor last; do :; done\ncat > ${join(folder, "given-")}$last\n`);
    expect(await driver.reconfigure(ref, vcOutOf(cluster, ref.node, "new"))).to.equal("live");
    expect(await readFile(join(folder, "given-replace"), "utf8")).to.equal(vcOutOf(cluster, "frontend", "new"));
    expect((await driver.read("demo")).get("frontend")).to.include({
      vcOutDigest: sha256(vcOutOf(cluster, "frontend", "new")),
    });
    // A machine that is made anew runs on the same disk, and is known to have the file that lies there.
    site.oned.done(machines()[0] as Machine);
    await driver.boot(ref, {
      role: "frontend",
      plan: cluster.plan.frontend,
      vcOut: vcOutOf(cluster, "frontend", "newer"),
      keepDisk: true,
      power: "on",
      stop: AT_ONCE,
      progress: SILENT,
    });
    expect((await driver.read("demo")).get("frontend")).to.include({
      vcOutDigest: sha256(vcOutOf(cluster, "frontend", "new")),
      vcOutWaits: true,
    });
  });

  it("makes one disk and one machine whenever it was cut off before, and leaves nothing", async () => {
    const cluster = await allocated();
    for (let requests = 1; ; requests += 4) {
      site.oned.letThrough = requests;
      const whole = await boot(cluster, "compute-0").then(
        () => true,
        () => false,
      );
      site.oned.letThrough = Number.POSITIVE_INFINITY;
      if (whole) {
        expect(requests, "the disk and the machine, at least").to.be.greaterThan(4);
        break;
      }
      if (requests === 9) {
        await driver.release(cluster, { keepBaseImage: false });
        expect([images(), site.oned.world.all<Net>("NET").length]).to.deep.equal([[], 1]);
        await allocated();
      }
      await boot(cluster, "compute-0");
      expect(images().map(({ name }) => name)).to.deep.equal(["demo-compute-0"]);
      expect(machines().length).to.equal(1);
      await driver.remove({ cluster, node: "compute-0" }, AT_ONCE);
      expect(images()).to.deep.equal([]);
    }
  });

  it("counts a node as ready when it runs, since it can't tell OneGate", async () => {
    settings = { ...settings, readiness: "oneGate" };
    driver = new OpenNebulaDriver(settings);
    const cluster = await allocated();
    await boot(cluster, "compute-0");
    await driver.waitFor({ cluster, node: "compute-0" }, "ready", { seconds: 5, progress: SILENT });
    expect(machines()[0]?.user.has("READY")).to.equal(false);
  });

  describe("in the preview", () => {
    const said: string[] = [];
    const log = console.log;

    beforeEach(async () => {
      const disk = `<domain><devices><disk><driver name="qemu" type="raw"/><source file="disk.raw"/></disk></devices></domain>`;
      await writeFile(join(folder, "vcdb.txt"), "mine,vc-in.xml\n");
      await writeFile(
        join(folder, "vc-in.xml"),
        `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/><driver>any</driver>
<frontend>${disk}</frontend><compute>${disk}</compute></vc>`,
      );
      said.length = 0;
    });

    async function preview(site: OpenNebulaSettings, more: object = {}) {
      const lifeCycle = virtualCluster({ config: new Map([["virtual-cluster:repository", folder]]) } as never);
      configureOneAuth(session);
      const identity = { organization: "o", project: "p", stack: "s", name: "c" };
      console.log = (line) => said.push(String(line));
      try {
        const publicKey = `ssh-ed25519 ${Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${"k".repeat(32)}`, "latin1").toString("base64")}`;
        return await lifeCycle.check({}, { ...identity, image: "mine", numCpus: 1, publicKey, site, ...more });
      } finally {
        console.log = log;
      }
    }

    it("is said to need site.imageServer, before anything is made", async () => {
      const { imageServer: _, ...without } = settings;
      const { failures } = await preview(without);
      expect(failures.map(({ property }) => property)).to.deep.equal(["site"]);
      expect(failures[0]?.reason).to.include("site.imageServer").and.include("image mine");
      const error = await new OpenNebulaDriver(without).allocate(await planned(1)).catch((thrown) => thrown);
      expect(error).to.be.instanceOf(NotSupported);
      expect(site.oned.world.all<Net>("NET").length).to.equal(1);
    });

    it("is said to be fetched from this machine, and to tell OneGate nothing", async () => {
      const { failures } = await preview({ ...settings, readiness: "oneGate" });
      expect(failures).to.deep.equal([]);
      expect(said.join("\n"))
        .to.include("each node gets a disk of its own")
        .and.include("must reach this machine at http://127.0.0.1:0")
        .and.include("counts as ready when it runs");
    });

    it("can't keep its disk", async () => {
      for (const delivery of [undefined, "image"] as const) {
        const { failures } = await preview({ ...settings, ...(delivery && { delivery }) }, { retainDisks: true });
        expect(new Set(failures.map(({ property }) => property))).to.deep.equal(new Set(["retainDisks"]));
      }
    });
  });
});

/** @param key what tells one from the next */
function vcOutOf({ plan }: ClusterRecord, node: string, key = "first"): string {
  const compute = plan.computes.find(({ name }) => name === node);
  const keys = [`ssh-ed25519 AAAA ${key}`];
  return writeVcOut(compute ? computeVcOut(plan, compute, keys) : frontendVcOut(plan, keys), "B");
}
