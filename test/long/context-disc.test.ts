import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import type { ClusterRecord, DiskImage } from "../../provider/src/drivers/driver";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { configureOneAuth } from "../../provider/src/drivers/opennebula/credentials";
import type { OpenNebulaSettings } from "../../provider/src/drivers/settings";
import { home } from "../../provider/src/home";
import { examineDisk } from "../../provider/src/images/examine";
import { kvmUsable } from "../../provider/src/kvm";
import { planCluster } from "../../provider/src/plan/plan";
import { sha256 } from "../../provider/src/vc-out/digest";
import { frontendVcOut } from "../../provider/src/vc-out/vc-out";
import { writeVcOut } from "../../provider/src/vc-out/write";
import { eventually } from "../eventually";
import { standInSite } from "../stand-ins/opennebula/site";
import type { Machine } from "../stand-ins/opennebula/world";
import { contextDisc } from "../unit/context-disc";
import { VC_OUT_SAMPLES } from "../unit/guest-machine";

const MACS = ["0a:64:33:80:00:03", "0a:64:33:80:00:04"];
const base64 = (text: string) => Buffer.from(text).toString("base64");

/** A machine with nothing on its disk but the demo image, and an OpenNebula's context disc in its drive. */
describe("a guest that is given its vc-out.xml on a context disc", () => {
  let folder: string;
  let stop: () => Promise<unknown> = async () => undefined;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-disc-"));
  });

  afterEach(async () => {
    await stop();
    await rm(folder, { recursive: true });
  });

  it("is configured from it at boot, and follows when the disc is made anew", async () => {
    const vcOut = await readFile(join(VC_OUT_SAMPLES, "B-frontend", "vc-out.xml"), "utf8");
    const [disc, next, disk, serial, qmp] = ["one.iso", "two.iso", "disk.qcow2", "serial.log", "qmp"].map((name) =>
      join(folder, name),
    ) as [string, string, string, string, string];
    await writeFile(disc, contextDisc({ NETWORK: "YES", VC_OUT_XML_BASE64: base64(vcOut) }));
    const image = join(home("images"), "demo", "frontend.raw");
    await execa("qemu-img", ["create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", disk]);
    const nics = MACS.map((mac, index) => ({ mac, network: `hubport,id=net${index},hubid=${index}` }));
    stop = startMachine({ disk, disc, serial, qmp, nics });
    await said(serial, /vc-guest: ready \S+/, 240);

    const changed = vcOut.replace(/fqdn="[^".]+/, 'fqdn="another');
    expect(changed).to.not.equal(vcOut);
    await writeFile(
      next,
      contextDisc({ NETWORK: "YES", VC_OUT_XML_BASE64: base64(`${changed}<!-- broken -->`.replace("</vc>", "")) }),
    );
    await command(qmp, "blockdev-change-medium", { device: "context", filename: next, format: "raw", force: true });
    // It says on the console what is wrong with the new one: so it has been read.
    await said(serial, /vc-guest: failed: \/root\/vc-out\.xml: it does not end with <\/vc>/, 120);
  });

  it("counts as ready over ssh when it is configured from the disc that an OpenNebula would give it", async () => {
    const site = await standInSite();
    configureOneAuth(site.session);
    try {
      const [disc, disk, serial, qmp, key, sshConfig] = [
        "disc.iso",
        "disk.qcow2",
        "serial.log",
        "qmp",
        "key",
        "config",
      ].map((name) => join(folder, name)) as [string, string, string, string, string, string];
      await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", key]);
      const settings: OpenNebulaSettings = {
        driver: "opennebula",
        endpoint: site.endpoint,
        privateTemplate: "vc-private",
        datastore: "images",
        images: "/images",
        readiness: "ssh",
        sshConfig,
      };
      const driver = new OpenNebulaDriver(settings);
      const file = join(home("images"), "demo", "frontend.raw");
      const image: DiskImage = { ...(await examineDisk(file)), digest: sha256("demo") };
      const plan = planCluster(
        { name: "disc", numCpus: 1, cpusPerNode: 1, memoryPerNode: 256, frontend: { cpus: 1, memory: 256 } },
        await driver.describe(),
      );
      const mark = { owner: "o", organization: "o", project: "p", stack: "s", cluster: "c" };
      const planned: ClusterRecord = {
        name: "disc",
        mark: { version: 1, ...mark, createdAt: "2024-02-29T12:00:00.000Z" },
        site: settings,
        plan,
        image: { vcName: "demo", frontend: image, compute: image },
        publicKeys: [(await readFile(`${key}.pub`, "utf8")).trim()],
      };
      await driver.allocate(planned);
      await driver.fixImages(planned, () => undefined);
      const cluster = (await driver.find("disc")) as ClusterRecord;
      const ref = { cluster, node: "frontend" };
      const vcOut = writeVcOut(frontendVcOut(cluster.plan, cluster.publicKeys), "B");
      await driver.boot(ref, {
        role: "frontend",
        plan: cluster.plan.frontend,
        vcOut,
        keepDisk: false,
        power: "on",
        stop: { graceSeconds: 0 },
        progress: () => undefined,
      });
      const { context, nics } = site.oned.world.all<Machine>("VM")[0] as Machine;
      await writeFile(disc, contextDisc(Object.fromEntries(context ?? [])));
      await execa("qemu-img", ["create", "-q", "-f", "qcow2", "-b", file, "-F", "raw", disk]);
      const { publicIp } = cluster.plan.frontend;
      const port = await freePort();
      await writeFile(
        sshConfig,
        `Host ${publicIp}\n  HostName 127.0.0.1\n  Port ${port}\n  HostKeyAlias ${publicIp}\n  IdentityFile ${key}\n  IdentitiesOnly yes\n`,
      );
      const [privateMac, publicMac] = nics.map((nic) => nic.get("MAC") ?? "") as [string, string];
      const inward = `hostfwd=tcp:127.0.0.1:${port}-${publicIp}:22`;
      stop = startMachine({
        ...{ disk, disc, serial, qmp },
        nics: [
          { mac: privateMac, network: "hubport,id=net0,hubid=0" },
          { mac: publicMac, network: `user,id=net1,restrict=on,net=${cluster.plan.publicNetwork.cidr},${inward}` },
        ],
      });
      await driver.waitFor(ref, "ready", { seconds: 300, progress: () => undefined });
      expect(await driver.channel(ref)).to.equal("context");
      const { stdout } = await execa("ssh", [
        ...["-F", sshConfig, "-o", "StrictHostKeyChecking=yes"],
        ...["-o", `KnownHostsCommand=/bin/echo ${publicIp} ${cluster.keys?.hostKey}`, `root@${publicIp}`],
        ...["sha256sum", "/root/vc-out.xml"],
      ]);
      expect(stdout.split(" ")[0]).to.equal(sha256(vcOut));
    } finally {
      configureOneAuth(undefined);
      await site.oned.stop();
    }
  });
});

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

