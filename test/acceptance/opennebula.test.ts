import { chmod, cp, mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { makeFakeDisk } from "../conformance/fake-guest";
import { fetchImages } from "../stand-ins/opennebula/front-end";
import { type StandInSite, standInSite } from "../stand-ins/opennebula/site";
import { type Img, type Machine, type Net, VM } from "../stand-ins/opennebula/world";
import { operationsOf } from "./life";
import { ROOT, World } from "./world";

const EXAMPLE = join(ROOT, "examples", "two-sites");
const PASSWORD = "secret:with:colons";
const TOKEN = "7a6f0c1e5b3d4f22a1b0c9d8e7f60514";

interface Outputs {
  readonly publicIp: string;
  readonly nodes: ReadonlyArray<{ readonly name: string; readonly state: string }>;
}

describe("examples/two-sites with Pulumi at an OpenNebula", () => {
  const { PATH: path, ONE_AUTH: auth } = process.env;
  let world: World;
  let site: StandInSite;
  /** All that any command has printed. */
  let printed = "";

  before(async () => {
    world = await World.create();
    site = await standInSite();
    site.user.passwords.add(TOKEN);
    const fetched = join(world.home, "fetched");
    await mkdir(fetched);
    fetchImages(site.oned, fetched);
    await makeDemoImage();
    // Guests that only answer.
    const programs = join(world.home, "programs");
    await mkdir(programs);
    await writeFile(join(programs, "ssh"), "#!/bin/sh\nexit 0\n");
    await chmod(join(programs, "ssh"), 0o755);
    process.env.PATH = `${programs}:${path}`;
    for (const file of ["Pulumi.yaml", "package.json"]) {
      await cp(join(EXAMPLE, file), join(world.project, file));
    }
    await program(4);
  });

  after(async () => {
    Object.assign(process.env, { PATH: path, ...(auth !== undefined && { ONE_AUTH: auth }) });
    if (auth === undefined) {
      delete process.env.ONE_AUTH;
    }
    await site?.oned.stop();
    await world?.dispose();
  });

  /** One that is called demo, as the example's, and reads the context disc. */
  async function makeDemoImage(): Promise<void> {
    const guestProgram = await readFile(join(ROOT, "provider", "guest", "vc-guest"), "utf8");
    const disk = join(world.fakeImages, "fake", "disk.raw");
    const files = { "usr/sbin/vc-guest": guestProgram };
    await makeFakeDisk(disk, { virtio: true, heedsPowerButton: true, files });
    await rename(join(world.fakeImages, "fake"), join(world.fakeImages, "demo"));
    await writeFile(join(world.fakeImages, "vcdb.txt"), "demo,demo/vc-in.xml\n");
  }

  /** The example with its user's own addresses. */
  async function program(numCpus: number, more = ""): Promise<void> {
    const text = await readFile(join(EXAMPLE, "index.ts"), "utf8");
    const edited = text
      .replace("https://one.example.org/RPC2", site.endpoint)
      .replace("http://me.example.org:8330", "http://127.0.0.1:0")
      .replace("numCpus: 4", `numCpus: ${numCpus}${more}`);
    expect(edited)
      .to.include(site.endpoint)
      .and.to.include("127.0.0.1:0")
      .and.to.include(`numCpus: ${numCpus}${more},`);
    await writeFile(join(world.project, "index.ts"), edited);
  }

  async function pulumi(...args: string[]): Promise<string> {
    const { all = "" } = await world.pulumi(args);
    printed += all;
    return all;
  }

  const up = () => pulumi("up", "--yes", "--skip-preview");
  const machines = () => site.oned.world.all<Machine>("VM").filter(({ state }) => state !== VM.DONE);
  const names = () =>
    machines()
      .map(({ name }) => name.replace("two-sites-one-demo-", ""))
      .sort();
  const machine = (node: string) => machines().find(({ name }) => name.endsWith(`-${node}`)) as Machine;

  it("previews, launches, changes nothing, grows, shrinks, mends what has drifted, and leaves nothing", async () => {
    await pulumi("stack", "init", "one");
    await pulumi("config", "set", "where", "opennebula");
    await pulumi("config", "set", "virtual-cluster:repository", world.fakeImages);
    await pulumi("config", "set", "--secret", "virtual-cluster:oneAuth", `${site.user.name}:${PASSWORD}`);

    const preview = await pulumi("preview", "--diff");
    expect(preview).to.match(/privateIp *: "10\.84\.\d+\.1"/);
    // OpenNebula makes a MAC of an address: it is known before.
    expect(preview)
      .to.match(/publicIp *: "198\.51\.100\.\d+"/)
      .and.to.match(/publicMac *: "02:00:c6:33:64:/);
    expect(preview).to.include('node      : "compute-1"').and.to.not.include("doesn't tell when a node is ready");
    expect([machines(), site.oned.world.all<Img>("IMAGE")], "made by the preview").to.deep.equal([[], []]);

    const launched = await up();
    expect(launched).to.include("copying the base image to the site").and.to.include("copying the frontend's disk");
    expect(names()).to.deep.equal(["compute-0", "compute-1", "frontend"]);
    const { publicIp, nodes } = await world.outputs<Outputs>();
    expect(preview).to.include(`"${publicIp}"`);
    expect(machine("frontend").nics[1]?.get("IP")).to.equal(publicIp);
    expect(nodes).to.have.length(3);
    expect(await readdir(join(world.home, "fetched")), "served from here").to.have.length(1);

    expect(await pulumi("up", "--yes", "--expect-no-changes")).to.match(/\d+ unchanged/);

    // From here on with a login token.
    await pulumi("config", "set", "--secret", "virtual-cluster:oneAuth", `${site.user.name}:${TOKEN}`);
    site.user.passwords.delete(PASSWORD);
    const before = machines().map(({ id }) => id);
    await program(8);
    const growth = await pulumi("up", "--yes");
    expect(operationsOf(growth.split(/^Updating \(/m)[0] ?? "")).to.include.members([
      "create demo-compute-2",
      "create demo-compute-3",
      "update demo",
      "update demo-frontend",
    ]);
    expect(growth).to.include("its new vc-out.xml goes onto its context disc, while it runs");
    expect(names()).to.deep.equal(["compute-0", "compute-1", "compute-2", "compute-3", "frontend"]);
    expect(machines().map(({ id }) => id)).to.include.members(before);
    const disc = () => Buffer.from(machine("frontend").context?.get("VC_OUT_XML_BASE64") ?? "", "base64").toString();
    expect(disc()).to.include('"compute-3"');

    await program(2, ", retainDisks: true");
    await up();
    expect(names()).to.deep.equal(["compute-0", "frontend"]);
    expect(disc()).to.not.include('"compute-1"');

    site.oned.turnOff(machine("compute-0"));
    site.oned.turnOff(machine("frontend"));
    expect(await pulumi("refresh", "--yes", "--diff")).to.match(/state *: "running" => "off"/);
    const { id } = machine("frontend");
    expect(await up()).to.match(/2 updated/);
    expect([machine("frontend").id, machine("frontend").lcm, machine("compute-0").lcm]).to.deep.equal([id, 3, 3]);
    expect(await pulumi("preview", "--expect-no-changes")).to.match(/\d+ unchanged/);

    const exported = await pulumi("stack", "export");
    expect(exported).to.include(publicIp);
    await pulumi("stack", "output", "--json", "--show-secrets");
    await pulumi("destroy", "--yes", "--skip-preview");
    expect(names()).to.deep.equal([]);
    expect(site.oned.world.all<Img>("IMAGE").map(({ name }) => name)).to.deep.equal(["two-sites-one-demo-frontend"]);
    const refused = await world.pulumi(["preview"], { reject: false });
    expect(refused.all).to.include("kept when the cluster was destroyed (retainDisks)").and.include("adopt: true");
    await writeFile(join(world.home, "one_auth"), `${site.user.name}:${TOKEN}`);
    process.env.ONE_AUTH = join(world.home, "one_auth");
    const settings = {
      driver: "opennebula",
      endpoint: site.endpoint,
      privateTemplate: "vc-private",
      datastore: "images",
    };
    const swept = await world.vc("sweep", "--yes", "--site", JSON.stringify(settings));
    expect(swept.all).to.include("its frontend's disk was kept");
    expect(site.oned.world.all<Net>("NET").map(({ name }) => name)).to.deep.equal(["public"]);
    expect([...site.oned.world.all("IMAGE"), ...site.oned.world.all("TEMPLATE")]).to.deep.equal([]);
    expect(site.oned.world.all<Net>("NET")[0]?.ranges.flatMap(({ leases }) => [...leases])).to.deep.equal([]);
  });

  it("has kept its password, its token and the cluster's private keys out of all that", async () => {
    const kept = [printed, await readFile(join(world.home, "audit.jsonl"), "utf8").catch(() => "")];
    for (const file of await readdir(join(world.home, "pulumi"), { recursive: true, withFileTypes: true })) {
      if (file.isFile()) {
        kept.push(await readFile(join(file.parentPath, file.name), "utf8"));
      }
    }
    const secrets = [PASSWORD, TOKEN, "PRIVATE KEY"];
    for (const secret of secrets.flatMap((one) => [one, Buffer.from(one).toString("base64").slice(0, -4)])) {
      expect(
        kept.filter((text) => text.includes(secret)),
        secret,
      ).to.deep.equal([]);
    }
  });
});
