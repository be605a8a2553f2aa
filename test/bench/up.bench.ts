// `up` of 1 frontend + 8 computes that nobody waits for, against the floor (bare qemu-img and virsh, four at a time, for
// the same machines) and the engine with as many resources that do nothing. Read the ratios: seconds differ from host to
// host.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import pLimit from "p-limit";
import { sitePaths } from "../../provider/src/default-site/paths";
import { World } from "../acceptance/world";
import { median, row, seconds } from "./measure";

const COMPUTES = 8;
const RUNS = 3;
const MEMORY = 64;

async function main(): Promise<void> {
  const world = await World.create();
  try {
    await world.quickstart("--start-site");
    const ours = { up: [] as number[], down: [] as number[], again: [] as number[] };
    const floor = { up: [] as number[], down: [] as number[] };
    const engine = { up: [] as number[], down: [] as number[], again: [] as number[] };
    for (let run = 0; run < RUNS; run++) {
      await world.configure("bench", {
        demo: {
          // Its guests stop at their boot loader: what they would do with the cpus isn't what is measured.
          image: "fake",
          repository: world.fakeImages,
          numCpus: COMPUTES,
          memoryPerNode: MEMORY,
          frontend: { memory: MEMORY },
          waitFor: "none",
        },
      });
      await measureEngine(world, ours);
      await measureFloor(world, floor);
      await useEmptyProgram(world);
      await measureEngine(world, engine);
      await useClusterProgram(world);
    }
    row(`1+${COMPUTES}, median of ${RUNS}`, "up s", "again s", "down s");
    row("floor: qemu-img and virsh, four at a time", median(floor.up), "", median(floor.down));
    row("engine: as many resources that do nothing", median(engine.up), median(engine.again), median(engine.down));
    row("a virtual cluster", median(ours.up), median(ours.again), median(ours.down));
    const ratio = (of: "up" | "down") => (median(ours[of]) - median(engine[of])) / median(floor[of]);
    row("(cluster − engine) / floor", ratio("up"), "", ratio("down"));
  } finally {
    await world.dispose();
  }
}

async function measureEngine(world: World, into: { up: number[]; down: number[]; again: number[] }): Promise<void> {
  into.up.push(await seconds(() => world.pulumi(["up", "--yes", "--skip-preview"])));
  into.again.push(await seconds(() => world.pulumi(["preview"])));
  into.down.push(await seconds(() => world.pulumi(["destroy", "--yes", "--skip-preview"])));
}

/** The same machines with nothing but the tools: a network, a base, and an overlay, a definition and a start each. */
async function measureFloor(world: World, into: { up: number[]; down: number[] }): Promise<void> {
  const names = ["frontend", ...Array.from({ length: COMPUTES }, (_, index) => `compute-${index}`)].map(
    (name) => `floor-${name}`,
  );
  const four = pLimit(4);
  const base = join(world.fakeImages, "fake", "disk.raw");
  const pool = join(sitePaths(world.home).root, "lib", "images");
  into.up.push(
    await seconds(async () => {
      await world.virsh(
        "vol-create-as",
        "virtual-cluster",
        "floor-base.raw",
        "16M",
        "--allocation",
        "0",
        "--format",
        "raw",
      );
      await world.virsh("vol-upload", "--pool", "virtual-cluster", "--sparse", "floor-base.raw", base);
      await define(world, "net-define", "floor", "<network><name>floor</name><bridge name='floor'/></network>");
      await world.virsh("net-start", "floor");
      await Promise.all(
        names.map((name) =>
          four(async () => {
            const overlay = join(pool, `${name}.qcow2`);
            await execa("qemu-img", [
              "create",
              "-q",
              "-f",
              "qcow2",
              "-u",
              "-F",
              "raw",
              "-b",
              "/var/lib/libvirt/images/floor-base.raw",
              overlay,
              "16M",
            ]);
            await define(world, "define", name, domain(name));
            await world.virsh("start", name);
          }),
        ),
      );
    }),
  );
  into.down.push(
    await seconds(async () => {
      await Promise.all(
        names.map((name) =>
          four(async () => {
            await world.virsh("destroy", name);
            await world.virsh("undefine", name);
            await execa("rm", [join(pool, `${name}.qcow2`)]);
          }),
        ),
      );
      await world.virsh("net-destroy", "floor");
      await world.virsh("net-undefine", "floor");
      await world.virsh("vol-delete", "--pool", "virtual-cluster", "floor-base.raw");
    }),
  );
}

async function define(world: World, command: string, name: string, xml: string): Promise<void> {
  const file = join(world.home, `${name}.xml`);
  await writeFile(file, xml);
  await world.virsh(command, file);
}

/** As ours, but for the mark. */
function domain(name: string): string {
  const nic = (network: string) =>
    `<interface type='network'><source network='${network}'/><model type='virtio'/></interface>`;
  return `<domain type='qemu'><name>${name}</name><memory unit='MiB'>${MEMORY}</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features>
    <cpu mode='maximum'/>
    <devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
        <source file='/var/lib/libvirt/images/${name}.qcow2'/><target dev='vda' bus='virtio'/></disk>
      ${nic("floor")}${name === "floor-frontend" ? nic("public") : ""}
      <serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
      <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
      <controller type='usb' model='none'/><video><model type='none'/></video>
    </devices></domain>`;
}

/** As many resources as the cluster has, without anything to do. */
async function useEmptyProgram(world: World): Promise<void> {
  await world.configure("engine", {});
  await writeFile(
    join(world.project, "index.ts"),
    `import * as pulumi from "@pulumi/pulumi";
const nothing: pulumi.dynamic.ResourceProvider = { create: async () => ({ id: "nothing", outs: {} }) };
class Nothing extends pulumi.dynamic.Resource {
  constructor(name: string) {
    super(nothing, name, {});
  }
}
for (let index = 0; index < ${COMPUTES + 2}; index++) {
  new Nothing(\`nothing-\${index}\`);
}
`,
  );
}

async function useClusterProgram(world: World): Promise<void> {
  await execa("cp", [join(__dirname, "..", "acceptance", "program", "index.ts"), world.project]);
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
