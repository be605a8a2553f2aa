import { createHash } from "node:crypto";
import { access, chmod, mkdir, mkdtemp, open, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import type { DiskImage } from "../../provider/src/drivers/driver";
import { RocksDriver } from "../../provider/src/drivers/rocks";
import { nodeOf, vmName } from "../../provider/src/drivers/rocks/names";
import type { RocksSettings } from "../../provider/src/drivers/settings";
import { FIRST_PARTITION_OFFSET } from "../../provider/src/images/disk/boot-loader";
import { digestOf } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import { RocksServer } from "../stand-ins/rocks/server";
import { freshSite, type StandInState } from "../stand-ins/rocks/site";
import type { Backend } from "./backend";
import { makeFakeDisk } from "./fake-guest";

const PROGRAMS = ["bash", "flock", "tar", "qemu-img", "qemu-storage-daemon", "debugfs", "mke2fs", "ssh-keygen"];
/** Before the first partition: nobody else uses it. */
const SCRIBBLE_OFFSET = 600_000;
const SCRIBBLE = "scribbled";

/** A Rocks site of the stand-in's, and what its own tools can do. */
export interface RocksSite {
  readonly backend: Backend;
  readonly rocks: RocksServer;
  readonly settings: RocksSettings;
  /** The folder of our files. */
  readonly folder: string;
}

interface Options {
  readonly version?: StandInState["version"];
  readonly interruptEvery?: number;
  readonly settings?: Partial<RocksSettings>;
}

export async function rocksBackend(context: Mocha.Context, options: Options = {}): Promise<Backend> {
  return (await rocksSite(context, options)).backend;
}

export async function rocksSite(context: Mocha.Context, options: Options = {}): Promise<RocksSite> {
  await skipWithoutPrograms(context);
  const environment = { ...process.env };
  const home = await realpath(await mkdtemp("/tmp/vc-rocks-"));
  const [temporary, bin, folder] = ["tmp", "bin", "disks"].map((name) => join(home, name)) as [string, string, string];
  await Promise.all([mkdir(temporary), mkdir(bin)]);
  process.env.VIRTUAL_CLUSTER_HOME = home;
  process.env.TMPDIR = temporary;
  const rocks = await RocksServer.start(join(bin, "rocks"), freshSite(options.version));
  const clean = JSON.stringify(rocks.state);
  const [image, other] = await Promise.all([diskOf(join(home, "image.raw")), diskOf(join(home, "other.raw"))]);
  const gate = await Gate.make(join(home, "gate"));
  process.env.PATH = `${gate.folder}:${process.env.PATH}`;
  // No guest of these can be reached.
  await writeFile(join(home, "ssh_config"), "Host *\n  ProxyCommand false\n");
  const settings: RocksSettings = {
    driver: "rocks",
    sudo: false,
    rocks: join(bin, "rocks"),
    diskFolder: folder,
    sharedDisks: true,
    memoryPerContainer: 4096,
    publicAddresses: ["198.51.100.20-198.51.100.60"],
    sshConfig: join(home, "ssh_config"),
    ...options.settings,
  };
  const disk = (cluster: string, node: string) => join(folder, `${vmName(cluster, node)}.vda`);
  const files = async () => (await readdir(folder).catch(() => [])).sort();
  const rowsOf = (vm: string) => {
    const { nodes, interfaces, vms, domains } = rocks.state;
    return JSON.stringify([
      nodes.filter(({ name }) => name === vm),
      interfaces.filter(({ node }) => node === vm),
      vms.filter(({ node }) => node === vm),
      domains[vm],
    ]);
  };
  let stranger: { readonly vm: string; readonly asMade: string; readonly before: StandInState } | undefined;
  const makeStranger = (vm: string, ...words: string[]) => {
    const before = structuredClone(rocks.state);
    if (rocks.state.nodes.some(({ name }) => name === vm)) {
      rocks.run("remove", "host", vm);
    }
    rocks.run("add", "host", "vm", "vm-container-0-0", "membership=Hosted VM", `name=${vm}`, ...words);
    stranger = { vm, asMade: rowsOf(vm), before };
  };

  const backend: Backend = {
    driver: new RocksDriver(settings),
    otherProcess: new RocksDriver(settings),
    unreachable: new RocksDriver({ ...settings, ssh: "ssh://root@127.0.0.1:1" }),
    settings,
    image: { vcName: "image", frontend: image, compute: image },
    otherImage: { vcName: "other", frontend: other, compute: other },
    guestsAnswer: false,
    showsConsole: false,
    interruptEvery: options.interruptEvery ?? 7,
    memory: 64,

    leftovers: async () => {
      const all = await files();
      // The places that a recorded cluster's machines have in the tables are the record's.
      const recorded = all.flatMap((file) => (file.endsWith(".cluster.json") ? [file.split(".")[0] ?? ""] : []));
      const isPlace = (line: string) => {
        const [kind = "", name = ""] = line.split(" ");
        return kind !== "domain" && recorded.some((cluster) => nodeOf(cluster, name) !== undefined);
      };
      return [
        ...differences(JSON.parse(clean), rocks.state).filter((line) => !isPlace(line)),
        ...all.map((file) => `file ${file}`),
        ...(await readdir(temporary)).map((file) => `temporary ${file}`),
      ];
    },
    holdsBase: async (digest) => {
      const content = await readFile(join(folder, `vc-base-${digest}.raw`)).catch(() => undefined);
      return content !== undefined && createHash("sha256").update(content).digest("hex") === digest;
    },
    requests: () => gate.requests(),
    interruptAfter: (requests) => gate.interruptAfter(requests),

    turnOff: async (cluster, node) => {
      delete rocks.state.domains[vmName(cluster, node)];
    },
    forgetMachine: async (cluster, node) => {
      const vm = vmName(cluster, node);
      rocks.run("stop", "host", "vm", vm);
      rocks.run("remove", "host", vm);
    },
    forgetNetwork: (cluster) => rm(join(folder, `${cluster}.cluster.json`)),
    stopNetwork: async (cluster) => {
      const vlan = rocks.state.interfaces.find((nic) => nic.node === cluster && nic.iface === "eth0")?.vlan;
      for (const { node } of rocks.state.interfaces.filter((nic) => nic.iface === `vlan${vlan}`)) {
        rocks.run("remove", "host", "interface", node, `vlan${vlan}`);
      }
    },
    isPluggedIn: async (cluster, node) => {
      const vm = vmName(cluster, node);
      const { interfaces, vms } = rocks.state;
      const host = vms.find((one) => one.node === vm)?.host;
      const vlan = interfaces.find((nic) => nic.node === vm && nic.iface === "eth0")?.vlan;
      return interfaces.some((nic) => nic.node === host && nic.iface === `vlan${vlan}`);
    },
    takeAutostart: async () => {
      throw new Error("Rocks has no such thing");
    },
    reshape: async (cluster, node, memory) => {
      rocks.run("set", "host", "vm", vmName(cluster, node), `mem=${memory}`);
    },
    deleteDisk: (cluster, node) => rm(disk(cluster, node)),
    dieWithLock: async (cluster) => {
      const dist = require.resolve("../../provider/dist/drivers/rocks");
      const script = `
        const { RocksDriver } = require(${JSON.stringify(dist)});
        new RocksDriver(${JSON.stringify(settings)})
          .lock(${JSON.stringify(cluster)}, { seconds: 1, progress() {} })
          .then(() => process.kill(process.pid, "SIGKILL"));`;
      const { signal } = await execa(process.execPath, ["-e", script], { reject: false });
      if (signal !== "SIGKILL") {
        throw new Error("the process that should have died with the lock didn't");
      }
    },
    vcOutOnDisk: async (cluster, node) => {
      const target = `${disk(cluster, node)}?offset=${FIRST_PARTITION_OFFSET}`;
      return (await execa("debugfs", ["-R", "cat /root/vc-out.xml", target], { stripFinalNewline: false })).stdout;
    },
    scribble: async (cluster, node) => {
      const file = await open(disk(cluster, node), "r+");
      await file.write(SCRIBBLE, SCRIBBLE_OFFSET);
      await file.close();
    },
    isScribbled: async (cluster, node) => {
      const file = await open(disk(cluster, node), "r");
      const { buffer } = await file.read(Buffer.alloc(SCRIBBLE.length), 0, SCRIBBLE.length, SCRIBBLE_OFFSET);
      await file.close();
      return buffer.toString() === SCRIBBLE;
    },
    // None of these guests ever gets ready.
    makeUnhealthy: async () => undefined,
    makeStrangerNetwork: async (name) => makeStranger(name),
    makeStrangerMachine: async (cluster, node) => makeStranger(vmName(cluster, node), "vlan=3000"),
    removeStranger: async () => {
      const asMade = stranger !== undefined && rowsOf(stranger.vm) === stranger.asMade;
      if (stranger) {
        Object.assign(rocks.state, structuredClone(stranger.before));
      }
      return asMade;
    },

    tearDown: async () => {
      await rocks[Symbol.asyncDispose]();
      for (const name of Object.keys(process.env).filter((name) => !(name in environment))) {
        delete process.env[name];
      }
      Object.assign(process.env, environment);
      await rm(home, { recursive: true, force: true });
    },
  };
  return { backend, rocks, settings, folder };
}

/** What the tables and the libvirts have beyond what they had; a row's shape aside, which is no thing of its own. */
export function differences(before: StandInState, now: StandInState): string[] {
  const linesOf = (state: StandInState) => [
    ...state.nodes.map(({ name, membership }) => `host ${name} ${membership}`),
    ...state.interfaces.map(({ node, iface, mac, vlan }) => `interface ${node} ${iface} ${mac} ${vlan}`),
    ...state.vms.map(({ node, host }) => `vm ${node} on ${host}`),
    ...Object.entries(state.domains).map(([name, { host, status }]) => `domain ${name} ${status} on ${host}`),
  ];
  const had = new Set(linesOf(before));
  const has = new Set(linesOf(now));
  const gone = [...had].filter((line) => !has.has(line)).map((line) => `missing ${line}`);
  return [...[...has].filter((line) => !had.has(line)), ...gone].sort();
}

async function skipWithoutPrograms(context: Mocha.Context): Promise<void> {
  const path = `${process.env.PATH}:/usr/sbin:/sbin`;
  const found = await Promise.all(PROGRAMS.map((one) => execa("which", [one], { env: { PATH: path }, reject: false })));
  const fuse = await access("/dev/fuse").then(
    () => true,
    () => false,
  );
  const missing = [...PROGRAMS.filter((_, index) => found[index]?.failed), ...(fuse ? [] : ["/dev/fuse"])];
  if (missing.length > 0) {
    console.log(`    The Rocks driver isn't tested: no ${missing.join(", ")} here.`);
    context.skip();
  }
}

/** Counts the driver's requests, each of which is a shell, and refuses them when they are used up. */
class Gate {
  private constructor(readonly folder: string) {}

  static async make(folder: string): Promise<Gate> {
    await mkdir(folder);
    await writeFile(join(folder, "calls"), "");
    const file = join(folder, "bash");
    await writeFile(
      file,
      `#!/bin/sh
here=\${0%/*}
echo >>"$here/calls"
if [ -e "$here/allowed" ] && [ "$(wc -l <"$here/calls")" -gt "$(cat "$here/allowed")" ]; then
  echo "interrupted by the test" >&2
  exit 1
fi
exec /bin/bash "$@"
`,
    );
    await chmod(file, 0o755);
    return new Gate(folder);
  }

  async requests(): Promise<number> {
    return (await readFile(join(this.folder, "calls"))).length;
  }

  async interruptAfter(requests: number | undefined): Promise<void> {
    const file = join(this.folder, "allowed");
    if (requests === undefined) {
      await rm(file, { force: true });
    } else {
      await writeFile(file, `${(await this.requests()) + requests}`);
    }
  }
}

async function diskOf(file: string): Promise<DiskImage> {
  await makeFakeDisk(file, { virtio: true, heedsPowerButton: true });
  return { ...(await examineDisk(file)), digest: await digestOf(file) };
}
