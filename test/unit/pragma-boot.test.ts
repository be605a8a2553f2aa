import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EngineEvent } from "@pulumi/pulumi/automation";
import { expect } from "chai";
import { main } from "../../provider/src/cli/pragma-boot";
import { type Commands, commandLine, type Wish, withTwoDashes } from "../../provider/src/pragma/command-line";
import { Progress } from "../../provider/src/pragma/progress";
import { siteDefaults } from "../../provider/src/pragma/site";
import { summaryOf } from "../../provider/src/pragma/summary";

const TERMINAL = { out: () => undefined, err: () => undefined };

describe("pragma_boot", () => {
  const before = { ...process.env };
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "pragma-unit-"));
    Object.assign(process.env, {
      PATH: "/usr/bin:/bin",
      PULUMI_HOME: join(folder, "none"),
      VIRTUAL_CLUSTER_HOME: folder,
    });
    await mkdir(join(folder, "images"));
    await writeFile(join(folder, "images", "vcdb.txt"), "dock6,dock6/vc-in.xml\nlifemapper,lm/vc-in.xml\n");
  });

  afterEach(async () => {
    for (const name of ["PATH", "PULUMI_HOME", "VIRTUAL_CLUSTER_HOME", "PRAGMA_BOOT_CONF", "PULUMI_BACKEND_URL"]) {
      if (before[name] === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = before[name];
      }
    }
    await rm(folder, { recursive: true });
  });

  /** As a person sees it. */
  async function pragmaBoot(...args: string[]) {
    const [out, err]: [string[], string[]] = [[], []];
    const code = await main(args, { out: (text) => void out.push(text), err: (text) => void err.push(text) });
    return { code, out: out.join("\n"), err: err.join("\n") };
  }

  /** What a command line comes to: the command and its arguments. */
  async function meantBy(...args: string[]): Promise<unknown[]> {
    const meant: unknown[] = [];
    const note =
      (name: string) =>
      async (...values: unknown[]) =>
        void meant.push(name, ...values);
    const commands: Commands = {
      boot: note("boot"),
      shutdown: note("shutdown"),
      clean: note("clean"),
      listRepository: note("list repository"),
      listClusters: note("list cluster"),
    };
    await commandLine(commands, "1", TERMINAL).parseAsync(withTwoDashes(args), { from: "user" });
    return meant;
  }

  it("understands what the slides say, with one dash or two, and the later sub-commands", async () => {
    const wish: Wish = { vcName: "dock6", numCpus: 4, verbose: false, dryRun: false };
    for (const line of [
      "-vcname dock6 -num_cpus 4",
      "--vcname dock6 --num_cpus 4",
      "--num_cpus=4 -vcname=dock6",
      "boot dock6 4",
      "boot -num_cpus 4 dock6",
    ]) {
      expect(await meantBy(...line.split(" ")), line).to.deep.equal(["boot", wish]);
    }
    expect(
      await meantBy(
        ..."-v -d -vcname dock6 -base_path /images -key /k.pub -memory 64 -name a -wait_for none".split(" "),
      ),
    ).to.deep.equal([
      "boot",
      {
        ...{ vcName: "dock6", verbose: true, dryRun: true, repository: "/images", key: "/k.pub" },
        ...{ memory: 64, name: "a", waitFor: "none" },
      },
    ]);
    expect(await meantBy("-vd", "clean", "dock6")).to.deep.equal(["clean", "dock6", { verbose: true, dryRun: true }]);
    expect(await meantBy("shutdown", "dock6")).to.deep.equal(["shutdown", "dock6", { verbose: false, dryRun: false }]);
    expect(await meantBy("-list", "-basepath", "/images")).to.deep.equal(["list repository", "/images"]);
    expect(await meantBy("list", "repository")).to.deep.equal(["list repository", undefined]);
    expect(await meantBy("list", "cluster", "dock6")).to.deep.equal(["list cluster", "dock6"]);
  });

  it("answers wrong usage with one sentence and exit code 2", async () => {
    const cases: ReadonlyArray<readonly [string, RegExp]> = [
      ["", /either --vcname or --list is needed/],
      ["-num_cpus 4", /either --vcname or --list is needed/],
      ["-vcname", /option '--vcname <name>' argument missing/],
      ["-vcnam dock6", /unknown option '--vcnam' \(did you mean --vcname\?\)/],
      ["-vcname dock6 -num_cpus four", /'four' is invalid: it must be a whole number/],
      ["-vcname dock6 -num_cpus -4", /'-4' is invalid: it must be a whole number/],
      ["boot dock6 4.5", /'4\.5' is invalid .*it must be a whole number/],
      ["-vcname dock6 -name Dock", /'Dock' is invalid: it must be a letter/],
      ["-vcname dock6 -wait_for ever", /'ever' is invalid: Allowed choices are none, running, ready/],
      ["-list -vcname dock6", /--list and --vcname don't go together/],
      ["shutdwn dock6", /unknown command 'shutdwn' \(did you mean shutdown\?\)/],
      ["clean", /missing required argument 'name'/],
      ["clean dock6 dock7", /too many arguments for 'clean'/],
    ];
    for (const [line, sentence] of cases) {
      const { code, out, err } = await pragmaBoot(...line.split(" ").filter(Boolean));
      expect({ code, out }, line).to.deep.equal({ code: 2, out: "" });
      expect(err)
        .to.match(sentence)
        .and.to.match(/^pragma_boot: [^\n]*; see `pragma_boot --help`\.$/);
    }
  });

  it("shows its help, with examples, and its version", async () => {
    expect(await pragmaBoot("-version")).to.deep.equal({ code: 0, out: "0.1.0", err: "" });
    const { code, out } = await pragmaBoot("-help");
    expect(code).to.equal(0);
    expect(out).to.match(/pragma_boot -vcname dock6 -num_cpus 4/);
  });

  it("lists what the repository has, with no Pulumi about", async () => {
    const listed = { code: 0, out: "dock6\nlifemapper", err: "" };
    expect(await pragmaBoot("-list")).to.deep.equal(listed);
    expect(await pragmaBoot("list", "repository", "--base_path", join(folder, "images"))).to.deep.equal(listed);
    await writeFile(join(folder, "site_conf.conf"), `repository_settings = { 'repository_dir': '${folder}/images' }`);
    process.env.VIRTUAL_CLUSTER_HOME = folder;
    expect(await pragmaBoot("-list")).to.deep.equal(listed);
    const { code, err } = await pragmaBoot("-list", "-base_path", "/nowhere");
    expect(code).to.equal(1);
    expect(err).to.match(/^pragma_boot: repository \/nowhere: there is no file \/nowhere\/vcdb\.txt\. [^\n]*$/);
  });

  it("says in one sentence what is missing, and fails", async () => {
    const cases: ReadonlyArray<readonly [string, RegExp]> = [
      ["-vcname dock6 -key /none.pub", /--key \/none\.pub: the file can't be read \(ENOENT\)/],
      [`-vcname dock6 -key ${folder}/images/vcdb.txt`, /publicKey \(.*vcdb\.txt\): is more than one line of text/],
      ["-vcname dock7", /image "dock7": is not in the repository .* Did you mean dock6\?/],
      ["-vcname dock6", /image dock6: its file "dock6\/vc-in\.xml" is missing/],
      ["shutdown dock6", /There is no Pulumi CLI: run `npm run quickstart -- --setup`/],
      ["list cluster", /There is no Pulumi CLI/],
    ];
    for (const [line, sentence] of cases) {
      const { code, out, err } = await pragmaBoot(...line.split(" "));
      expect({ code, out }, line).to.deep.equal({ code: 1, out: "" });
      expect(err)
        .to.match(sentence)
        .and.to.match(/^pragma_boot: [^\n]*$/);
    }
  });

  describe("site_conf.conf", () => {
    const conf = async (text: string, name = "site_conf.conf") => {
      await writeFile(join(folder, name), text);
      return join(folder, name);
    };

    it("is that which PRAGMA_BOOT_CONF names, else the user's own", async () => {
      await conf("repository_dir = '/own'");
      expect(siteDefaults()).to.deep.equal({ repository: "/own" });
      process.env.PRAGMA_BOOT_CONF = await conf("repository_dir = '/named'", "named.conf");
      expect(siteDefaults()).to.deep.equal({ repository: "/named" });
      process.env.PRAGMA_BOOT_CONF = "/none.conf";
      expect(siteDefaults).to.throw(/PRAGMA_BOOT_CONF \(\/none\.conf\): there is no such file/);
    });

    it("says where images are: a folder, or a URL", async () => {
      await conf("repository_settings = { 'repository_class': 'local', 'repository_dir': '/images' }");
      expect(siteDefaults()).to.deep.equal({ repository: "/images" });
      await conf(
        "repository_class = 'pragma.repository.http.Http'\nrepository_settings = { 'repository_url': 'http://a' }",
      );
      expect(siteDefaults()).to.deep.equal({ repository: "http://a" });
      await conf("repository_settings = { 'repository_class': 'clonezilla' }");
      expect(siteDefaults).to.throw(/repository_class clonezilla isn't supported/);
    });
  });

  it("tells what the engine does in lines, and what went wrong in a sentence each", () => {
    const lines: string[] = [];
    const progress = new Progress("dock6", { line: (text) => void lines.push(text) });
    const metadata = (op: string, type: string, name: string) =>
      ({ op, type: `pulumi-nodejs:dynamic/virtual-cluster:${type}`, urn: `urn:pulumi:a::b::c::${name}` }) as object;
    const events: object[] = [
      { diagnosticEvent: { severity: "debug", message: "Registering resource" } },
      { resourcePreEvent: { metadata: metadata("create", "Claim", "dock6") } },
      { resourcePreEvent: { metadata: metadata("same", "VirtualCluster", "dock6") } },
      { resourcePreEvent: { planning: true, metadata: metadata("create", "FrontendNode", "dock6-frontend") } },
      { resourcePreEvent: { metadata: metadata("create", "FrontendNode", "dock6-frontend") } },
      {
        diagnosticEvent: { severity: "info#err", message: "<{%reset%}>dock6/frontend: \u001b[2Jstarted\n<{%reset%}>" },
      },
      { resOutputsEvent: { metadata: metadata("create", "FrontendNode", "dock6-frontend") } },
      {
        diagnosticEvent: {
          severity: "error",
          message: "a:b/c:D resource 'x': property site value {<nil>} has a problem: no site.",
        },
      },
      { diagnosticEvent: { severity: "error", message: "update failed" } },
    ];
    events.forEach((event, sequence) => {
      progress.take({ sequence, timestamp: 0, ...event } as EngineEvent);
    });
    expect(lines.map((line) => line.replace(/\d+\.\d s/, "1 s"))).to.deep.equal([
      "dock6-frontend: creating",
      "dock6/frontend: [2Jstarted",
      "dock6-frontend: created (1 s)",
    ]);
    expect(progress.problems).to.deep.equal(["no site."]);
  });

  it("tells a cluster that is up from one that isn't whole", () => {
    const node = (name: string) => ({ name, cpus: 1, memory: 64, privateIp: "10.0.0.1" });
    const type = (name: string) => `pulumi-nodejs:dynamic/virtual-cluster:${name}`;
    const plan = { frontend: { ...node("dock6"), publicIp: "198.51.100.1" }, computes: [node("compute-0")] };
    const state = (power: string, ready: boolean, pending: unknown[] = []) => ({
      deployment: {
        resources: [
          { type: "pulumi:pulumi:Stack" },
          { type: type("VirtualCluster"), outputs: { image: "dock6", power, plan } },
          { type: type("FrontendNode"), outputs: { ready: true } },
          { type: type("ComputeNode"), outputs: { ready } },
        ],
        pending_operations: pending,
      },
    });
    expect(summaryOf(state("on", true))?.state).to.equal("up");
    expect(summaryOf(state("off", true))?.state).to.equal("off");
    expect(summaryOf(state("on", false))?.state).to.equal("incomplete");
    expect(summaryOf(state("on", true, [{}]))?.state).to.equal("incomplete");
    expect(summaryOf({ deployment: {} })).to.equal(undefined);
  });
});
