import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { main } from "../../provider/src/cli/vc";
import { memorySite } from "../../provider/src/drivers/memory/site";
import { FakePrograms } from "./fake-programs";

const MEMORY = '{"driver": "memory", "name": "vc"}';
const MARK = { owner: "me@here", organization: "organization", project: "docking", stack: "dev", cluster: "dock" };

describe("vc", () => {
  /** As a person sees it. */
  async function vc(...args: string[]) {
    const [out, err]: [string[], string[]] = [[], []];
    const code = await main(args, { out: (text) => void out.push(text), err: (text) => void err.push(text) });
    return { code, out: out.join("\n"), err: err.join("\n") };
  }

  it("answers wrong usage with one sentence and exit code 2", async () => {
    const cases: ReadonlyArray<readonly [string[], RegExp]> = [
      [["swep"], /unknown command 'swep' \(did you mean sweep\?\)/],
      [["sweep", "--yess"], /unknown option '--yess' \(did you mean --yes\?\)/],
      [["sweep", "--site"], /option '--site <json>' argument missing/],
      [["sweep", "--owner", ""], /'--owner <owner>' .*: it must not be empty/],
      [["sweep", "--site", "{x"], /'\{x' is invalid: it must be JSON/],
      [
        ["sweep", "--site", '{"driver": "memry"}'],
        /is invalid: driver must be "libvirt", "opennebula", "rocks", "command" or "memory"/,
      ],
      [["sweep", "--site", '{"uri": "http://host"}'], /is invalid: uri must be a libvirt URI/],
      [["sweep", "now"], /too many arguments for 'sweep'/],
    ];
    for (const [args, sentence] of cases) {
      const { code, out, err } = await vc(...args);
      expect({ code, out }, args.join(" ")).to.deep.equal({ code: 2, out: "" });
      expect(err)
        .to.match(sentence)
        .and.to.match(/^vc: [^\n]*\.$/);
    }
  });

  it("shows its help, with examples, and its version", async () => {
    expect(await vc("--version")).to.deep.equal({ code: 0, out: "0.1.0", err: "" });
    const { code, out } = await vc("sweep", "--help");
    expect(code).to.equal(0);
    expect(out).to.match(/Examples:\n {2}vc sweep/);
    const alone = await vc();
    expect(alone).to.include({ code: 2, out: "" });
    expect(alone.err).to.match(/^Usage: vc/);
  });

  describe("sweep, with a Pulumi CLI that answers as told", () => {
    let programs: FakePrograms;

    beforeEach(async () => {
      programs = await FakePrograms.create();
      memorySite("vc").leases.set("198.51.100.10", {
        cluster: "docking-dev-dock",
        mark: { ...MARK, version: 1, createdAt: "" },
      });
    });

    afterEach(async () => {
      memorySite("vc").leases.clear();
      await programs.dispose();
    });

    const pulumi = (answers: Readonly<Record<string, string>>) => programs.pulumi(answers);
    const sweep = (...args: string[]) => vc("sweep", "--site", MEMORY, "--owner", MARK.owner, ...args);
    const WHOAMI = `echo '{"url": "https://example.com"}'`;
    const KNOWN = {
      type: "pulumi-nodejs:dynamic/virtual-cluster:VirtualCluster",
      inputs: { ...MARK, name: "dock", clusterName: "docking-dev-dock" },
    };

    it("removes what no stack knows, also when a stack goes meanwhile", async () => {
      await pulumi({ whoami: WHOAMI, "stack ls": `echo '[{"name": "gone"}]'`, "stack export --stack gone": "exit 6" });
      const listed = await sweep();
      expect(listed.code).to.equal(0);
      expect(listed.out).to.match(
        /docking-dev-dock +organization\/docking\/dev +0 +198\.51\.100\.10 +- +no stack knows it/,
      );
      expect(memorySite("vc").leases.size).to.equal(1);
      const { code, out } = await sweep("--yes", "--json");
      expect(code).to.equal(0);
      expect(JSON.parse(out).clusters).to.deep.include.members([
        {
          name: "docking-dev-dock",
          owner: MARK.owner,
          stack: "organization/docking/dev",
          cluster: "dock",
          machines: [],
          addresses: ["198.51.100.10"],
          recordLost: true,
          why: "no stack knows it, its record is lost",
          outcome: "removed",
        },
      ]);
      expect(memorySite("vc").leases.size).to.equal(0);
      expect(await sweep())
        .to.include({ code: 0 })
        .and.have.property("out")
        .that.matches(/Nothing to sweep/);
    });

    it("goes on after one that can't be removed, and fails then", async () => {
      await pulumi({ whoami: WHOAMI, "stack ls": "echo '[]'" });
      const mark = { ...MARK, version: 1, cluster: "second", createdAt: "" } as const;
      memorySite("vc").leases.set("198.51.100.11", { cluster: "docking-dev-second", mark });
      memorySite("vc").networks.set("docking-dev-dock", "unmarked");
      const { code, out, err } = await sweep("--yes");
      memorySite("vc").networks.clear();
      expect(code).to.equal(1);
      expect(err).to.match(/^docking-dev-dock: not removed: network docking-dev-dock: exists and carries no mark/);
      expect(out).to.match(/^docking-dev-second: removed$/m);
      expect([...memorySite("vc").leases.keys()]).to.deep.equal(["198.51.100.10"]);
    });

    it("counts other owners' clusters in one line", async () => {
      await pulumi({ whoami: WHOAMI, "stack ls": "echo '[]'" });
      const { out } = await vc("sweep", "--site", MEMORY, "--owner", "you@there", "--yes");
      expect(out).to.match(/^Not looked at: 1 cluster of me@here$/m);
      expect(memorySite("vc").leases.size).to.equal(1);
    });

    it("knows what any backend's stacks know: that of the set-up, and that which somebody is logged in to", async () => {
      await mkdir(join(programs.folder, "home", "pulumi"), { recursive: true });
      const state = JSON.stringify({ deployment: { pending_operations: [{ resource: KNOWN }] } });
      await pulumi({
        whoami: `echo '{"url": "'"\${PULUMI_BACKEND_URL:-https://example.com}"'"}'`,
        "stack ls": `case "$PULUMI_BACKEND_URL" in file:*) echo '[]';; *) echo '[{"name": "dev"}, {"name": "gone"}]';; esac`,
        "stack export --stack dev": `echo '${state}'`,
        "stack export --stack gone": "exit 6",
      });
      const { code, out } = await sweep("--yes");
      expect(code).to.equal(0);
      expect(out).to.match(/Stacks: 2 in file:\/\/.* and https:\/\/example\.com\n\nNothing to sweep/);
      expect(memorySite("vc").leases.size).to.equal(1);
    });

    it("removes nothing while the state of a stack can't be read", async () => {
      for (const failure of ["echo 'error: damaged' >&2; exit 255", "echo '{'", "echo '[]'"]) {
        await pulumi({ whoami: WHOAMI, "stack ls": `echo '[{"name": "dev"}]'`, "stack export": failure });
        const { code, out, err } = await sweep("--yes");
        expect(code).to.equal(1);
        expect(out).to.match(/no stack that can be read knows it/);
        expect(err)
          .to.match(/the state of stack dev can't be read: .*Nothing is removed/)
          .and.not.to.match(/\n/);
        expect(memorySite("vc").leases.size).to.equal(1);
      }
    });

    it("refuses to guess where Pulumi can't be asked", async () => {
      const cases: ReadonlyArray<readonly [Record<string, string>, RegExp]> = [
        [{ whoami: "exit 3" }, /isn't logged in to any/],
        [{ whoami: "echo 'error: no bucket' >&2; exit 1" }, /`pulumi whoami` failed: no bucket\. .*PULUMI_BACKEND_URL/],
        [{ whoami: WHOAMI, "stack ls": "echo 'error: place 1' >&2; exit 1" }, /`pulumi stack ls .*` failed: place 1/],
      ];
      for (const [answers, message] of cases) {
        await pulumi(answers);
        const { code, out, err } = await sweep("--yes");
        expect({ code, out }).to.deep.equal({ code: 1, out: "" });
        expect(err).to.match(message);
      }
      process.env.PATH = join(programs.folder, "none");
      expect((await sweep("--yes")).err).to.match(/the Pulumi CLI: it can't be run/);
      expect(memorySite("vc").leases.size).to.equal(1);
    });

    it("takes site and owner from the configuration of the folder's stack", async () => {
      const configuration = {
        "virtual-cluster:site": { value: MEMORY },
        "virtual-cluster:owner": { value: MARK.owner },
        "docking:secret": { secret: true },
      };
      await pulumi({ whoami: WHOAMI, "stack ls": "echo '[]'", config: `echo '${JSON.stringify(configuration)}'` });
      expect((await vc("sweep")).out)
        .to.match(/^Clusters of me@here at memory vc\n/)
        .and.to.match(/docking-dev-dock/);
      await pulumi({ whoami: WHOAMI, config: `echo '{"virtual-cluster:site": {"value": "here"}}'` });
      expect((await vc("sweep")).err).to.match(/virtual-cluster:site of this folder's stack/);
    });
  });
});
