import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { CommandDriver } from "../../provider/src/drivers/command";
import type { DiskImage } from "../../provider/src/drivers/driver";
import type { CommandSettings } from "../../provider/src/drivers/settings";
import { digestOf } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import type { Backend } from "./backend";
import { makeFakeDisk } from "./fake-guest";

export const STAND_IN = join(__dirname, "..", "fixtures", "command-site");

const DEALS = "the site deals addresses, and tells them only of clusters that it has given some";
const IMAGES = "disks are the site's own: nothing is stored for several clusters, and nothing tells what is";
const NETWORKS = "nothing tells how the site's networks are";
const RECORD = "the record and what its programs need lie in one folder: without it nothing is known";
const DISKS = "a machine and its disk are one to the site's programs";
const GUESTS = "nothing is heard of what guests do";
const OTHERS = "status tells of the cluster's own machines only";

/** Laws that the contract of such programs has no words for. What holds instead is in test/unit/command.test.ts. */
const EXEMPT = new Map([
  ["says which cluster holds an address and a subnet from allocate to release", DEALS],
  ["counts what running machines use, and no more when they are gone", "nothing tells what the site has"],
  ["makes keys of the cluster's own, and keeps them when it is called again", "its nodes have keys of their own"],
  ["gives a former public address back when the plan has another", DEALS],
  ["gives a former image's disks back when the record has another", IMAGES],
  ["gives the same publicIp to one of many that ask at the same time", DEALS],
  ["gives the same cidr to one of many that ask at the same time", DEALS],
  ["throws NoCapacity for more than the site has, and leaves nothing", "nothing tells what the site has"],
  ["are told by find after allocate, one for each NIC, and stay while the cluster grows and shrinks", DEALS],
  ["stores a disk once for all clusters and gives it back with its last user", IMAGES],
  ["keeps the disk where release is told to, until somebody gives it back", IMAGES],
  ["serves clusters that come at the same time", IMAGES],
  ["leaves disks without a machine where it is told to, and the keys that are on them", DISKS],
  ["gives everything back although the network is gone", RECORD],
  ["finds a stopped network; allocate starts it and plugs the machines in again", NETWORKS],
  ["finds a network that is gone; allocate makes it again", NETWORKS],
  ["keeps the former one until no machine uses it any more", IMAGES],
  ["lists what is left of one whose record is lost, and that is enough to remove it", RECORD],
  ["gives the console's last lines as plain text", GUESTS],
  ["uses a disk that was left without a machine again", DISKS],
  ["never makes a frontend's disk anew that is there: it may hold data", DISKS],
  ["never makes a frontend's disk anew that was lost behind its machine: its pool may come back", DISKS],
  ["doesn't say which vc-out.xml a kept disk has", DISKS],
  ["makes the disk anew that was lost behind a machine that is off", DISKS],
  ["gives back the shape that somebody changed", "status tells whether a machine runs, and no more"],
  [
    "sees what a running machine's next start would give it, and gives that back without a restart",
    "status tells whether a machine runs, and no more",
  ],
  ["throws NotReady with the diagnosis when the time is up", GUESTS],
  ["leaves a file for the next boot, which writes it into the disk and keeps what else is there", GUESTS],
  ["grows a disk, of a machine that runs and of one that is off, and never shrinks it", DISKS],
  ["takes everything of a node whose cluster has lost its network", RECORD],
  ["is refused where only a disk is left", DISKS],
  ["is refused as a machine of a node's name", OTHERS],
  ["fixImages is taken up again, with a whole disk", IMAGES],
  ["is refused and left alone, whatever part of it differs", IMAGES],
]);

