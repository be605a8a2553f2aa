import type { DiskImage, ImageRecord, NodeState } from "../../provider/src/drivers/driver";
import { MemoryDriver } from "../../provider/src/drivers/memory";
import { type MemoryMachine, memorySite } from "../../provider/src/drivers/memory/site";
import { sha256 } from "../../provider/src/vc-out/digest";
import type { Backend } from "./backend";

/** The in-memory site. */
export async function memoryBackend(macs: "fromAddress" | "site" = "fromAddress"): Promise<Backend> {
  const settings = { driver: "memory", name: `conformance-${macs}`, macs } as const;
  const away = { driver: "memory", name: "conformance-away" } as const;
  const site = memorySite(settings.name);
  memorySite(away.name).reachable = false;
  let stranger: { readonly is: string; readonly asMade: () => boolean; readonly remove: () => void } | undefined;

  const machineOf = (cluster: string, node: string): MemoryMachine => {
    const machine = site.machines.get(`${cluster}/${node}`);
    if (!machine) {
      throw new Error(`no machine ${cluster}/${node}`);
    }
    return machine;
  };

  return {
    driver: new MemoryDriver(settings),
    otherProcess: new MemoryDriver(settings),
    unreachable: new MemoryDriver(away),
    settings,
    image: imageOf("image"),
    otherImage: imageOf("other image"),
    guestsAnswer: true,
    showsConsole: true,
    interruptEvery: 1,
    memory: 512,

    leftovers: async () => [
      ...[...site.networks.keys()].map((name) => `network ${name}`),
      ...[...site.leases.keys()].map((ip) => `lease ${ip}`),
      ...[...site.keys.keys()].map((name) => `keys of ${name}`),
      ...[...site.bases.keys()].map((digest) => `base ${digest}`),
      ...[...site.disks.keys()].map((key) => `disk ${key}`),
      ...[...site.machines.keys()].map((key) => `machine ${key}`),
    ],
    holdsBase: async (digest) => site.bases.get(digest) === "whole",
    requests: async () => site.requests,
    interruptAfter: async (requests) => {
      let left = requests ?? Number.POSITIVE_INFINITY;
      site.beforeStep = () => {
        if (left-- <= 0) {
          throw new Error("interrupted by the test");
        }
      };
    },

    turnOff: async (cluster, node) => {
      machineOf(cluster, node).state = "off" satisfies NodeState;
    },
    forgetMachine: async (cluster, node) => {
      site.machines.delete(`${cluster}/${node}`);
    },
    forgetNetwork: async (cluster) => {
      site.networks.delete(cluster);
    },
    stopNetwork: async (cluster) => {
      site.stoppedNetworks.add(cluster);
    },
    isPluggedIn: async (cluster) => !site.stoppedNetworks.has(cluster),
    takeAutostart: async (cluster, node) => {
      machineOf(cluster, node).autostart = false;
    },
    reshape: async (cluster, node, memory) => {
      const machine = machineOf(cluster, node);
      const shape = { ...machine.shape, memory };
      Object.assign(machine, machine.state === "running" ? { nextStart: shape } : { shape });
    },
    deleteDisk: async (cluster, node) => {
      site.disks.delete(`${cluster}/${node}`);
    },
    // The system takes a dead process's lock back.
    dieWithLock: async () => undefined,
    vcOutOnDisk: async (cluster, node) => machineOf(cluster, node).vcOut,
    scribble: async (cluster, node) => {
      site.disks.set(`${cluster}/${node}`, "scribbled");
    },
    isScribbled: async (cluster, node) => site.disks.get(`${cluster}/${node}`) === "scribbled",
    makeUnhealthy: async (cluster, node) => {
      Object.assign(machineOf(cluster, node), { healthy: false, takesVcOut: false, console: "no root file system" });
    },
    makeStrangerNetwork: async (name) => {
      site.networks.set(name, "unmarked");
      stranger = {
        is: name,
        asMade: () => site.networks.get(name) === "unmarked",
        remove: () => site.networks.delete(name),
      };
    },
    makeStrangerMachine: async (cluster, node) => {
      const key = `${cluster}/${node}`;
      const machine: MemoryMachine = {
        shape: { cpus: 1, memory: 64 },
        state: "off",
        macs: [],
        autostart: false,
        vcOut: "",
        takesVcOut: false,
        vcOutWaits: false,
        filling: false,
        boots: 0,
        live: { cpus: { min: 1, max: 1 }, memory: { min: 64, max: 64 } },
        base: "",
        healthy: true,
        console: "",
        machineId: "stranger",
      };
      site.machines.set(key, machine);
      const asMade = JSON.stringify(machine);
      stranger = {
        is: key,
        asMade: () => JSON.stringify(site.machines.get(key)) === asMade,
        remove: () => site.machines.delete(key),
      };
    },
    removeStranger: async () => {
      const asMade = stranger?.asMade() ?? false;
      stranger?.remove();
      return asMade;
    },
    tearDown: async () => undefined,
  };
}

function imageOf(vcName: string): ImageRecord {
  const disk = (role: string): DiskImage => ({
    digest: sha256(`${vcName} ${role}`),
    size: 16 * 1024 * 1024,
    devices: "virtio",
    rootOffset: 1024 * 1024,
  });
  return { vcName, frontend: disk("frontend"), compute: disk("compute") };
}
