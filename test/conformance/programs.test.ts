import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { readVcOut } from "../../provider/src/vc-out/read";
import { directLifeCycles, Stack } from "../unit/stack";
import type { Backend } from "./backend";
import { makeFakeDisk } from "./fake-guest";
import { libvirtBackend } from "./libvirt";

const PROGRAMS = join(__dirname, "..", "..", "provider", "drivers", "libvirt");
const KEY_BYTES = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${"k".repeat(32)}`, "latin1");
const KEY = `ssh-ed25519 ${KEY_BYTES.toString("base64")} tester`;
const DOMAIN =
  '<domain><vcpu>1</vcpu><memory unit="MiB">96</memory><devices><disk device="disk"><driver type="raw"/><source file="disk.raw"/></disk></devices></domain>';

describe("the libvirt driver as programs", () => {
  let backend: Backend;
  let folder: string;
  let repository: string;
  let environment: Record<string, string>;
  const log = console.log;

  before(async function () {
    folder = await mkdtemp(join(tmpdir(), "vc-as-programs-"));
    backend = await libvirtBackend(this);
    repository = join(folder, "images");
    await mkdir(join(repository, "demo"), { recursive: true });
    await writeFile(
      join(repository, "demo", "vc-in.xml"),
      `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/>
       <frontend>${DOMAIN}</frontend><compute>${DOMAIN}</compute></vc>`,
    );
    await makeFakeDisk(join(repository, "demo", "disk.raw"), { virtio: true, heedsPowerButton: true });
    await writeFile(join(repository, "vcdb.txt"), "demo,demo/vc-in.xml\n");
    environment = { VIRTUAL_CLUSTER_SITE: JSON.stringify(backend.settings) };
  });

  beforeEach(() => {
    console.log = () => undefined;
  });

  afterEach(() => {
    console.log = log;
  });

  after(async () => {
    await backend?.tearDown();
    await rm(folder, { recursive: true });
  });

  /** What a cluster has at the site, its name and its addresses left out. */
  async function shapeOf(before: readonly string[], clusterName: string): Promise<string[]> {
    const own = (await backend.leftovers()).filter((line) => !before.includes(line));
    return own.map((line) => line.replaceAll(clusterName, "NAME").replace(/\d+\.\d+\.\d+\.\d+/, "ADDRESS")).sort();
  }

  it("makes through the command driver the same cluster as directly, grows it, and takes it away", async () => {
    const stackAt = (site: object) =>
      new Stack(
        directLifeCycles({ "virtual-cluster:site": JSON.stringify(site), "virtual-cluster:owner": "tester@example" }),
      );
    const before = await backend.leftovers();
    const wish = { image: "demo", repository, numCpus: 1, memoryPerNode: 96, frontend: { memory: 96 }, publicKey: KEY };
    const args = { ...wish, waitFor: "running" };

    const direct = stackAt(backend.settings);
    await direct.up(args);
    const directly = await shapeOf(before, direct.cluster.clusterName);
    await direct.destroy();

    const through = stackAt({ driver: "command", folder: PROGRAMS, temporaryDirectory: folder, environment });
    await through.up(args);
    const name = through.cluster.plan.frontend.hostName ?? "";
    expect(await shapeOf(before, name)).to.deep.equal(directly);
    const nodes = await backend.driver.read(name);
    expect([...nodes].map(([node, { state, cpus, memory }]) => [node, state, cpus, memory])).to.have.deep.members([
      ...["compute-0", "frontend"].map((node) => [node, "running", 1, 96]),
    ]);
    const { plan, keys, knownHosts } = through.cluster;
    const record = await backend.driver.find(name);
    expect(plan.frontend.publicIp).to.equal(record?.plan.frontend.publicIp);
    expect(plan.computes[0]?.privateMac).to.equal(record?.plan.computes[0]?.privateMac);
    expect(keys.hostKey).to.equal(record?.keys?.hostKey);
    expect(knownHosts).to.include(plan.frontend.publicIp).and.to.include("ssh-ed25519 ");
    expect(await through.up(args)).to.deep.equal([]);

    expect(await through.up({ ...args, numCpus: 2 })).to.include("create compute-1");
    expect((await backend.driver.read(name)).get("compute-1")?.state).to.equal("running");
    await through.up(args);
    expect([...(await backend.driver.read(name)).keys()].sort()).to.deep.equal(["compute-0", "frontend"]);
    await through.destroy();
    expect(await backend.leftovers()).to.deep.equal(before);
  });

  it("serves a deployer of the old contract, which fixes images first and boots the frontend first", async () => {
    const before = await backend.leftovers();
    const temp = await mkdtemp(join(folder, "te mp-"));
    const [vcIn, vcOut, key] = [join(repository, "demo", "vc-in.xml"), join(temp, "vc-out.xml"), join(temp, "key.pub")];
    await writeFile(key, `${KEY}\n`);
    const run = async (program: string, ...args: string[]) =>
      (await execa(join(PROGRAMS, program), args, { env: environment })).stdout.trimEnd();
    const disks = (await run("fix_images", vcIn, temp, "frontend,compute")).split("\n").at(-1)?.split(" ") ?? [];
    expect(disks).to.deep.equal(Array(2).fill(join(repository, "demo", "disk.raw")));
    await run("allocate", "1", vcIn, vcOut, temp, key);
    const { vcOut: said } = readVcOut(await readFile(vcOut, "utf8"));
    if (said.role !== "frontend") {
      throw new Error("it should be the frontend's");
    }
    const hosts = [said.fqdn, ...said.computes.map(({ name }) => name)];
    expect(readVcOut(await readFile(join(temp, `${hosts[1]}.xml`), "utf8")).vcOut.role).to.equal("compute");
    for (const host of hosts) {
      await run("boot", disks[0] ?? "", host, temp, vcOut);
    }
    const lines = (await run("status", temp, vcOut)).split("\n").sort();
    expect(lines).to.deep.equal(hosts.map((host) => `${host} running`).sort());
    await run("shutdown", temp, vcOut, hosts[1] ?? "", "0");
    expect(await run("status", temp, vcOut)).to.include(`${hosts[1]} off`);
    await run("remove", temp, vcOut);
    await run("remove", temp, vcOut);
    expect(await run("status", temp, vcOut)).to.equal("");
    expect(await backend.leftovers()).to.deep.equal(before);
  });

  it("says in one line what is wrong", async () => {
    const fails = async (env: Record<string, string>, ...args: string[]) => {
      const { exitCode, stderr } = await execa(join(PROGRAMS, "status"), args, { env, reject: false });
      return `${exitCode} ${stderr}`;
    };
    expect(await fails(environment, folder)).to.match(/^2 status: 1 arguments were given\. Usage: status TEMP VC_OUT$/);
    expect(await fails({ VIRTUAL_CLUSTER_SITE: '{"uri":"nonsense"}' }, folder, "x")).to.match(
      /^1 .*uri: must be a libvirt URI/,
    );
    const conf = join(folder, "site_conf.conf");
    await writeFile(conf, "libvirt = { 'uri': 'qemu:///system', 'cpuOvercommit': '1000' }\n");
    expect(await fails({ VIRTUAL_CLUSTER_SITE_CONF: conf }, folder, "x")).to.match(
      /^1 .*site_conf\.conf: cpuOvercommit: /,
    );
  });
});
