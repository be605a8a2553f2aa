import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { CommandDriver } from "../../provider/src/drivers/command";
import { type ProgramFailed, Programs, TIME_LIMITS } from "../../provider/src/drivers/command/programs";
import type { ClusterRecord } from "../../provider/src/drivers/driver";
import { ForeignOwner, NoCapacity, NotSupported, SiteFailure, Unreachable } from "../../provider/src/drivers/errors";
import type { CommandSettings } from "../../provider/src/drivers/settings";
import { parseVcIn } from "../../provider/src/images/repository/vc-in";
import { SITE_DECIDES } from "../../provider/src/plan/plan";
import { statOf } from "../../provider/src/process-stat";
import type { Properties } from "../../provider/src/resources/host";
import { readVcOut } from "../../provider/src/vc-out/read";
import { makeFakeDisk } from "../conformance/fake-guest";
import { eventually } from "../eventually";
import { failure } from "../failure";
import { CheckFailed, directLifeCycles, Stack } from "./stack";

const STAND_IN = join(__dirname, "..", "fixtures", "command-site");
const KEY_BYTES = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${"k".repeat(32)}`, "latin1");
const KEY = `ssh-ed25519 ${KEY_BYTES.toString("base64")} tester`;
const OTHER_KEY = `ssh-ed25519 ${Buffer.from(KEY_BYTES.map((byte, at) => (at > 20 ? byte + 1 : byte))).toString("base64")} other`;
const DOMAIN =
  '<domain><devices><disk device="disk"><driver type="raw"/><source file="disk.raw"/></disk></devices></domain>';
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const CLUSTER = "docking-dev-dock";

describe("a site that is a folder of programs", () => {
  let world: string;
  let repository: string;
  let folder: string;
  let programs: string;
  let site: string;
  let temporaryDirectory: string;
  let stack: Stack;
  let args: Properties;
  let said: string[];
  let serial = 0;
  const log = console.log;
  const homeBefore = process.env.VIRTUAL_CLUSTER_HOME;

  before(async () => {
    world = await mkdtemp(join(tmpdir(), "vc-programs-"));
    process.env.VIRTUAL_CLUSTER_HOME = join(world, "home");
    repository = join(world, "images");
    await mkdir(join(repository, "demo"), { recursive: true });
    await writeFile(
      join(repository, "demo", "vc-in.xml"),
      `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/>
       <frontend>${DOMAIN}</frontend><compute>${DOMAIN}</compute></vc>`,
    );
    await makeFakeDisk(join(repository, "demo", "disk.raw"), { virtio: true, heedsPowerButton: false });
    await writeFile(join(repository, "vcdb.txt"), "demo,demo/vc-in.xml\n");
  });

  after(async () => {
    if (homeBefore === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    } else {
      process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
    }
    await rm(world, { recursive: true });
  });

  beforeEach(async () => {
    serial += 1;
    folder = join(world, `site ${serial}`);
    [programs, site, temporaryDirectory] = ["the programs", "it's", 'te"mp'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    await cp(STAND_IN, programs, { recursive: true });
    await mkdir(site);
    await mkdir(temporaryDirectory);
    stack = stackAt(settings());
    args = { image: "demo", repository, numCpus: 2, publicKey: KEY };
    said = [];
    console.log = (line: string) => void said.push(line);
  });

  afterEach(() => {
    console.log = log;
  });

  function settings(): CommandSettings {
    return { driver: "command", folder: programs, temporaryDirectory, environment: { SITE: site } };
  }

  function stackAt(settings: object, identity: Properties = {}): Stack {
    return new Stack(
      directLifeCycles({
        "virtual-cluster:site": JSON.stringify(settings),
        "virtual-cluster:owner": "tester@example",
      }),
      identity,
    );
  }

  /** Puts another program in a program's place. */
  async function replaceProgram(name: string, text: string): Promise<void> {
    await writeFile(join(programs, name), `#!/bin/sh\n${text}\n`);
    await chmod(join(programs, name), 0o755);
  }

  async function removePrograms(...names: string[]): Promise<void> {
    await Promise.all(names.map((name) => rm(join(programs, name))));
  }

  async function machines(): Promise<string[]> {
    const hosts = (await readdir(join(site, "machines")).catch(() => [])).sort();
    const states = await Promise.all(hosts.map((host) => readFile(join(site, "machines", host, "state"), "utf8")));
    return hosts.map((host, index) => `${host} ${states[index]?.trim()}`);
  }

  /** Which programs ran since the last call, `status` aside. */
  async function ran(): Promise<string[]> {
    const calls = (await readFile(join(site, "calls"), "utf8").catch(() => "")).split("\n").filter(Boolean);
    await rm(join(site, "calls"), { force: true });
    return calls.filter((name) => name !== "status");
  }

  async function reasons(work: Promise<unknown>): Promise<string> {
    const error = await failure(work);
    expect(error).to.be.instanceOf(CheckFailed);
    return error.message;
  }

  describe("with all seven", () => {
    it("shows in the first preview what the site is going to decide, and makes nothing", async () => {
      const { plan } = await stack.preview(args);
      expect(plan.frontend).to.deep.include({ name: CLUSTER, privateIp: SITE_DECIDES, publicIp: SITE_DECIDES });
      expect(plan.computes.map(({ name, privateIp, privateMac }) => [name, privateIp, privateMac])).to.deep.equal([
        ["compute-0", SITE_DECIDES, SITE_DECIDES],
        ["compute-1", SITE_DECIDES, SITE_DECIDES],
      ]);
      expect(await ran()).to.deep.equal([]);
      expect(said.join("\n")).to.include("there may be fewer, with more cpus each").and.to.include("machine runs");
    });

    for (const dialect of ["A", "B"]) {
      it(`learns it from the vc-out.xml files, in dialect ${dialect}; the next up has nothing to do`, async () => {
        await writeFile(join(site, "dialect"), dialect);
        await stack.up(args);
        expect(await ran()).to.deep.equal(["allocate", "fix_images", "boot", "boot", "boot"]);
        const { plan, ssh, knownHosts } = stack.cluster;
        expect(plan.frontend).to.deep.include({
          hostName: "vc-10",
          fqdn: "vc-10.example.org",
          privateIp: "10.10.0.1",
          publicIp: "198.51.100.10",
          publicMac: "aa:00:00:01:0a:02",
        });
        expect(plan.computes[1]).to.deep.equal({
          name: "compute-1",
          hostName: "vm-10-1",
          cpus: 1,
          memory: 512,
          privateIp: "10.10.0.253",
          privateMac: "aa:00:00:00:0a:01",
        });
        expect(plan.publicNetwork).to.deep.include({ cidr: "198.51.100.0/24", gateway: "198.51.100.1" });
        // Nobody knows the host key of such a site's nodes.
        expect([ssh, knownHosts]).to.deep.equal(["ssh root@198.51.100.10", ""]);
        expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running", "vm-10-1 running"]);

        expect(await stack.up(args)).to.deep.equal([]);
        expect((await stack.preview(args)).plan).to.deep.equal(plan);
        expect(await ran()).to.deep.equal([]);
        await stack.destroy();
        expect(await machines()).to.deep.equal([]);
        expect(await readdir(join(site, "nets"))).to.deep.equal([]);
        expect((await readdir(join(temporaryDirectory, "virtual-clusters"))).sort()).to.deep.equal([
          ".locks",
          ".site-id",
        ]);
      });
    }

    it("calls each with the contract's arguments, in order, whatever is in them", async () => {
      await Promise.all(
        ["fix_images", "allocate", "boot", "remove"].map(async (name) => {
          const own = await readFile(join(programs, name), "utf8");
          const note = `{ echo "${name}:"; printf '<%s>\\n' "$@"; } >>"$SITE/arguments"`;
          await replaceProgram(name, own.replace("#!/bin/sh", note));
        }),
      );
      await stack.up({ ...args, cpusPerNode: 2 });
      await stack.destroy();
      const own = join(temporaryDirectory, "virtual-clusters", CLUSTER);
      const [vcIn, vcOut, work] = [join(own, "vc-in.xml"), join(own, "work", "vc-out.xml"), join(own, "work")];
      const call = (name: string, ...args: string[]) => [`${name}:`, ...args.map((arg) => `<${arg}>`)];
      const calls = (await readFile(join(site, "arguments"), "utf8")).trim().split("\n");
      expect(calls).to.deep.equal([
        ...call("allocate", "2", vcIn, vcOut, work, join(own, "key.pub")),
        ...call("fix_images", vcIn, work, "frontend,compute"),
        ...call("boot", `${work}/frontend disk`, "vc-10.example.org", work, vcOut),
        ...call("boot", `${work}/compute disk`, "vm-10-0", work, vcOut),
        ...call("remove", work, vcOut, "vm-10-0"),
        ...call("remove", work, vcOut, "vc-10.example.org"),
        ...call("remove", work, vcOut),
      ]);
    });

    it("tells programs by a vc-in.xml what shape is asked for", async () => {
      await stack.up({ ...args, numCpus: 4, cpusPerNode: 2, memoryPerNode: 1024, frontend: { cpus: 3, memory: 2048 } });
      const file = join(temporaryDirectory, "virtual-clusters", CLUSTER, "vc-in.xml");
      const text = await readFile(file, "utf8");
      const { frontend, compute } = parseVcIn(text, file);
      expect([frontend.disk.name, compute.disk.name]).to.deep.equal(["frontend.raw", "compute.raw"]);
      expect([...text.matchAll(/<(?:memory|vcpu)>(\d+)/g)].map(([, value]) => Number(value))).to.deep.equal([
        ...[2048 * 1024, 3],
        ...[1024 * 1024, 2],
      ]);
      expect(await readFile(join(file, "..", "frontend.raw"))).to.have.length(16 * 1024 * 1024);
    });

    it("grows and shrinks, and leaves the computes that stay alone", async () => {
      await stack.up(args);
      const { computes } = stack.cluster.plan;
      await ran();
      expect(await stack.up({ ...args, numCpus: 3 })).to.deep.equal([
        "update cluster",
        "update frontend",
        "create compute-2",
      ]);
      expect(await ran()).to.deep.equal(["reconfigure", "reconfigure", "boot"]);
      expect(stack.cluster.plan.computes.slice(0, 2)).to.deep.equal(computes);
      const known = await readFile(join(site, "machines", "vc-10.example.org", "vc-out.xml"), "utf8");
      expect(known).to.include("vm-10-2");

      expect(await stack.up({ ...args, numCpus: 1 })).to.deep.equal([
        ...["update cluster", "update frontend"],
        ...["delete compute-1", "delete compute-2"],
      ]);
      expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running"]);
      expect(await stack.up({ ...args, numCpus: 1 })).to.deep.equal([]);
    });

    it("gives nodes another shape, with the restart that the preview has said", async () => {
      await stack.up(args);
      said = [];
      expect(await stack.up({ ...args, memoryPerNode: 1024 })).to.include("update compute-0");
      expect(said.join("\n")).to.include("memory 512 → 1024: needs a restart of the machine");
      expect(await readFile(join(site, "machines", "vm-10-0", "shape"), "utf8")).to.equal("1 1024\n");
      expect(await stack.up({ ...args, memoryPerNode: 1024 })).to.deep.equal([]);
    });

    it("hands the frontend another key, and turns machines off and on", async () => {
      await stack.up(args);
      await stack.up({ ...args, publicKey: OTHER_KEY });
      const file = join(site, "machines", "vc-10.example.org", "vc-out.xml");
      expect(await readFile(file, "utf8")).to.include(OTHER_KEY);
      await stack.up({ ...args, publicKey: OTHER_KEY, power: "off" });
      expect(await machines()).to.deep.equal(["vc-10.example.org off", "vm-10-0 off", "vm-10-1 off"]);
      await stack.up({ ...args, publicKey: OTHER_KEY });
      expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running", "vm-10-1 running"]);
    });

    it("sees what happened behind its back, and mends it; a frontend is never made anew with an empty disk", async () => {
      await stack.up(args);
      await rm(join(site, "machines", "vm-10-1"), { recursive: true });
      await writeFile(join(site, "machines", "vm-10-0", "state"), "off\n");
      await stack.refresh();
      expect(stack.outputs("compute-0").state).to.equal("off");
      expect(await stack.up(args)).to.have.members(["update compute-0", "create compute-1"]);
      expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running", "vm-10-1 running"]);
      await rm(join(site, "machines", "vc-10.example.org"), { recursive: true });
      expect((await failure(stack.up(args))).message).to.include("would make another with an empty disk");
    });

    it("says what doesn't fit, and leaves nothing", async () => {
      await writeFile(join(site, "capacity"), "8");
      const error = await failure(stack.up({ ...args, numCpus: 9 }));
      expect(error).to.be.instanceOf(NoCapacity);
      expect(error.message).to.include("9 cpus are asked for, and 8 are free").and.to.include("exit code 1");
      await stack.up(args);
      expect((await failure(stack.up({ ...args, numCpus: 9 }))).message).to.include("8 are free");
      // What was there is there, and can still be changed.
      expect(await stack.up({ ...args, numCpus: 3 })).to.include("create compute-2");
    });

    it("says which programs ran, line by line, under the node that they ran for", async () => {
      await stack.up(args);
      expect(said).to.include.members([
        `${CLUSTER}: allocate: network 10.10.0.0/24 for 2 cpus`,
        `${CLUSTER}: fix_images: copying the disk of the frontend`,
        `${CLUSTER}/frontend: boot: starting vc-10.example.org`,
        `${CLUSTER}/compute-1: boot: starting vm-10-1`,
      ]);
    });

    it("takes an allocation up again that was cut off, without reserving twice", async () => {
      const own = await readFile(join(programs, "allocate"), "utf8");
      await replaceProgram("allocate", `${own}\nkill -KILL $$`);
      const error = await failure(stack.up(args));
      expect(error).to.be.instanceOf(SiteFailure);
      expect(error.message).to.include("was ended by SIGKILL");
      await replaceProgram("allocate", own);
      await stack.up(args);
      expect(await readdir(join(site, "nets"))).to.have.length(1);
    });
  });

  describe("that others use too", () => {
    it("gives two clusters different addresses, and each its own machines", async () => {
      const other = stackAt(settings(), { name: "other" });
      await Promise.all([stack.up(args), other.up({ ...args, numCpus: 1 })]);
      const ips = [stack, other].map(({ cluster }) => cluster.plan.frontend.publicIp);
      expect(ips.sort()).to.deep.equal(["198.51.100.10", "198.51.100.11"]);
      await stack.destroy();
      expect(await machines()).to.have.length(2);
      expect(await other.up({ ...args, numCpus: 1 })).to.deep.equal([]);
      await other.destroy();
    });

    for (const part of ["owner", "organization", "project", "stack", "cluster"] as const) {
      it(`leaves a cluster alone whose mark has another ${part}`, async () => {
        await stack.up(args);
        await ran();
        const driver = new CommandDriver(settings());
        const theirs = await driver.find(CLUSTER);
        const ours = { ...theirs, mark: { ...theirs?.mark, [part]: "somebody-else" } } as ClusterRecord;
        for (const work of [
          () => driver.allocate(ours),
          () => driver.release(ours, { keepBaseImage: false }),
          () => driver.remove({ cluster: ours, node: "frontend" }, { graceSeconds: 0 }),
          () => driver.shutdown({ cluster: ours, node: "compute-0" }, { graceSeconds: 0 }),
        ]) {
          expect(await failure(work())).to.be.instanceOf(ForeignOwner);
        }
        expect(await ran()).to.deep.equal([]);
        expect(await driver.find(CLUSTER)).to.deep.equal(theirs);
      });
    }
  });

  describe("that merges nodes", () => {
    beforeEach(() => writeFile(join(site, "per_node"), "4"));

    it("gives the machines that there are their cpus, and none to the computes that are left over", async () => {
      await stack.up({ ...args, numCpus: 6 });
      const { computes } = stack.cluster.plan;
      expect(computes.map(({ cpus, allocated, hostName }) => [cpus, allocated, hostName])).to.deep.equal([
        [4, undefined, "vm-10-0"],
        [2, undefined, "vm-10-1"],
        ...Array(4).fill([1, false, undefined]),
      ]);
      expect(stack.outputs("compute-3")).to.deep.include({ allocated: false, ready: true, state: "not allocated" });
      expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running", "vm-10-1 running"]);
      expect(stack.outputs("frontend").computes).to.have.length(2);
      expect(await stack.up({ ...args, numCpus: 6 })).to.deep.equal([]);
      await stack.refresh();
      expect(await stack.up({ ...args, numCpus: 6 })).to.deep.equal([]);
    });

    it("gives a left-over compute a machine when the cluster grows, and takes it back when it shrinks", async () => {
      await stack.up({ ...args, numCpus: 4 });
      expect(stack.cluster.plan.computes.map(({ allocated }) => allocated)).to.deep.equal([
        undefined,
        ...Array(3).fill(false),
      ]);
      await stack.up({ ...args, numCpus: 8 });
      expect(stack.outputs("compute-1")).to.deep.include({ cpus: 4, state: "running" });
      expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running", "vm-10-1 running"]);
      await stack.up({ ...args, numCpus: 4 });
      expect(await machines()).to.deep.equal(["vc-10.example.org running", "vm-10-0 running"]);
      expect(stack.outputs("compute-1")).to.deep.include({ allocated: false });
      await stack.destroy();
      expect(await machines()).to.deep.equal([]);
    });

    it("that gives more nodes than planned is told so, with what to set", async () => {
      await writeFile(join(site, "per_node"), "1");
      const error = await failure(stack.up({ ...args, numCpus: 4, cpusPerNode: 2 }));
      expect(error).to.be.instanceOf(NotSupported);
      expect(error.message).to.include("gave 4 computes").and.to.include("Set cpusPerNode to 1");
    });
  });

  describe("with the three of the old contract", () => {
    beforeEach(() => removePrograms("status", "shutdown", "remove", "reconfigure"));

    it("launches a cluster once, however often it is called", async () => {
      await stack.up(args);
      expect(await ran()).to.deep.equal(["allocate", "fix_images", "boot", "boot", "boot"]);
      await stack.refresh();
      expect(await stack.up(args)).to.deep.equal([]);
      expect(await ran()).to.deep.equal([]);
    });

    it("says in the first preview that the cluster can't be taken away", async () => {
      await stack.preview(args);
      expect(said.join("\n"))
        .to.include("`pulumi destroy` and fewer computes won't work at this site")
        .and.to.include(`${programs} has no executable program remove`);
    });

    const refused: Record<string, readonly [Properties, string]> = {
      "a resize": [{ numCpus: 3 }, "reconfigure"],
      "fewer computes": [{ numCpus: 1 }, "remove"],
      "another shape": [{ memoryPerNode: 1024 }, "reconfigure"],
      "another key": [{ publicKey: OTHER_KEY }, "reconfigure"],
      "turning it off": [{ power: "off" }, "shutdown"],
    };
    for (const [what, [change, program]] of Object.entries(refused)) {
      it(`refuses ${what} in the preview, and names the program that it takes`, async () => {
        await stack.up(args);
        expect(await reasons(stack.preview({ ...args, ...change }))).to.include(`no executable program ${program}`);
      });
    }

    for (const [property, value] of [
      ["diskSize", 100],
      ["publicIp", "198.51.100.9"],
      ["vcOutDialect", "A"],
    ] as const) {
      it(`refuses ${property}, for which the contract has no words`, async () => {
        expect(await reasons(stack.preview({ ...args, [property]: value }))).to.include(`${property}: this site can't`);
      });
    }

    it("says what to do before destroy can go on, and then destroys", async () => {
      await stack.up(args);
      const own = join(temporaryDirectory, "virtual-clusters", CLUSTER);
      const error = await failure(stack.destroy());
      expect(error).to.be.instanceOf(NotSupported);
      expect(error.message).to.include(`delete the folder ${own}`);
      await rm(own, { recursive: true });
      await stack.destroy();
      expect([...stack.state.keys()]).to.deep.equal([]);
    });
  });

  describe("whose settings or programs are wrong", () => {
    it("is refused by check in one sentence: a program that is missing, one without its run bit", async () => {
      await chmod(join(programs, "boot"), 0o644);
      expect(await reasons(stack.preview(args))).to.include(`${programs}/boot isn't executable`);
      await removePrograms("allocate");
      expect(await reasons(stack.preview(args))).to.include(`${programs}/allocate is missing`);
    });

    it("is refused by check: no folder, no temporary directory, a site_conf.conf that isn't there", async () => {
      const wrong = (settings: object) => reasons(stackAt({ driver: "command", ...settings }).preview(args));
      expect(await wrong({ temporaryDirectory })).to.include("site.folder");
      expect(await wrong({ folder: programs })).to.include("site.temporaryDirectory");
      expect(await wrong({ folder: "relative", temporaryDirectory })).to.include("must be an absolute path");
      expect(await wrong({ siteConf: join(folder, "none.conf") })).to.include("none.conf: can't be read (ENOENT)");
      const unmounted = { folder: programs, temporaryDirectory: join(folder, "mnt") };
      expect(await wrong(unmounted)).to.include("isn't there");
    });

    it("may be named by a site_conf.conf, which is read and never executed", async () => {
      const conf = join(folder, "site_conf.conf");
      await writeFile(
        conf,
        `site_ve_driver = '${programs.replace("'", "\\'")}'\ntemp_directory = '${temporaryDirectory}'\n`,
      );
      stack = stackAt({ driver: "command", siteConf: conf, environment: { SITE: site } });
      await stack.up(args);
      expect(stack.cluster.site).to.deep.equal({
        driver: "command",
        folder: programs,
        temporaryDirectory,
        environment: { SITE: site },
      });
      await stack.destroy();
    });

    const files: Record<string, readonly [string, string]> = {
      "is half-written": ['head -c 200 "$3" >"$3.half"; mv "$3.half" "$3"', "vc-out.xml"],
      "is empty": [': >"$3"', "vc-out.xml"],
      "is missing": ['rm "$3"', "is missing"],
      "is a compute's": ['cp "$4/vm-10-0.xml" "$3"', "should be the frontend's"],
      "lists a compute without a file of its own": ['rm "$4/vm-10-1.xml"', "vm-10-1.xml"],
      "contradicts a compute's own": ['cp "$4/vm-10-0.xml" "$4/vm-10-1.xml"', "is of vm-10-0"],
      "is a folder": ['rm "$3"; mkdir "$3"', "is no file"],
      "has no end": ['head -c 3000000 /dev/zero >"$3"', "bytes"],
    };
    for (const [what, [damage, mentions]] of Object.entries(files)) {
      it(`is refused where its vc-out.xml ${what}`, async () => {
        const own = await readFile(join(programs, "allocate"), "utf8");
        await replaceProgram("allocate", `${own}\n${damage}`);
        const error = await failure(stack.up(args));
        expect(error).to.be.instanceOf(SiteFailure);
        expect(error.message).to.include(mentions).and.to.include("has to be mended");
        await replaceProgram("allocate", own);
        await rm(join(temporaryDirectory, "virtual-clusters", CLUSTER, "work", "vc-out.xml"), {
          recursive: true,
          force: true,
        });
        await stack.up(args);
        expect(await readdir(join(site, "nets"))).to.have.length(1);
      });
    }

    it("is refused where fix_images doesn't end with two disks", async () => {
      await replaceProgram("fix_images", "echo one disk too many");
      expect((await failure(stack.up(args))).message).to.include('the line "one disk too many"');
    });

    it("doesn't take a status that fails for an answer", async () => {
      await stack.up(args);
      await replaceProgram("status", "echo out of order >&2; exit 3");
      const error = await failure(stack.refresh());
      expect(error).to.be.instanceOf(Unreachable);
      expect(error.message).to.include("out of order").and.to.include("exit code 3");
    });
  });

  describe("of docs/sites/command.md", () => {
    it("boots real machines with what its example says, and takes them away", async function () {
      const missing = await Promise.all(
        ["qemu-system-x86_64", "debugfs"].map((name) => execa("which", [name], { env: { PATH }, reject: false })),
      );
      if (missing.some(({ failed }) => failed)) {
        this.skip();
      }
      const page = await readFile(join(__dirname, "..", "..", "docs", "sites", "command.md"), "utf8");
      const found = [...page.matchAll(/^`(\w+)`\n\n```sh\n#!\/bin\/sh -eu\n([\s\S]*?)```/gm)];
      expect(found.map(([, name]) => name)).to.deep.equal(["fix_images", "allocate", "boot", "status", "remove"]);
      await rm(programs, { recursive: true });
      await mkdir(programs);
      await Promise.all(found.map(([, name = "", text = ""]) => replaceProgram(name, `set -eu\n${text}`)));
      // QEMU takes no comma in a file's name.
      stack = stackAt({ driver: "command", folder: programs, temporaryDirectory: world, environment: { PATH } });
      try {
        await stack.up(args);
        const work = join(world, "virtual-clusters", CLUSTER, "work");
        const cat = ["-R", "cat /root/vc-out.xml", `${join(work, "node-1.disk")}?offset=1048576`];
        const { stdout } = await execa("debugfs", cat, { env: { PATH } });
        expect(readVcOut(stdout).vcOut).to.deep.include({ role: "compute", name: "node-1" });
        expect(stack.outputs("compute-1")).to.deep.include({ state: "running", privateIp: "10.1.1.253" });
        const qemu = Number(await readFile(join(work, "node-1.pid"), "utf8"));
        process.kill(qemu);
        await eventually(() => expect(statOf(qemu)?.state ?? "Z").to.equal("Z"));
        await stack.refresh();
        expect(await stack.up(args)).to.deep.equal(["create compute-1"]);
        expect(await failure(stack.up({ ...args, numCpus: 1 }))).to.be.instanceOf(CheckFailed);
      } finally {
        await stack.destroy();
      }
      expect((await readdir(join(world, "virtual-clusters"))).filter((name) => !name.startsWith("."))).to.deep.equal(
        [],
      );
    });
  });

  describe("runs each program", () => {
    const lines: string[] = [];
    const run = (limit = 30) =>
      new Programs(programs, { GREETING: 'it\'s "you"' }, { ...TIME_LIMITS, boot: limit }).run(
        "boot",
        ["one", "two words", `"quoted" 'twice' $HOME \`id\``],
        folder,
        (line) => void lines.push(line),
      );

    beforeEach(() => {
      lines.length = 0;
    });

    it("with arguments and environment as they are, and gives the last line of its standard output", async () => {
      await replaceProgram("boot", `printf '%s\\n' "$@" "$GREETING"; echo; echo late >&2`);
      expect(await run()).to.equal('it\'s "you"');
      expect(lines).to.have.members(["one", "two words", `"quoted" 'twice' $HOME \`id\``, 'it\'s "you"', "late"]);
    });

    it("and says how it ended", async () => {
      await replaceProgram("boot", "echo first; echo why >&2; exit 7");
      expect((await failure(run())).message).to.match(/ended with exit code 7 \(.*why.*\)/);
      await writeFile(join(programs, "boot"), "#!/no/such/shell\n");
      expect((await failure<ProgramFailed>(run())).hasEnded).to.equal(false);
      await replaceProgram("boot", "kill -SEGV $$");
      expect((await failure(run())).message).to.include("was ended by SIGSEGV");
    });

    it("no longer than it may take, and ends its children with it", async () => {
      const pid = join(folder, "child");
      await replaceProgram("boot", `sh -c 'trap "" TERM; echo $$ >"${pid}"; sleep 60 & wait; sleep 60' & sleep 60`);
      expect((await failure(run(1))).message).to.include("didn't end within 1 s, and was ended");
      const child = Number(await readFile(pid, "utf8"));
      await eventually(() => expect(statOf(child)?.state ?? "Z", "a child that didn't listen").to.equal("Z"));
    });

    it("and doesn't wait for what it leaves behind with its output open", async () => {
      const pid = join(folder, "left-behind");
      await replaceProgram("boot", `sleep 60 & echo $! >"${pid}"; echo done`);
      expect(await run()).to.equal("done");
      const leftBehind = Number(await readFile(pid, "utf8"));
      expect(statOf(leftBehind), "what it leaves behind").not.to.equal(undefined);
      process.kill(leftBehind);
    });

    it("whose output may be anything", async () => {
      await replaceProgram(
        "boot",
        `printf '\\033[31mred\\033[0m\\007\\n'; head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'no end'`,
      );
      expect(await run()).to.equal("no end");
      expect(lines[0]).to.equal("red");
      expect(lines[1]).to.have.length.lessThan(3000);
    });
  });
});
