import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { POOL } from "../../provider/src/default-site/configuration";
import { Denied, Unreachable, type VirtualClusterError } from "../../provider/src/drivers/errors";
import { Virsh } from "../../provider/src/drivers/libvirt/virsh";
import { missingPrograms, RemoteSite, type SshSetUp } from "./remote-site";
import { World } from "./world";

/** So slow that the demo image takes some seconds. */
const LINK = { bytesPerSecond: 45 * 1024 * 1024 };

describe("a libvirt on another host", () => {
  let site: RemoteSite;
  let world: World;

  before(async function () {
    const missing = await missingPrograms();
    if (missing.length > 0) {
      console.log(`    No site on another host is tested: it takes ${missing.join(", ")}.`);
      this.skip();
    }
    site = await RemoteSite.start();
    world = await World.create({ site, setUp: LINK });
  });

  after(async () => {
    await world?.dispose();
    await site?.remove();
  });

  const up = () => world.pulumi(["up", "--yes", "--skip-preview"]);
  const cluster = (numCpus: number, waitFor: string) => ({
    image: "demo",
    numCpus,
    memoryPerNode: 256,
    frontend: { memory: 256 },
    waitFor,
    site: { uri: site.uri },
  });
  const running = async () => (await site.virsh("list", "--name")).split("\n").filter(Boolean).sort();
  const bases = async () => (await readdir(site.images)).filter((name) => /^vc-base-.*\.raw$/.test(name));
  /** Whether this machine's own folder of that path has anything of the site's. */
  const isVisibleHere = async () => {
    const here = new Set(await readdir(POOL.path).catch(() => []));
    return (await readdir(site.images)).some((name) => here.has(name));
  };

  it("brings up a cluster that is ready, and says how far the image's copy is", async () => {
    await world.configure("far", { demo: cluster(1, "ready") });
    const { stdout } = await up();
    expect(stdout).to.match(/copying the base image: \d+ of \d+ MiB, \d+ MiB\/s, \d+ s left/);
    expect(stdout)
      .to.match(/frontend: ready/)
      .and.to.match(/compute-0: ready/);
    expect(await running()).to.deep.equal(["acceptance-far-demo-compute-0", "acceptance-far-demo-frontend"]);
    expect(await isVisibleHere()).to.equal(false);
  });

  it("logs in a few times for hundreds of virsh runs, and records the URI as it was written", async () => {
    expect(await site.logins()).to.be.at.most(3);
    const state = JSON.stringify(await world.state());
    expect(state).to.include(JSON.stringify(site.uri)).and.not.include("shared-ssh");
  });

  it("resizes it, and shows a compute that was destroyed behind its back", async () => {
    await world.configure("far", { demo: cluster(2, "running") });
    await up();
    await site.virsh("destroy", "acceptance-far-demo-compute-1");
    const { stdout } = await world.pulumi(["refresh", "--yes", "--diff"]);
    expect(stdout).to.match(/compute-1"[\s\S]*state +: "running" => "off"/);
  });

  it("repairs it, and gives another cluster the base that is there", async () => {
    await world.configure("far", { demo: cluster(2, "running"), other: cluster(0, "none") });
    const { stdout } = await up();
    expect(stdout).not.to.match(/copying the base image/);
    expect(await running()).to.deep.equal([
      "acceptance-far-demo-compute-0",
      "acceptance-far-demo-compute-1",
      "acceptance-far-demo-frontend",
      "acceptance-far-other-frontend",
    ]);
    expect(await bases()).to.have.lengthOf(1);
    expect(await isVisibleHere()).to.equal(false);
  });

  it("gives everything back, what virtlogd set aside of a long console included", async () => {
    await writeFile(join(site.images, "acceptance-far-demo-compute-0.console.0"), "Linux version 6.1.0\n");
    await world.pulumi(["destroy", "--yes", "--skip-preview"]);
    expect(await world.leftovers()).to.deep.equal([]);
    expect(await readdir(site.images)).to.deep.equal([]);
  });

  describe("that can't be used", () => {
    const pathBefore = process.env.PATH;

    afterEach(() => {
      process.env.PATH = pathBefore;
    });

    async function refusal(uri: string, setUp: SshSetUp = {}): Promise<VirtualClusterError> {
      process.env.PATH = `${await site.ssh(setUp)}:${pathBefore}`;
      return new Virsh(uri).run(["list"]).then(
        () => expect.fail("it could be used"),
        (error: VirtualClusterError) => error,
      );
    }

    const cases: ReadonlyArray<readonly [string, SshSetUp, new (...args: never[]) => VirtualClusterError, RegExp]> = [
      ["has a host key that nobody has looked at", { knownHosts: "none" }, Unreachable, /log in once by hand/],
      ["has another host key than it had", { knownHosts: "stranger" }, Unreachable, /another key than it used to/],
      ["doesn't take our key", { identity: "stranger" }, Denied, /None of the keys that ssh offers/],
    ];
    for (const [what, setUp, errorClass, words] of cases) {
      it(`says that it ${what}, and what to do`, async () => {
        // An open connection would be shared, whatever a configuration says by now.
        const error = await refusal(`${site.uri}?keyfile=/${setUp.knownHosts}-${setUp.identity}`, setUp);
        expect(error.constructor).to.equal(errorClass);
        expect(error.message).to.match(words).and.include(site.uri);
      });
    }

    it("says that nobody listens", async () => {
      const error = await refusal(site.closedUri);
      expect(error.constructor).to.equal(Unreachable);
      expect(error.message)
        .to.match(/Connection refused/)
        .and.match(/its sshd listens/);
    });
  });
});
