import { cp, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { examineDisk } from "../../provider/src/images/examine";
import { debugfsTarget } from "../../provider/src/images/root/file-system";
import { World } from "../acceptance/world";

describe("an image whose kernel has no virtio drivers", () => {
  let world: World;

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
  });

  after(async () => {
    await world.dispose();
  });

  it("gets a SATA disk and e1000 NICs, and boots", async () => {
    const repository = join(world.home, "old-images");
    await makeImageWithoutVirtio(join(world.home, "images", "demo"), repository);
    await world.configure("old", {
      demo: { image: "old", repository, numCpus: 1, memoryPerNode: 256, frontend: { memory: 256 } },
    });
    await world.pulumi(["up", "--yes", "--skip-preview"]);
    const xml = await world.virsh("dumpxml", "acceptance-old-demo-frontend");
    expect(xml).to.match(/bus='sata'/);
    expect(xml.match(/<model type='e1000'\/>/g)).to.have.lengthOf(2);
    await world.pulumi(["destroy", "--yes", "--skip-preview"]);
    expect(await world.leftovers()).to.deep.equal([]);
  });
});

/** The demo image, with the virtio drivers struck off its kernels' lists. */
async function makeImageWithoutVirtio(demo: string, repository: string): Promise<void> {
  await mkdir(join(repository, "old"), { recursive: true });
  const disk = join(repository, "old", "frontend.raw");
  await execa("cp", ["--sparse=always", join(demo, "frontend.raw"), disk]);
  await execa("cp", ["--sparse=always", join(demo, "compute.raw"), join(repository, "old", "compute.raw")]);
  await cp(join(demo, "vc-in.xml"), join(repository, "old", "vc-in.xml"));
  await writeFile(join(repository, "vcdb.txt"), "old,old/vc-in.xml\n");
  for (const file of [disk, join(repository, "old", "compute.raw")]) {
    const target = debugfsTarget(file, (await examineDisk(file)).rootOffset);
    const { stdout } = await execa("debugfs", ["-R", "ls -p /lib/modules", target]);
    for (const kernel of stdout.match(/\d+\.\d+[^/]*(?=\/)/g) ?? []) {
      for (const list of ["modules.dep", "modules.builtin"]) {
        const path = `/lib/modules/${kernel}/${list}`;
        const { stdout: content } = await execa("debugfs", ["-R", `cat ${path}`, target]);
        const changed = join(repository, list);
        await writeFile(changed, content.replaceAll(/^.*virtio_(blk|net).*$/gm, ""));
        await execa("debugfs", ["-w", "-R", `rm ${path}`, target]);
        await execa("debugfs", ["-w", "-R", `write ${changed} ${path}`, target]);
      }
    }
  }
}
