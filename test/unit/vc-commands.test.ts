import { appendFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { XMLParser, XMLValidator } from "fast-xml-parser";
import { newLines } from "../../provider/src/cli/console";
import { redrawing, type Terminal } from "../../provider/src/cli/terminal";
import { main } from "../../provider/src/cli/vc";
import { closest } from "../../provider/src/closest";
import { diagramOf } from "../../provider/src/diagram/diagram";
import { type MemorySite, memorySite } from "../../provider/src/drivers/memory/site";
import { makeFakeDisk } from "../conformance/fake-guest";
import { FakePrograms } from "./fake-programs";
import { directLifeCycles, Stack } from "./stack";

const ROOT = join(__dirname, "..", "..");
const VC = join(ROOT, "provider", "vc.mjs");
const DISK = `<domain><devices><disk><driver name="qemu" type="raw"/><source file="disk.raw"/></disk></devices></domain>`;
const VC_IN = `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/><driver>any</driver>
<frontend>${DISK}</frontend><compute>${DISK}</compute></vc>`;
const KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OWNER = "me@here";

describe("vc, with a cluster", () => {
  let programs: FakePrograms;
  let site: MemorySite;
  let siteName: string;
  let stack: Stack;
  let serial = 0;
  let images: string;

  before(async () => {
    images = await mkdtemp(join(tmpdir(), "vc-images-"));
    await mkdir(join(images, "demo"));
    await writeFile(join(images, "vcdb.txt"), "demo,demo/vc-in.xml\n");
    await writeFile(join(images, "demo", "vc-in.xml"), VC_IN);
    await makeFakeDisk(join(images, "demo", "disk.raw"), { virtio: true, heedsPowerButton: false });
  });

  after(() => rm(images, { recursive: true }));

  beforeEach(async () => {
    programs = await FakePrograms.create();
    serial += 1;
    siteName = `vc-${serial}`;
    site = memorySite(siteName);
    await mkdir(join(programs.folder, "home"));
    await symlink(images, join(programs.folder, "home", "images"));
    process.env.VIRTUAL_CLUSTER_AUDIT_LOG = join(programs.folder, "log", "audit.jsonl");
    stack = await up("dock", 2);
    await programs.pulumiWith({ dev: exported(stack) });
    await programs.program("ssh", SAYS_ARGUMENTS);
    await programs.program("scp", SAYS_ARGUMENTS);
  });

  afterEach(() => programs.dispose());

  /** What it was called with, a word a line; then it does what a command of ours says. */
  const SAYS_ARGUMENTS = `printf '%s\\n' "$@" >"\${0%/*}/said-\${0##*/}-$$"
for word; do :; done
case "$word" in
  quiet) exit 7 ;;
  fail*) echo "of no use" >&2; exit 7 ;;
  true) printf 'one\\ntwo \\033[31mred\\n' ;;
esac`;

  async function up(name: string, numCpus: number): Promise<Stack> {
    const made = new Stack(directLifeCycles({ "virtual-cluster:owner": OWNER }), { name });
    await quietly(() => made.up(programOf(numCpus)));
    return made;
  }

  function programOf(numCpus: number) {
    return { image: "demo", numCpus, publicKey: KEY, site: { driver: "memory", name: siteName } };
  }

  /** Without the provider's progress. */
  async function quietly(work: () => Promise<unknown>): Promise<void> {
    const log = console.log;
    console.log = () => undefined;
    try {
      await work();
    } finally {
      console.log = log;
    }
  }

  function exported(...stacks: readonly Stack[]): object {
    const kinds: Readonly<Record<string, string>> = {
      claim: "Claim",
      cluster: "VirtualCluster",
      frontend: "FrontendNode",
    };
    const resources = stacks.flatMap(({ state }) =>
      [...state].map(([resource, { id, inputs, outputs }]) => ({
        type: `pulumi-nodejs:dynamic/virtual-cluster:${kinds[resource] ?? "ComputeNode"}`,
        created: "2026-03-01T12:34:56.789Z",
        ...{ id, inputs, outputs },
      })),
    );
    return { version: 3, deployment: { resources } };
  }

  /** As a person sees it, in a pipe. */
  async function vc(...args: string[]) {
    return vcOn({}, ...args);
  }

  async function vcOn(extra: Partial<Terminal>, ...args: string[]) {
    const [out, err]: [string[], string[]] = [[], []];
    const terminal = { out: (text: string) => void out.push(text), err: (text: string) => void err.push(text) };
    const code = await main(args, { ...terminal, ...extra });
    return { code, out: out.join("\n"), err: err.join("\n") };
  }

  /** What the only run of a program was called with. */
  async function argumentsOf(program: string): Promise<string[]> {
    const { stdout } = await execa("sh", ["-c", `cat ${programs.folder}/said-${program}-*`]);
    return stdout.split("\n");
  }

  const machine = (node: string) => {
    const found = site.machines.get(`${stack.cluster.clusterName}/${node}`);
    if (!found) {
      throw new Error(`no machine ${node}`);
    }
    return found;
  };

  describe("status", () => {
    it("shows each node's state, shape, addresses, since when, and whether it is ready", async () => {
      const { plan } = stack.cluster;
      machine("compute-1").state = "off";
      const { code, out } = await vc("status");
      expect(code).to.equal(0);
      const [titles, ...rows] = out.split("\n");
      expect(titles).to.match(/^CLUSTER +NODE +STATE +READY +CPUS +MEMORY +ADDRESSES +SINCE$/);
      const { publicIp, privateIp } = plan.frontend;
      expect(rows.map((row) => row.split(/ {2,}/))).to.deep.equal([
        ["dock", "frontend", "running", "yes", "1", "512 MiB", `${publicIp} ${privateIp}`, "2026-03-01T12:34Z"],
        ["dock", "compute-0", "running", "yes", "1", "512 MiB", plan.computes[0]?.privateIp, "2026-03-01T12:34Z"],
        ["dock", "compute-1", "off", "no", "1", "512 MiB", plan.computes[1]?.privateIp, "2026-03-01T12:34Z"],
      ]);
    });

    it("asks the site once however many nodes there are, and says what has drifted", async () => {
      machine("compute-0").autostart = false;
      site.machines.delete(`${stack.cluster.clusterName}/compute-1`);
      site.stoppedNetworks.add(stack.cluster.clusterName);
      const before = site.requests;
      const { out } = await vc("status");
      expect(site.requests - before).to.be.at.most(4);
      expect(out)
        .to.match(/compute-0 +running +no /)
        .and.to.match(/compute-1 +missing +no /)
        .and.to.match(/^dock: its private network is stopped$/m)
        .and.to.match(/^dock\/compute-0: it doesn't start with its host any more$/m);
    });

    it("shows what the state says where the site doesn't answer, and fails", async () => {
      site.reachable = false;
      const { code, out, err } = await vc("status", "dev");
      site.reachable = true;
      expect(code).to.equal(1);
      expect(out).to.match(/frontend +running\? +yes/);
      expect(err).to.match(/^vc: dock: the site can't be asked, .*made unreachable/);
    });

    it("shows nodes that are only planned, also of a cluster that is being created", async () => {
      const { inputs } = stack.state.get("cluster") ?? {};
      const resource = { type: "pulumi-nodejs:dynamic/virtual-cluster:VirtualCluster", inputs };
      await programs.pulumiWith({ dev: { deployment: { pending_operations: [{ resource }] } } });
      const { code, out } = await vc("status");
      expect(code).to.equal(0);
      expect(out).to.match(/compute-1 +being made +no .* -$/m);
      site.machines.clear();
      expect((await vc("status")).out).to.match(/compute-1 +not made +no /);
      expect((await vc("ssh")).err).to.match(/cluster dock: it is only being created/);
    });

    it("prints one document for programs", async () => {
      const { out } = await vc("status", "--json");
      const [cluster] = JSON.parse(out);
      expect(cluster).to.include({ cluster: "dock", stack: "organization/docking/dev", owner: OWNER });
      expect(cluster.nodes[0]).to.include({ node: "frontend", state: "running", ready: true, memory: 512 });
    });

    it("watches: in a pipe it prints what has changed, on a terminal it draws anew", async () => {
      const ended = new AbortController();
      const shown: string[] = [];
      const watching = vcOn(
        {
          out: (text) => {
            shown.push(text);
            if (shown.length === 4) {
              machine("compute-0").state = "crashed";
            } else if (shown.length > 4) {
              ended.abort();
            }
          },
          ended: ended.signal,
        },
        ...["status", "--watch", "--interval", "0.05"],
      );
      expect((await watching).code).to.equal(0);
      expect(shown).to.have.lengthOf(5);
      expect(shown[4]).to.match(/^dock +compute-0 +crashed +no /);

      const written: string[] = [];
      const draw = redrawing({ write: (text: string) => written.push(text) > 0, columns: 10 });
      draw("first line is long\nsecond");
      draw("third");
      expect(written).to.deep.equal(["\r\u001b[Jfirst line\nsecond\n", "\u001b[2A\r\u001b[Jthird\n"]);
    });
  });

  describe("ssh, cp and run", () => {
    it("log in with the cluster's own host key, to computes through the frontend", async () => {
      const { plan, keys, sshArguments } = stack.cluster;
      expect((await vc("ssh", "compute-1")).code).to.equal(0);
      const args = await argumentsOf("ssh");
      const address = plan.computes[1]?.privateIp;
      expect(args.slice(0, 2)).to.deep.equal(["-o", `KnownHostsCommand=/bin/echo ${address} ${keys.hostKey}`]);
      expect(args.at(-1)).to.equal(`root@${address}`);
      expect(args).to.include("StrictHostKeyChecking=yes");
      const proxy = args.find((word) => word.startsWith("ProxyCommand=")) ?? "";
      expect(proxy)
        .to.match(/^ProxyCommand=ssh -o StrictHostKeyChecking=yes /)
        .and.to.include(`'KnownHostsCommand=/bin/echo ${plan.frontend.publicIp} ${keys.hostKey}'`)
        .and.to.match(new RegExp(`-W '?%h:%p'? ${sshArguments.at(-1)}$`));
    });

    it("pass a command on as it is, and end as it does", async () => {
      const commands: ReadonlyArray<readonly [string[], string[]]> = [
        [
          ["ssh", "--", "uptime; date"],
          ["--", "uptime; date"],
        ],
        [
          ["ssh", "frontend", "--", "cat", "a b", "it's", "$HOME", ""],
          ["--", `cat 'a b' 'it'\\''s' '$HOME' ''`],
        ],
        [
          ["ssh", "-t", "frontend", "top", "-b"],
          ["--", "top -b"],
        ],
      ];
      for (const [said, expected] of commands) {
        await vc(...said);
        expect((await argumentsOf("ssh")).slice(-2), said.join(" ")).to.deep.equal(expected);
        await execa("sh", ["-c", `rm ${programs.folder}/said-*`]);
      }
      expect((await vc("ssh", "--", "quiet")).code).to.equal(7);
    });

    it("copies between this machine and a node, whatever the files are called", async () => {
      expect((await vc("cp", "-r", "-c", "dock", "-o:x", "/tmp/a b", "compute-0:/data/it is")).code).to.equal(2);
      expect((await vc("cp", "-r", "--", "-o", "./a:b", "/tmp/c d", "compute-0:/data/it is")).code).to.equal(0);
      const args = await argumentsOf("scp");
      const address = stack.cluster.plan.computes[0]?.privateIp;
      expect(args[0]).to.equal("-r");
      expect(args.slice(-5)).to.deep.equal(["--", "./-o", "././a:b", "/tmp/c d", `root@${address}:/data/it is`]);
      for (const places of [
        ["a", "b"],
        ["frontend:a", "compute-0:b"],
        ["frontend:a", "frontend:b"],
      ]) {
        expect((await vc("cp", ...places)).err).to.match(
          /^vc: copying .*: it goes between this machine and one node\./,
        );
      }
    });

    it("runs a command on all computes, and says which line is whose", async () => {
      const { code, out, err } = await vc("run", "--", "true");
      expect({ code, err }).to.deep.equal({ code: 0, err: "" });
      expect(out.split("\n").sort()).to.deep.equal([
        ...["compute-0: one", "compute-0: two [31mred", "compute-1: one", "compute-1: two [31mred"],
      ]);
      const everywhere = await vc("run", "--frontend", "--json", "--width", "1", "--", "true");
      expect(JSON.parse(everywhere.out).map(({ node }: { node: string }) => node)).to.deep.equal([
        ...["frontend", "compute-0", "compute-1"],
      ]);
      expect((await argumentsOf("ssh")).filter((word) => word === "BatchMode=yes").length).to.be.at.least(5);
    });

    it("fails when the command failed anywhere", async () => {
      const { code, err } = await vc("run", "--", "fail here");
      expect(code).to.equal(1);
      expect(err)
        .to.match(/^compute-1: of no use$/m)
        .and.to.match(/^vc: it failed on 2 of 2: compute-0 \(exit code 7\), compute-1 \(exit code 7\)\.$/m);
      await programs.pulumiWith({ dev: exported(await up("alone", 0)) });
      expect((await vc("run", "--", "true")).err).to.match(/cluster alone: it has no computes/);
    });
  });

  it("names the closest of what there is", async () => {
    await programs.pulumiWith({ dev: exported(stack), "organization/docking/prod": exported(stack) });
    const cases: ReadonlyArray<readonly [string[], RegExp]> = [
      [["ssh", "compute-O"], /^vc: node compute-O: cluster dock has none of that name\. Did you mean compute-0\?$/],
      [["console", "head"], /Known there: frontend, compute-0, compute-1\.$/],
      [["status", "dve"], /^vc: stack dve: there is none of that name\. Did you mean dev\?$/],
      [["status", "prodd"], /Did you mean organization\/docking\/prod\?$/],
      [["status", "elsewhere"], /`pulumi stack ls --all` lists those/],
      [["run", "-c", "dokc", "--", "true"], /^vc: cluster dokc: .* Did you mean dock\?$/],
    ];
    for (const [args, sentence] of cases) {
      const { code, err } = await vc(...args);
      expect(code, args.join(" ")).to.equal(1);
      expect(err).to.match(sentence);
    }
    expect(closest("kompute-1", ["compute-1", "compute-10"])).to.equal("compute-1");
    expect(closest("uptime", ["frontend"])).to.equal(undefined);
  });

  it("asks which where it can't tell", async () => {
    await programs.pulumiWith({});
    expect((await vc("ssh")).err).to.match(/^vc: the stack: none is selected in this folder\./);
    await programs.pulumiWith({ dev: { deployment: {} } });
    expect((await vc("ssh")).err).to.match(/^vc: the stack: it has no virtual cluster\./);
    expect((await vc("status")).out).to.equal("The stack has no virtual cluster.");
    await programs.pulumiWith({ dev: exported(stack, await up("second", 1)) });
    expect((await vc("ssh")).err).to.match(
      /^vc: the cluster: the stack has 2\. Name one with --cluster: dock, second\.$/,
    );
    expect((await vc("ssh", "-c", "second")).code).to.equal(0);
    const secret = {
      type: "pulumi-nodejs:dynamic/virtual-cluster:VirtualCluster",
      id: "a",
      outputs: { plan: "secret" },
    };
    await programs.pulumiWith({ dev: { deployment: { resources: [secret] } } });
    expect((await vc("status")).err).to.match(/^vc: what the state says of a cluster can't be read: clusterName/);
  });

  describe("console", () => {
    it("shows what the site has, and goes on with what is new", async () => {
      machine("compute-0").console = "booting\nlogin:";
      expect((await vc("console", "compute-0")).out).to.equal("booting\nlogin:");
      const nothing = await vc("console", "compute-1");
      expect(nothing).to.deep.equal({ code: 0, out: "", err: "vc: the site has nothing of compute-1's console." });
      expect(newLines(["a", "b", "c"], ["b", "c", "d"])).to.deep.equal(["d"]);
      expect(newLines(["a", "a"], ["a", "a"])).to.deep.equal([]);
      expect(newLines(["a"], ["x", "y"])).to.deep.equal(["…", "x", "y"]);
      expect(newLines([], ["x"])).to.deep.equal(["x"]);
    });
  });

  describe("diagram", () => {
    const boxes = (svg: string) => new XMLParser({ ignoreAttributes: false }).parse(svg).svg.g.rect.length as number;

    it("draws every node with its addresses", async () => {
      const file = join(programs.folder, "cluster.svg");
      expect(await vc("diagram", "-o", file)).to.deep.equal({ code: 0, out: "", err: "" });
      const svg = await readFile(file, "utf8");
      expect(XMLValidator.validate(svg)).to.equal(true);
      expect(boxes(svg)).to.equal(3);
      const { frontend, computes, privateNetwork, publicNetwork } = stack.cluster.plan;
      const said = [frontend, ...computes].flatMap(({ privateIp, privateMac }) => [privateIp, privateMac]);
      for (const words of [...said, frontend.publicIp, frontend.publicMac, privateNetwork.cidr, publicNetwork.cidr]) {
        expect(svg).to.include(words);
      }
      expect((await vc("diagram")).out).to.equal(svg.trimEnd());
    });

    it("draws many computes as a pile, and whatever names there are", async () => {
      const { plan } = stack.cluster;
      const [first] = plan.computes;
      const computes = Array.from({ length: 64 }, (_, index) => ({
        ...plan.frontend,
        ...first,
        name: `compute-${index}`,
      }));
      const title = `<a href="x">&\u0000\ud800'`;
      const svg = diagramOf([{ title, plan: { ...plan, computes } }]);
      expect(XMLValidator.validate(svg)).to.equal(true);
      expect(boxes(svg)).to.equal(8);
      expect(svg).to.include("60 more").and.to.include("compute-3 … compute-62").and.not.to.include("<a ");
    });
  });

  describe("doctor", () => {
    const SITE = () => JSON.stringify({ driver: "memory", name: siteName });

    it("says what is there", async () => {
      await programs.program("pulumi-language-nodejs", "exit 0");
      await writeFile(join(programs.folder, "home", "id_ed25519.pub"), KEY);
      await programs.pulumi({
        version: "echo v3.250.0",
        whoami: `echo '{"url": "https://example.com"}'`,
        config: "echo '{}'",
      });
      const { code, out } = await vc("doctor", "--site", SITE());
      expect(out)
        .to.match(/^ok +images +demo in /m)
        .and.to.match(/^ok +Pulumi CLI +3\.250\.0 /m)
        .and.to.match(/^ok +site +memory vc-\d+ \(memory-site\)$/m)
        .and.to.match(/^ok +public addresses +39 of 40 are free$/m)
        .and.to.match(/Nothing is missing\.$/);
      expect(code).to.equal(0);
    });

    it("says what is missing, each with what to do, and fails", async () => {
      await execa("rm", ["-r", join(programs.folder, "home")]);
      process.env.PATH = programs.folder;
      site.reachable = false;
      const { code, out } = await vc("doctor", "--json", "--site", SITE());
      site.reachable = true;
      expect(code).to.equal(1);
      const findings = JSON.parse(out) as { what: string; outcome: string; fix?: string }[];
      const lacking = findings.filter(({ outcome }) => outcome === "missing");
      expect(lacking.map(({ what }) => what)).to.include.members(["Pulumi CLI", "images", "site"]);
      for (const { what, fix } of lacking) {
        expect(fix, what).to.match(/\w/);
      }
    });
  });

  describe("site", () => {
    it("shows who has what, and what is free", async () => {
      await up("second", 0);
      const { out } = await vc("site", "--site", JSON.stringify({ driver: "memory", name: siteName }));
      expect(out)
        .to.match(/^Free: 60 of 64 cpus .*, 38 of 40 public addresses$/m)
        .and.to.match(/^me@here +2 +4 +4 +2048 MiB +2$/m)
        .and.to.match(
          /^me@here +docking-dev-second +organization\/docking\/dev +1 +1 +512 MiB +198\.51\.100\.\d+ +\S+Z$/m,
        );
      const { owners } = JSON.parse(
        (await vc("site", "--json", "--site", `{"driver": "memory", "name": "${siteName}"}`)).out,
      );
      expect(owners).to.deep.equal([{ owner: OWNER, clusters: 2, machines: 4, cpus: 4, memory: 2048, addresses: 2 }]);
    });

    it("has limits per owner, which an existing cluster doesn't fall under afterwards", async () => {
      const file = join(programs.folder, "limits.json");
      process.env.VIRTUAL_CLUSTER_LIMITS = file;
      await writeFile(file, JSON.stringify({ default: { cpus: 4 }, owners: { "you@there": { cpus: 1 } } }));
      const refused = async (work: Promise<unknown>) => work.then(String, (error: Error) => error.message);
      expect(await refused(up("second", 1))).to.match(
        /me@here would have 5 cpus at this site: the limit is 4, and .* have 3\./,
      );
      await up("second", 0);
      expect(await refused(quietly(() => stack.up(programOf(3))))).to.match(/would have 5 cpus/);
      const { out } = await vc("site", "--site", `{"driver": "memory", "name": "${siteName}"}`);
      expect(out)
        .to.match(/ADDRESSES +LIMITS$/m)
        .and.to.match(/^me@here +2 .* 4 cpus$/m);

      await writeFile(file, JSON.stringify({ default: { clusters: 1, memory: 512 } }));
      expect(await refused(up("third", 0))).to.match(/would have 3 clusters at this site: the limit is 1/);
      // It may shrink, and be changed otherwise.
      await quietly(() => stack.up({ ...programOf(2), minReady: 1 }));
      await quietly(() => stack.up(programOf(1)));
      expect(await refused(quietly(() => stack.up(programOf(2))))).to.match(/would have 2048 MiB of memory/);

      for (const wrong of ["{", `{"default": {"cpu": 1}}`, `{"owners": {"me": {"cpus": -1}}}`]) {
        await writeFile(file, wrong);
        expect(await refused(up("third", 0))).to.match(/the limits in .*limits\.json: /);
      }
    });

    it("has written down each change, its end too, and nothing secret", async () => {
      await quietly(() => stack.destroy());
      const { out } = await vc("site", "log");
      const rows = out
        .split("\n")
        .slice(1)
        .map((row) => row.split(/ {2,}/).slice(2, 4).join(" "));
      expect(rows.slice(0, 2)).to.deep.equal(["create docking-dev-dock", "create docking-dev-dock/frontend"]);
      expect(rows.slice(2, 4).sort()).to.deep.equal([
        ...["create docking-dev-dock/compute-0", "create docking-dev-dock/compute-1"],
      ]);
      expect(rows.slice(-2)).to.deep.equal(["delete docking-dev-dock/frontend", "delete docking-dev-dock"]);
      expect(out).not.to.match(/failed|cut off/);
      const file = await programs.read(join("log", "audit.jsonl"));
      expect(file).not.to.match(/ssh-ed25519|BEGIN/);
      expect(file.trim().split("\n")).to.have.lengthOf(16);
    });

    it("tells of changes that failed, and of those that were cut off", async () => {
      site.beforeStep = () => {
        throw new Error("secret words of a guest");
      };
      await quietly(() => stack.up(programOf(3)).catch(() => undefined));
      site.beforeStep = () => undefined;
      const begun = {
        at: new Date().toISOString(),
        id: "x",
        who: "me",
        operation: "sweep",
        cluster: "c\u001b[2J",
        site: "s",
      };
      await appendFile(
        join(programs.folder, "log", "audit.jsonl"),
        `{"half\n${JSON.stringify({ ...begun, outcome: "begun" })}\n`,
      );
      const { out } = await vc("site", "log", "-n", "2");
      expect(out)
        .to.match(/update +docking-dev-dock +memory-site +failed, \d\.\d s, Error$/m)
        .and.to.match(/sweep +c\[2J +s +cut off$/m)
        .and.not.to.match(/secret words/);
      const last = (await vc("site", "log", "--json", "-n", "1")).out;
      expect(JSON.parse(last)).to.include({ operation: "sweep", outcome: "cut off" });
    });
  });

  describe("completion", () => {
    it("completes commands and options in bash", async () => {
      const { out } = await vc("completion", "bash");
      const tries = ["vc s", "vc site l", "vc site log --l", "vc ssh frontend --t", "vc completion "];
      const script = tries.map(
        (line) =>
          `COMP_WORDS=(${line}${line.endsWith(" ") ? " ''" : ""}); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); _vc; echo "\${COMPREPLY[*]}"`,
      );
      const { stdout } = await execa("bash", ["-c", `${out}\n${script.join("\n")}`]);
      expect(stdout.split("\n")).to.deep.equal([
        ...["status ssh site sweep", "log", "--lines", "--tty", "bash zsh fish -h --help"],
      ]);
    });

    it("knows every command in the others", async () => {
      const commands = [...(await vc("--help")).out.matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name);
      expect(commands).to.include.members([
        "doctor",
        "status",
        "ssh",
        "cp",
        "run",
        "console",
        "diagram",
        "site",
        "sweep",
      ]);
      const [zsh, fish] = [(await vc("completion", "zsh")).out, (await vc("completion", "fish")).out];
      for (const command of commands.filter((name) => name !== "vc")) {
        expect(zsh).to.include(`'${command}:`);
        expect(fish).to.match(new RegExp(`^complete -c vc -n '[^']*' -a ${command} `, "m"));
      }
    });
  });

  describe("as a person runs it", () => {
    it("draws anew on a terminal", async () => {
      const command = `'${process.execPath}' '${VC}' status --watch --interval 0.2`;
      const running = execa("script", ["-qec", command, "/dev/null"], {
        reject: false,
        stdin: "ignore",
        buffer: false,
      });
      // biome-ignore lint/suspicious/noControlCharactersInRegex: how a terminal is told to go up and clear what is below
      const redrawn = /\u001b\[\d+A\r\u001b\[J/;
      let shown = "";
      for await (const chunk of running.stdout) {
        shown += chunk;
        if (redrawn.test(shown)) {
          running.kill();
        }
      }
      await running;
      expect(shown).to.match(redrawn);
      // The site of that process is another one, and empty.
      expect(shown).to.match(/compute-1 +missing +no/);
    });

    it("prints plain lines in a pipe, and ends when its reader does", async () => {
      const { stdout, stderr, exitCode } = await execa("sh", [
        "-c",
        `'${process.execPath}' '${VC}' ssh --help | head -n 1`,
      ]);
      expect({ stderr, exitCode }).to.deep.equal({ stderr: "", exitCode: 0 });
      expect(stdout).to.equal("Usage: vc ssh [options] [node] [-- command...]");
      const wrong = await execa(process.execPath, [VC, "ssh", "nowhere"], { reject: false });
      expect(wrong).to.include({ exitCode: 1, stdout: "" });
      expect(wrong.stderr).to.match(/^vc: node nowhere: [^\n]*\.$/);
    });
  });
});
