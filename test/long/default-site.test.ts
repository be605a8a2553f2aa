import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { type ExecaError, execa } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import { World } from "../acceptance/world";

describe("the default site's libvirtd", () => {
  let world: World;

  before(async () => {
    world = await World.create();
  });

  after(async () => {
    await world.dispose();
  });

  const namespaces = async () => (await execa("ip", ["netns", "list"])).stdout;

  it("is waited for by whoever starts the site when it was just killed", async () => {
    await world.quickstart("--start-site");
    await world.killLibvirtd();
    await world.quickstart("--start-site");
    expect(await world.virsh("net-list", "--name")).to.equal("public");
  });

  it("ends for good with the site, also while it is starting again", async () => {
    await world.killLibvirtd();
    await world.quickstart("--stop-site");
    expect(await namespaces()).not.to.include(sitePaths(world.home).namespace);
    expect((await execa("pgrep", ["-f", world.home], { reject: false })).stdout).to.equal("");
  });

  it("is reported with its own words when it can't start, and isn't tried again", async () => {
    const uuid = join(world.home, "site", "host-uuid");
    await writeFile(uuid, "no uuid");
    const refused: ExecaError = await world.quickstart("--start-site").then(
      () => expect.fail("it started"),
      (error) => error,
    );
    expect(refused.all).to.match(/libvirtd didn't start: .*uuid/);
    expect((await execa("pgrep", ["-f", world.home], { reject: false })).stdout).to.equal("");
    await rm(uuid);
  });
});
