import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import type { DiskImage, ImageRecord } from "../../provider/src/drivers/driver";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { configureOneAuth } from "../../provider/src/drivers/opennebula/credentials";
import type { OpenNebulaSettings } from "../../provider/src/drivers/settings";
import { sha256 } from "../../provider/src/vc-out/digest";
import { standInSite } from "../stand-ins/opennebula/site";
import { single } from "../stand-ins/opennebula/template";
import { IMG, type Img, type Machine, type Net, VM } from "../stand-ins/opennebula/world";
import type { Backend } from "./backend";

const GOES_WITH_MACHINE = "a compute's disk goes with its machine";

const EXEMPT = new Map([
  [
    "finds a stopped network; allocate starts it and plugs the machines in again",
    "a network is there or isn't: nobody can stop it",
  ],
  ["doesn't say which vc-out.xml a kept disk has", GOES_WITH_MACHINE],
  ["makes the disk anew that was lost behind a machine that is off", GOES_WITH_MACHINE],
  [
    "sees what a running machine's next start would give it, and gives that back without a restart",
    "a running machine has no other shape for its next start",
  ],
]);

/** A stand-in for OpenNebula, used by a plain user. */
export async function openNebulaBackend(): Promise<Backend> {
  const site = await standInSite();
  const { oned, user } = site;
  const { world } = oned;
  const homeBefore = process.env.VIRTUAL_CLUSTER_HOME;
  const folder = await mkdtemp(join(tmpdir(), "vc-one-"));
  process.env.VIRTUAL_CLUSTER_HOME = folder;
  configureOneAuth(site.session);
  oned.imageMib = 16;
  // Guests of the other image don't listen.
  oned.faults.ignoresStops = ({ disks }) => disks[0]?.get("DEV_PREFIX") === "sd";
  const settings: OpenNebulaSettings = {
    driver: "opennebula",
    endpoint: site.endpoint,
    network: "public",
    privateTemplate: "vc-private",
    datastore: "images",
    images: "/images",
    readiness: "oneGate",
  };
  let stranger: { readonly asMade: () => boolean; readonly remove: () => void } | undefined;

  const netOf = (name: string) => world.all<Net>("NET").find((net) => net.name === name);
  const imageOf = (name: string) => world.all<Img>("IMAGE").find((image) => image.name === name);
  const machineOf = (cluster: string, node: string): Machine => {
    const found = world.all<Machine>("VM").find((vm) => vm.name === `${cluster}-${node}` && vm.state !== VM.DONE);
    if (!found) {
      throw new Error(`no machine ${cluster}-${node}`);
    }
    return found;
  };
  const diskOf = (cluster: string, node: string): { content: string } =>
    world.all<Machine>("VM").find((vm) => vm.name === `${cluster}-${node}` && vm.state !== VM.DONE) ??
    (imageOf(`${cluster}-${node}`) as Img);
  const fill = (kind: "VM" | "NET") => ({
    uid: user.id,
    gid: user.gid,
    permissions: [1, 1, 0, 0, 0, 0, 0, 0, 0],
    template: new Map(),
    id: world.nextId(kind),
  });

  return {
    driver: new OpenNebulaDriver(settings),
    otherProcess: new OpenNebulaDriver(settings),
    unreachable: new OpenNebulaDriver({ ...settings, endpoint: "http://127.0.0.1:1/RPC2" }),
    settings,
    image: imageRecord("image", "virtio"),
    otherImage: imageRecord("other image", "sata"),
    guestsAnswer: true,
    exempt: EXEMPT,
    showsConsole: true,
    interruptEvery: 4,
    memory: 64,

    leftovers: async () => [
      ...world
        .all<Net>("NET")
        .filter(({ id }) => id > 0)
        .map(({ name }) => `network ${name}`),
      ...world.all<Img>("IMAGE").map(({ name }) => `image ${name}`),
      ...world.all("TEMPLATE").map(({ name }) => `template ${name}`),
      ...world
        .all<Machine>("VM")
        .filter(({ state }) => state !== VM.DONE)
        .map(({ name }) => `machine ${name}`),
    ],
    holdsBase: async (digest) => [IMG.READY, IMG.USED].some((state) => imageOf(`vc-base-${digest}`)?.state === state),
    requests: async () => oned.requests,
    interruptAfter: async (requests) => {
      oned.letThrough = requests ?? Number.POSITIVE_INFINITY;
    },

    turnOff: async (cluster, node) => {
      await settled(machineOf(cluster, node));
      oned.turnOff(machineOf(cluster, node));
    },
    forgetMachine: async (cluster, node) => oned.done(machineOf(cluster, node)),
    forgetNetwork: async (cluster) => {
      const net = netOf(`${cluster}-private`);
      if (net) {
        oned.dropNet(net);
      }
    },
    stopNetwork: async () => undefined,
    isPluggedIn: async () => true,
    takeAutostart: async () => undefined,
    reshape: async (cluster, node, memory) => {
      machineOf(cluster, node).template.set("MEMORY", [String(memory)]);
    },
    deleteDisk: async (cluster, node) => {
      const image = imageOf(`${cluster}-${node}`);
      if (image) {
        world.remove(image);
      }
    },
    dieWithLock: async (cluster) => {
      const dist = require.resolve("../../provider/dist/drivers/opennebula");
      const script = `
        const { OpenNebulaDriver } = require(${JSON.stringify(dist)});
        new OpenNebulaDriver(${JSON.stringify(settings)})
          .lock(${JSON.stringify(cluster)}, { seconds: 1, progress() {} })
          .then(() => process.kill(process.pid, "SIGKILL"));`;
      const auth = join(folder, "one_auth");
      await writeFile(auth, site.session);
      const env = { ONE_AUTH: auth };
      const { signal } = await execa(process.execPath, ["-e", script], { reject: false, env });
      if (signal !== "SIGKILL") {
        throw new Error("the process that should have died with the lock didn't");
      }
    },
    vcOutOnDisk: async (cluster, node) => {
      const encoded = machineOf(cluster, node).context?.get("VC_OUT_XML_BASE64") ?? "";
      return Buffer.from(encoded, "base64").toString("utf8");
    },
    scribble: async (cluster, node) => {
      diskOf(cluster, node).content = "scribbled";
      const image = imageOf(`${cluster}-${node}`);
      if (image) {
        image.content = "scribbled";
      }
    },
    isScribbled: async (cluster, node) =>
      (imageOf(`${cluster}-${node}`) ?? diskOf(cluster, node)).content === "scribbled",
    makeUnhealthy: async (cluster, node) => {
      const machine = machineOf(cluster, node);
      machine.healthy = false;
      machine.user.delete("READY");
      machine.user.set("ERROR", ["no root file system \u001b[31m é"]);
    },
    makeStrangerNetwork: async (name) => {
      const net: Net = world.add({
        ...fill("NET"),
        kind: "NET",
        name: `${name}-private`,
        state: 1,
        previous: 1,
        cluster: 100,
        bridge: "theirs",
        automaticVlan: false,
        ranges: [],
      });
      stranger = {
        asMade: () => world.find("NET", net.id) === net && net.template.size === 0,
        remove: () => world.remove(net),
      };
    },
    makeStrangerMachine: async (cluster, node) => {
      const machine: Machine = world.add({
        ...fill("VM"),
        kind: "VM",
        name: `${cluster}-${node}`,
        template: new Map([
          ["CPU", ["1"]],
          ["MEMORY", ["64"]],
        ]),
        state: VM.POWEROFF,
        lcm: 0,
        user: new Map(),
        disks: [],
        nics: [],
        context: undefined,
        host: 0,
        content: "theirs",
        healthy: true,
        endTime: 0,
      });
      stranger = {
        asMade: () =>
          machine.state === VM.POWEROFF && machine.user.size === 0 && single(machine.template, "MEMORY") === "64",
        remove: () => world.remove(machine),
      };
    },
    removeStranger: async () => {
      const asMade = stranger?.asMade() ?? false;
      stranger?.remove();
      return asMade;
    },
    tearDown: async () => {
      configureOneAuth(undefined);
      process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
      if (homeBefore === undefined) {
        delete process.env.VIRTUAL_CLUSTER_HOME;
      }
      await oned.stop();
      await rm(folder, { recursive: true });
    },
  };
}

/** Until it isn't on its way from one state to another. */
async function settled(machine: Machine): Promise<void> {
  while (machine.state === VM.PENDING || (machine.state === VM.ACTIVE && machine.lcm !== 3)) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function imageRecord(vcName: string, devices: DiskImage["devices"]): ImageRecord {
  const disk = (role: string): DiskImage => ({
    digest: sha256(`${vcName} ${role}`),
    size: 16 * 1024 * 1024,
    devices,
    rootOffset: 1024 * 1024,
    takesContext: true,
    reportsReady: true,
  });
  return { vcName, frontend: disk("frontend"), compute: disk("compute") };
}
