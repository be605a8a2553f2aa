import { chmod, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { World } from "./world";

const CLUSTER = "acceptance-partial-demo";

describe("a compute that never gets ready", () => {
  let world: World;
  let spoil: string;
  const path = process.env.PATH;

  const demo = (change: object = {}) => ({
    image: "demo",
    numCpus: 4,
    memoryPerNode: 192,
    frontend: { memory: 192 },
    timeouts: { create: 45, update: 60 },
    ...change,
  });
  const up = (options = {}) => world.pulumi(["up", "--yes", "--skip-preview"], options);
  const uuids = async () => {
    const nodes = ["frontend", "compute-0", "compute-1", "compute-2", "compute-3"];
    const ids = await Promise.all(nodes.map((node) => world.virsh("domuuid", `${CLUSTER}-${node}`)));
    return Object.fromEntries(nodes.map((node, index) => [node, ids[index]?.trim()]));
  };

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
    spoil = await makeDiskSpoiler(join(world.home, "spoiler"), `${CLUSTER}-compute-2.qcow2`);
  });

  after(async () => {
    process.env.PATH = path;
    await world.dispose();
  });

  it("is named with its console's end and what to do, its siblings are finished, and the next up repairs only it", async () => {
    await world.configure("partial", { demo: demo() });
    process.env.PATH = `${join(world.home, "spoiler")}:${path}`;
    const failed = await up({ reject: false });
    process.env.PATH = path;
    await rm(spoil);

    expect(failed.exitCode).not.to.equal(0);
    expect(failed.all).to.match(/node compute-2: not ready after 45 s/);
    expect(failed.all).to.match(/The end of its console:[\s\S]*No bootable device/);
    expect(failed.all).to.match(/`pulumi up`/);
    for (const node of ["frontend", "compute-0", "compute-1", "compute-3"]) {
      expect(failed.all).to.match(new RegExp(`${node}: ready`));
    }
    const before = await uuids();
    const state = await world.state();
    const bad = state.find(({ urn }) => urn.endsWith("demo-compute-2"));
    expect(bad?.outputs).to.deep.include({ ready: false, state: "not ready" });

    const preview = await world.pulumi(["preview"]);
    expect(preview.all).to.match(
      /compute-2: didn't get ready last time: it will be made anew unless it is ready by now/,
    );
    expect(preview.all)
      .to.match(/1 to update/)
      .and.match(/8 unchanged/);

    const repaired = await up();
    expect(repaired.all)
      .to.match(/compute-2: still not ready: making it anew/)
      .and.match(/compute-2: ready/);
    expect(repaired.all)
      .to.match(/1 updated/)
      .and.match(/8 unchanged/);
    const { "compute-2": remade, ...others } = await uuids();
    expect(remade).not.to.equal(before["compute-2"]);
    expect({ ...others, "compute-2": before["compute-2"] }).to.deep.equal(before);
    expect((await world.pulumi(["preview"])).stdout).to.match(/9 unchanged/);

    await world.pulumi(["destroy", "--yes", "--skip-preview"]);
    expect(await world.leftovers()).to.deep.equal([]);
  });
});

/**
 * A `virsh` that empties the beginning of one volume before it uploads it.
 * @returns the file without which it does nothing any more
 */
async function makeDiskSpoiler(folder: string, volume: string): Promise<string> {
  await mkdir(folder);
  const { stdout: virsh } = await execa("which", ["virsh"]);
  const flag = join(folder, "spoil");
  await writeFile(flag, "");
  const program = join(folder, "virsh");
  await writeFile(
    program,
    `#!/bin/sh
if [ -e ${flag} ]; then
  for word in "$@"; do
    file=$(printf '%s' "$word" | sed -n 's/.*vol-upload --pool virtual-cluster ${volume} \\([^ ;]*\\).*/\\1/p')
    [ -z "$file" ] || qemu-io -c "write -P 0 0 1M" "json:{\\"driver\\":\\"qcow2\\",\\"file\\":{\\"driver\\":\\"file\\",\\"filename\\":\\"$file\\"},\\"backing\\":null}" >/dev/null
  done
fi
exec ${virsh} "$@"
`,
  );
  await chmod(program, 0o755);
  return flag;
}