/** A site whose programs are a stand-in in plain shell. Its paths have blanks and quotes. */
export async function commandBackend(): Promise<Backend> {
  const environment = { ...process.env };
  const home = await mkdtemp("/tmp/vc-command-");
  process.env.VIRTUAL_CLUSTER_HOME = home;
  const site = join(home, 'the site\'s "own"');
  const temporaryDirectory = join(home, "te mp'\"");
  await mkdir(site);
  await mkdir(temporaryDirectory);
  await writeFile(join(site, "calls"), "");
  const settings: CommandSettings = {
    driver: "command",
    folder: STAND_IN,
    temporaryDirectory,
    environment: { SITE: site },
  };
  const driver = new CommandDriver(settings);
  const [image, other] = [await diskOf(join(home, "image.raw"), true), await diskOf(join(home, "other.raw"), false)];
  const clusters = join(temporaryDirectory, "virtual-clusters");
  const calls = async () => (await readFile(join(site, "calls"), "utf8")).split("\n").length - 1;
  const list = (folder: string) => readdir(folder).catch(() => []);
  let stranger: string | undefined;

  const machineOf = async (cluster: string, node: string) => {
    const { hostName } = JSON.parse(await readFile(join(clusters, cluster, "nodes", `${node}.json`), "utf8"));
    return join(site, "machines", hostName);
  };
  const cannot = async () => {
    throw new Error("such a site has no way to do that");
  };

  return {
    driver,
    otherProcess: new CommandDriver(settings),
    unreachable: new CommandDriver({ ...settings, temporaryDirectory: join(home, "not mounted") }),
    settings,
    image: { vcName: "image", frontend: image, compute: image },
    otherImage: { vcName: "other", frontend: other, compute: other },
    guestsAnswer: true,
    showsConsole: true,
    interruptEvery: 1,
    memory: 512,
    exempt: EXEMPT,

    leftovers: async () => {
      const names = (await list(clusters)).filter((name) => !name.startsWith("."));
      const nodes = await Promise.all(
        names.map(async (name) => (await list(join(clusters, name, "nodes"))).map((node) => `note ${name} ${node}`)),
      );
      return [
        ...names.map((name) => `cluster ${name}`),
        ...nodes.flat(),
        ...(await list(join(site, "nets"))).map((net) => `network ${net}`),
        ...(await list(join(site, "machines"))).map((host) => `machine ${host}`),
      ];
    },
    holdsBase: cannot,
    requests: calls,
    interruptAfter: async (requests) => {
      const file = join(site, "allowed");
      await (requests === undefined ? rm(file, { force: true }) : writeFile(file, `${(await calls()) + requests}`));
    },

    turnOff: async (cluster, node) => writeFile(join(await machineOf(cluster, node), "state"), "off\n"),
    forgetMachine: async (cluster, node) => rm(await machineOf(cluster, node), { recursive: true }),
    forgetNetwork: cannot,
    stopNetwork: cannot,
    isPluggedIn: cannot,
    takeAutostart: cannot,
    reshape: cannot,
    deleteDisk: cannot,
    dieWithLock: async (cluster) => {
      const dist = require.resolve("../../provider/dist/drivers/command");
      const script = `
        const { CommandDriver } = require(${JSON.stringify(dist)});
        new CommandDriver(${JSON.stringify(settings)})
          .lock(${JSON.stringify(cluster)}, { seconds: 1, progress() {} })
          .then(() => process.kill(process.pid, "SIGKILL"));`;
      const { signal } = await execa(process.execPath, ["-e", script], { reject: false });
      if (signal !== "SIGKILL") {
        throw new Error("the process that should have died with the lock didn't");
      }
    },
    vcOutOnDisk: cannot,
    scribble: async (cluster, node) => writeFile(join(await machineOf(cluster, node), "disk"), "scribbled"),
    isScribbled: async (cluster, node) =>
      (await readFile(join(await machineOf(cluster, node), "disk"), "latin1")) === "scribbled",
    makeUnhealthy: async () => undefined,
    makeStrangerNetwork: async (name) => {
      stranger = join(clusters, name);
      await mkdir(join(stranger, "theirs"), { recursive: true });
    },
    makeStrangerMachine: cannot,
    removeStranger: async () => {
      const asMade = stranger !== undefined && (await list(stranger)).join() === "theirs";
      await rm(stranger ?? "", { recursive: true, force: true });
      return asMade;
    },
    tearDown: async () => {
      for (const name of Object.keys(process.env).filter((name) => !(name in environment))) {
        delete process.env[name];
      }
      Object.assign(process.env, environment);
      await rm(home, { recursive: true });
    },
  };
}

async function diskOf(file: string, virtio: boolean): Promise<DiskImage> {
  await makeFakeDisk(file, { virtio, heedsPowerButton: true });
  return { ...(await examineDisk(file)), digest: await digestOf(file) };
}
