import { join } from "node:path";
import { expect } from "chai";
import { FileServer } from "../unit/file-server";
import { World } from "./world";

describe("an image that was packed, served over http", () => {
  let world: World;
  let server: FileServer;

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
    server = await FileServer.of(join(world.home, "shared"));
  });

  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await world?.dispose();
  });

  it("makes a cluster, in parts, is fetched once, and isn't asked for again", async () => {
    const disk = join(world.fakeImages, "fake", "disk.raw");
    const packed = await world.vc(
      ...["image", "pack", "shared", "--frontend", disk, "--split", "4K", "--into", join(world.home, "shared")],
    );
    expect(packed.all).to.match(/^shared: 16 MiB of disks packed into 1 MiB in /);
    const settings = { numCpus: 1, memoryPerNode: 64, frontend: { memory: 64 }, waitFor: "none" };
    await world.configure("http", { demo: { ...settings, image: "shared", repository: server.url } });
    const disks = () => server.got.filter((path) => path.includes(".raw"));

    const preview = await world.pulumi(["preview", "--stack", "http"]);
    expect(preview.all).to.match(/FrontendNode/);
    expect(disks()).to.deep.equal([]);

    await world.pulumi(["up", "--yes", "--skip-preview", "--stack", "http"]);
    const fetched = disks();
    expect(fetched.length).to.be.above(2);
    expect(new Set(fetched).size).to.equal(fetched.length);

    const again = await world.pulumi(["up", "--yes", "--expect-no-changes", "--stack", "http"]);
    expect(again.all).to.match(/unchanged/);
    expect(disks()).to.deep.equal(fetched);
    expect((await world.vc("cache", "list")).all).to.match(/^\d MiB .* image shared: shared-frontend\.raw from http:/m);

    await world.pulumi(["destroy", "--yes", "--stack", "http"]);
    expect((await world.vc("cache", "prune", "--all")).all).to.match(/Removed 1 file/);
  });
});
