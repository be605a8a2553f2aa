import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { World } from "./world";

const STAND_IN = join(__dirname, "..", "fixtures", "command-site");

interface Outputs {
  readonly outputs: {
    readonly demo: {
      readonly publicIp: string;
      readonly nodes: ReadonlyArray<{ readonly name: string; readonly cpus: number; readonly allocated?: false }>;
    };
  };
}

describe("Pulumi at a site with programs of its own, which merges nodes", () => {
  let world: World;
  let site: string;

  const configure = (numCpus: number) =>
    world.configure("programs", {
      demo: {
        image: "fake",
        repository: world.fakeImages,
        numCpus,
        site: {
          driver: "command",
          folder: STAND_IN,
          temporaryDirectory: join(world.home, "temporary"),
          environment: { SITE: site },
        },
      },
    });
  const machines = () => readdir(join(site, "machines"));

  before(async () => {
    world = await World.create();
    site = join(world.home, "its site");
    await mkdir(site);
    await mkdir(join(world.home, "temporary"));
    await writeFile(join(site, "per_node"), "2");
  });

  after(() => world.dispose());

  it("previews what is open, launches, changes nothing, grows, and destroys", async () => {
    await configure(4);
    const preview = await world.pulumi(["preview", "--diff"]);
    expect(preview.all).to.include("decided by the site").and.to.include("there may be fewer, with more cpus each");

    const up = await world.pulumi(["up", "--yes", "--skip-preview"]);
    expect(up.all).to.include("boot: starting vm-10-1").and.to.include("compute-2: has no machine");
    const { publicIp, nodes } = (await world.outputs<Outputs>()).outputs.demo;
    expect(publicIp).to.equal("198.51.100.10");
    expect(nodes.map(({ name, cpus, allocated }) => [name, cpus, allocated])).to.deep.equal([
      ["acceptance-programs-demo", 1, undefined],
      ["compute-0", 2, undefined],
      ["compute-1", 2, undefined],
      ["compute-2", 1, false],
      ["compute-3", 1, false],
    ]);
    expect((await world.pulumi(["preview", "--expect-no-changes"])).exitCode).to.equal(0);

    await configure(6);
    await world.pulumi(["up", "--yes", "--skip-preview"]);
    expect(await machines()).to.have.length(4);
    expect((await world.pulumi(["preview", "--expect-no-changes"])).exitCode).to.equal(0);

    await world.pulumi(["destroy", "--yes", "--skip-preview"]);
    expect(await machines()).to.deep.equal([]);
    expect(await readdir(join(site, "nets"))).to.deep.equal([]);
  });

  it("is what pragma_boot uses where a site_conf.conf says so", async () => {
    const folder = join(world.home, "programs of old");
    await mkdir(folder);
    for (const program of await readdir(STAND_IN)) {
      const script = `#!/bin/sh\nSITE='${site}' exec '${join(STAND_IN, program)}' "$@"\n`;
      await writeFile(join(folder, program), script, { mode: 0o755 });
    }
    await writeFile(
      join(world.home, "site_conf.conf"),
      `# As sites have it.
site_ve_driver = "${folder}"
temp_directory = '${join(world.home, "temporary")}'
repository_class = "vc_repository.local"
repository_dir = "${world.fakeImages}"
`,
    );
    expect(await world.pragmaBoot("--list")).to.include({ exitCode: 0, all: "fake" });
    const { exitCode, all } = await world.pragmaBoot("-vcname", "fake", "-num_cpus", "4");
    expect(all).to.match(/^compute-0 +2 /m);
    expect(exitCode).to.equal(0);
    expect(await machines()).to.have.length(3);
    expect((await world.pragmaBoot("clean", "fake")).exitCode).to.equal(0);
    expect(await machines()).to.deep.equal([]);
  });
});
