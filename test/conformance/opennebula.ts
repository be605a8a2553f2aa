import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import type { DiskImage, ImageRecord } from "../../provider/src/drivers/driver";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { configureOneAuth } from "../../provider/src/drivers/opennebula/credentials";
import type { OpenNebulaSettings } from "../../provider/src/drivers/settings";
import { digestOf } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import { ExtFileSystem } from "../../provider/src/images/root/file-system";
import { sha256 } from "../../provider/src/vc-out/digest";
import { fetchImages } from "../stand-ins/opennebula/front-end";
import type { Oned } from "../stand-ins/opennebula/oned";
import { standInSite } from "../stand-ins/opennebula/site";
import { single } from "../stand-ins/opennebula/template";
import { IMG, type Img, type Machine, type Net, VM } from "../stand-ins/opennebula/world";
import type { Backend } from "./backend";
import { makeFakeDisk } from "./fake-guest";

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

const NO_BASES = "each node's disk is made from the image here: no base is at the site";

/** What isn't so where each node has a disk of its own, into which nobody can write any more. */
const EXEMPT_WITH_OWN_DISKS = new Map([
  ...EXEMPT,
  ["gives a former image's disks back when the record has another", NO_BASES],
  ["stores a disk once for all clusters and gives it back with its last user", NO_BASES],
  ["keeps the disk where release is told to, until somebody gives it back", NO_BASES],
  ["serves clusters that come at the same time", NO_BASES],
  ["keeps the former one until no machine uses it any more", NO_BASES],
  ["fixImages is taken up again, with a whole disk", NO_BASES],
  [
    "leaves a file for the next boot, which writes it into the disk and keeps what else is there",
    "a compute's disk is made anew to bring it its vc-out.xml; a frontend's stays as it is",
  ],
  [
    "remove and release are taken up again",
    "a compute's disk can't go before its machine: only the next remove finds it, by its mark",
  ],
]);

/** A stand-in for OpenNebula, used by a plain user whose images read the context disc. */
export function openNebulaBackend(): Promise<Backend> {
  return backendWith({ images: "/images", readiness: "oneGate" }, async () => ({
    image: imageRecord("image", "virtio"),
    otherImage: imageRecord("other image", "sata"),
    guestsAnswer: true,
    exempt: EXEMPT,
    vcOutOnDisk: async ({ context }) => Buffer.from(context?.get("VC_OUT_XML_BASE64") ?? "", "base64").toString("utf8"),
  }));
}

/** … and one whose images don't: each node gets a disk of its own, with a guest that nobody reaches. */
export function openNebulaBackendWithOwnDisks(): Promise<Backend> {
  const settings = { delivery: "image", imageServer: "http://127.0.0.1:0", readiness: "ssh" } as const;
  return backendWith(settings, async (folder, oned) => {
    fetchImages(oned, folder);
    await writeFile(join(folder, "ssh"), "#!/bin/sh\nexit 255\n", { mode: 0o755 });
    process.env.PATH = `${folder}:${process.env.PATH}`;
    const image = await ownImage(folder, "image", true);
    return {
      image,
      otherImage: await ownImage(folder, "other image", false),
      guestsAnswer: false,
      storesNoBases: true,
      exempt: EXEMPT_WITH_OWN_DISKS,
      vcOutOnDisk: ({ name }) =>
        new ExtFileSystem(join(folder, name), image.frontend.rootOffset).read("/root/vc-out.xml"),
    };
  });
}

interface Guests extends Pick<Backend, "image" | "otherImage" | "guestsAnswer" | "storesNoBases" | "exempt"> {
  readonly vcOutOnDisk: (machine: Machine) => Promise<string>;
}

async function backendWith(
  own: Partial<OpenNebulaSettings>,
  makeGuests: (folder: string, oned: Oned) => Promise<Guests>,
): Promise<Backend> {
  const site = await standInSite();
  const { oned, user } = site;
  const { world } = oned;
  const { PATH: pathBefore, VIRTUAL_CLUSTER_HOME: homeBefore } = process.env;
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
    ...own,
  };
  const { vcOutOnDisk, ...guests } = await makeGuests(folder, oned);
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
    ...guests,
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
    vcOutOnDisk: (cluster, node) => vcOutOnDisk(machineOf(cluster, node)),
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
      Object.assign(process.env, { PATH: pathBefore, VIRTUAL_CLUSTER_HOME: homeBefore });
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

async function ownImage(folder: string, vcName: string, virtio: boolean): Promise<ImageRecord> {
  const disk = async (role: string): Promise<DiskImage> => {
    const file = join(folder, `${vcName} ${role}.raw`);
    await makeFakeDisk(file, { virtio, heedsPowerButton: virtio });
    return { ...(await examineDisk(file)), digest: await digestOf(file) };
  };
  return { vcName, frontend: await disk("frontend"), compute: await disk("compute") };
}
