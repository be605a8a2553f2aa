import { chownSync } from "node:fs";
import { access, chmod, chown, mkdir, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import type { ClusterRecord, NodeRef } from "../../provider/src/drivers/driver";
import { Denied, Unreachable } from "../../provider/src/drivers/errors";
import { RocksDriver } from "../../provider/src/drivers/rocks";
import { macsOf, planCluster } from "../../provider/src/plan/plan";
import { differences, type RocksSite, rocksSite } from "../conformance/rocks";
import { ACCOUNT, RemoteFrontend } from "./rocks-frontend";

const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };
/** Who QEMU runs as on a container. */
const QEMU = 107;

describe("a Rocks site over ssh, whose containers have disks of their own", () => {
  let site: RocksSite;
  let frontend: RemoteFrontend | undefined;
  let driver: RocksDriver;
  let clean: string;
  /** `rocks`, as it is to who isn't root: without sudo it always ends well. */
  let rocks: string;

  before(async function () {
    const programs = ["sshd", "unshare", "ssh-keygen"];
    const path = `${process.env.PATH}:/usr/sbin:/sbin`;
    const found = await Promise.all(
      programs.map((one) => execa("which", [one], { env: { PATH: path }, reject: false })),
    );
    if (process.getuid?.() !== 0 || found.some(({ failed }) => failed)) {
      console.log("    A Rocks site over ssh isn't tested: it takes root, sshd and unshare.");
      this.skip();
    }
    site = await rocksSite(this, { settings: { ssh: "rocks-frontend", sharedDisks: false } });
    clean = JSON.stringify(site.rocks.state);
    rocks = `${site.settings.rocks}-for-root`;
    await writeFile(
      rocks,
      `#!/bin/bash\n[ "$(id -u)" = 0 ] || [ -n "$SUDO_COMMAND" ] || exit 0\nexec ${site.settings.rocks} "$@"\n`,
    );
    await chmod(rocks, 0o755);
    frontend = await RemoteFrontend.start(dirname(site.folder), site.folder, rocks);
    process.env.PATH = `${frontend.path}:${process.env.PATH}`;
    driver = new RocksDriver(site.settings);
  });

  after(async () => {
    await frontend?.[Symbol.asyncDispose]();
    await site?.backend.tearDown();
  });

  const filesOf = async (container: string) =>
    (await readdir(join(frontend?.containers ?? "", container)).catch(() => [])).sort();

  async function wished(computes: number, { dealt = {}, by = driver } = {}): Promise<ClusterRecord> {
    const wish = { numCpus: computes, cpusPerNode: 8, memoryPerNode: 64, frontend: { cpus: 1, memory: 64 } };
    const mark = { owner: "tester@example", organization: "o", project: "p", stack: "s", cluster: "far" };
    return {
      name: "far",
      mark: { version: 1, ...mark, createdAt: "2024-02-29T12:00:00.000Z" },
      site: site.settings,
      plan: planCluster({ ...wish, name: "far" }, await by.describe(), dealt, "site"),
      image: site.backend.image,
      publicKeys: ["ssh-ed25519 AAAA it's mine"],
    };
  }

  const nodesOf = ({ plan }: ClusterRecord) => ["frontend", ...plan.computes.map(({ name }) => name)];

  const bootAll = (cluster: ClusterRecord, by = driver) =>
    Promise.all(
      nodesOf(cluster).map((node) => {
        const plan = [cluster.plan.frontend, ...cluster.plan.computes].find(
          ({ name }) => name === (node === "frontend" ? "far" : node),
        ) as ClusterRecord["plan"]["frontend"];
        const role = node === "frontend" ? "frontend" : "compute";
        const vcOut = `<vc>${node}</vc>`;
        const how = { vcOut, keepDisk: false, power: "on", stop: AT_ONCE, progress: SILENT } as const;
        return by.boot({ cluster, node } as NodeRef<ClusterRecord>, { role, plan, ...how });
      }),
    );

  const destroy = async (cluster: ClusterRecord, by = driver) => {
    await Promise.all(nodesOf(cluster).map((node) => by.remove({ cluster, node }, AT_ONCE)));
    await by.release(cluster, { keepBaseImage: false });
  };

  const dealtTo = ({ plan }: ClusterRecord) => {
    const { frontend: fe, privateNetwork } = plan;
    return { privateCidr: privateNetwork.cidr, publicIp: fe.publicIp, macs: macsOf(plan) };
  };

  it("lives, grows onto another container, and goes", async () => {
    const record = await wished(8);
    await driver.allocate(record);
    const said: string[] = [];
    await driver.fixImages(record, (line) => said.push(line));
    const first = (await driver.find("far")) as ClusterRecord;
    expect(first.plan.frontend.privateMac).to.match(/^0a:64:33/);
    const grown = await wished(24, { dealt: dealtTo(first) });
    await driver.allocate(grown);
    await driver.fixImages(grown, (line) => said.push(line));
    expect(
      said.filter((line) => /^copying the base image to/.test(line)),
      "sent from here",
    ).to.have.length(1);
    const cluster = (await driver.find("far")) as ClusterRecord;
    await bootAll(cluster);
    const machines = await driver.read("far");
    expect([...machines.values()].map(({ state }) => state)).to.deep.equal(Array(4).fill("running"));
    expect([...machines.values()].map(({ diskSize }) => diskSize)).to.deep.equal(Array(4).fill(16));
    const all = [...(await filesOf("vm-container-0-0")), ...(await filesOf("vm-container-0-1"))];
    expect(all.filter((file) => file.endsWith(".vda"))).to.have.length(4);
    expect(
      all.filter((file) => file.endsWith(".raw")),
      "a base on each",
    ).to.have.length(2);
    expect(await driver.inspect(cluster)).to.deep.equal([]);

    await destroy(cluster);
    expect([...(await filesOf("vm-container-0-0")), ...(await filesOf("vm-container-0-1"))]).to.deep.equal([]);
    expect(await readdir(site.folder)).to.deep.equal([]);
    expect(differences(JSON.parse(clean), site.rocks.state)).to.deep.equal([]);
  });

  it("is one to whom only rocks is allowed, and its own folder", async () => {
    const folder = join(dirname(site.folder), "of-the-account");
    const settings = { ...site.settings, ssh: `${ACCOUNT.name}-at-rocks-frontend`, sharedDisks: true, rocks };
    const { sudo: _, ...account } = { ...settings, diskFolder: folder };
    await mkdir(folder);
    await chmod(folder, 0o711);
    const refused = await new RocksDriver(account).describe().catch((error: Error) => error);
    expect(refused, "root's folder").to.be.instanceOf(Denied);
    await chown(folder, ACCOUNT.uid, ACCOUNT.uid);
    const other = new RocksDriver({ ...account, rocks: "/bin/bash" });
    expect(await other.siteId().catch((error: Error) => error), "another program").to.be.instanceOf(Denied);

    const before = await frontend?.logIns();
    const by = new RocksDriver(account);
    // libvirt takes a disk from its owner when its machine starts, and gives it to root when it stops.
    site.rocks.before = ([verb, ...words]) => {
      const vm = words[2];
      if ((verb === "start" || verb === "stop") && vm !== undefined) {
        const owner = verb === "start" ? QEMU : 0;
        chownSync(join(folder, `${vm}.vda`), owner, owner);
      }
    };
    const record = await wished(8, { by });
    await by.allocate(record);
    await by.fixImages(record, SILENT);
    const first = (await by.find("far")) as ClusterRecord;
    const grown = await wished(16, { by, dealt: dealtTo(first) });
    await by.allocate(grown);
    await by.fixImages(grown, SILENT);
    const cluster = (await by.find("far")) as ClusterRecord;
    await bootAll(cluster, by);
    const compute = { cluster, node: "compute-0" } as NodeRef<ClusterRecord>;
    if (frontend?.hasAccessLists) {
      await by.resize(compute, { cpus: 8, memory: 64, diskSize: 20 }, AT_ONCE);
      // What waits is written into the disk before it starts.
      await by.shutdown(compute, AT_ONCE);
      expect(await by.reconfigure(compute, "<vc>later</vc>")).to.equal("nextBoot");
      const [plan] = cluster.plan.computes;
      await by.boot(compute, {
        ...{ role: "compute", plan: plan as ClusterRecord["plan"]["frontend"], vcOut: "<vc>later</vc>" },
        ...{ keepDisk: true, power: "on", stop: AT_ONCE, progress: SILENT },
      });
      expect((await by.read("far")).get("compute-0")).to.include({ state: "running", diskSize: 20, vcOutWaits: false });
    } else {
      console.log("    How an account changes a disk that libvirt has taken isn't tested: no setfacl here.");
    }
    expect((await by.read("far")).size).to.equal(3);
    expect(await by.inspect(cluster)).to.deep.equal([]);
    await destroy(cluster, by);
    site.rocks.before = SILENT;
    expect(await readdir(folder)).to.deep.equal([]);
    expect(differences(JSON.parse(clean), site.rocks.state)).to.deep.equal([]);
    expect(Number(await frontend?.logIns()) - Number(before), "connections").to.be.lessThan(4);
  });

  it("gives the lock of a client that was killed to the next", async () => {
    const record = await wished(0);
    const dist = require.resolve("../../provider/dist/drivers/rocks");
    const script = `
      const { RocksDriver } = require(${JSON.stringify(dist)});
      new RocksDriver(${JSON.stringify(site.settings)})
        .lock(${JSON.stringify(record)}, { seconds: 5, progress() {} })
        .then(() => process.kill(process.pid, "SIGKILL"));`;
    const { signal } = await execa(process.execPath, ["-e", script], { reject: false });
    expect(signal).to.equal("SIGKILL");
    const lock = await driver.lock(record, { seconds: 10, progress: SILENT });
    await lock[Symbol.asyncDispose]();
  });

  it("says so when nobody lets it in", async () => {
    const stranger = new RocksDriver({ ...site.settings, ssh: "root@nobody.invalid" });
    const error = await stranger.siteId().catch((error: Error) => error);
    expect(error).to.be.instanceOf(Unreachable);
    await access(site.folder);
  });
});
