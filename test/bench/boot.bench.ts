// Seconds from a machine's start to ready, one node at a time: what `waitFor: "ready"` waits for.
import { World } from "../acceptance/world";
import { median, row } from "./measure";

const RUNS = 3;

async function main(): Promise<void> {
  const world = await World.create();
  try {
    await world.quickstart("--start-site");
    const shape = { image: "demo", memoryPerNode: 256, frontend: { memory: 256 } };
    const times = { frontend: [] as number[], compute: [] as number[] };
    for (let run = 0; run < RUNS; run++) {
      // Without and with waiting: what lies between is the boot.
      await world.configure("boot", { demo: { ...shape, numCpus: 0 } });
      times.frontend.push(await bootSeconds(world, "frontend"));
      await world.configure("boot", { demo: { ...shape, numCpus: 1 } });
      times.compute.push(await bootSeconds(world, "compute-0"));
      await world.pulumi(["destroy", "--yes", "--skip-preview"]);
    }
    row(`from start to ready, median of ${RUNS}`, "s");
    row("frontend", median(times.frontend));
    row("compute", median(times.compute));
  } finally {
    await world.dispose();
  }
}

/** From the line that says that the node was started to the one that says that it is ready. */
async function bootSeconds(world: World, node: string): Promise<number> {
  const running = world.startPulumi(["up", "--yes", "--skip-preview"]);
  const seen: { started?: number; ready?: number } = {};
  running.all?.on("data", (chunk: Buffer) => {
    const text = chunk.toString();
    if (text.includes(`${node}: started; waiting`)) {
      seen.started ??= performance.now();
    }
    if (text.includes(`${node}: ready`)) {
      seen.ready ??= performance.now();
    }
  });
  const { exitCode, all } = await running;
  if (exitCode !== 0 || seen.started === undefined || seen.ready === undefined) {
    throw new Error(`up failed:\n${all}`);
  }
  return (seen.ready - seen.started) / 1000;
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