interface Nic {
  readonly mac: string;
  /** Of `-netdev`. */
  readonly network: string;
}

/** @returns what stops it */
function startMachine(files: {
  readonly disk: string;
  readonly disc: string;
  readonly serial: string;
  readonly qmp: string;
  readonly nics: readonly Nic[];
}): () => Promise<unknown> {
  const { disk, disc, serial, qmp, nics } = files;
  const machine = execa(
    "qemu-system-x86_64",
    [
      ...["-machine", "pc", "-accel", kvmUsable() ? "kvm" : "tcg", "-m", "256"],
      ...["-display", "none", "-nodefaults", "-vga", "std"],
      ...["-drive", `file=${disk},format=qcow2,if=none,id=disk`, "-device", "virtio-blk-pci,drive=disk,bootindex=1"],
      ...["-drive", `file=${disc},format=raw,if=ide,media=cdrom,readonly=on,id=context`],
      ...["-serial", `file:${serial}`, "-qmp", `unix:${qmp},server=on,wait=off`],
      ...nics.flatMap(({ mac, network }, index) => [
        ...["-netdev", network, "-device", `virtio-net-pci,netdev=net${index},mac=${mac}`],
      ]),
    ],
    { reject: false, stdin: "ignore" },
  );
  return async () => {
    machine.kill("SIGKILL");
    await machine;
  };
}

async function said(file: string, words: RegExp, seconds: number): Promise<void> {
  await eventually(async () => expect(await readFile(file, "latin1").catch(() => "")).to.match(words), seconds);
}

/** One command of QEMU's monitor. */
async function command(path: string, execute: string, args: object): Promise<void> {
  const socket: Socket = connect(path);
  try {
    let answers = "";
    socket.on("data", (chunk) => {
      answers += chunk;
    });
    const send = (message: object) => socket.write(`${JSON.stringify(message)}\n`);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    send({ execute: "qmp_capabilities" });
    send({ execute, arguments: args, id: "ours" });
    for (let tries = 0; tries < 100 && !answers.includes('"id": "ours"'); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(answers).to.not.include('"error"');
  } finally {
    socket.destroy();
  }
}
