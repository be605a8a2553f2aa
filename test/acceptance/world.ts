import {
  appendFile,
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readFile,
  readlink,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa, type Result } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import type { ClusterRef } from "../../provider/src/drivers/driver";
import { home } from "../../provider/src/home";
import { shellWord } from "../../provider/src/shell-word";
import { makeFakeDisk } from "../conformance/fake-guest";
import type { RemoteSite, SshSetUp } from "./remote-site";

export const ROOT = join(__dirname, "..", "..");
const QUICKSTART = join(ROOT, "examples", "quickstart", "quickstart.mjs");
const PULUMI = join(ROOT, "examples", "quickstart", "pulumi.mjs");
const VC = join(ROOT, "provider", "vc.mjs");
const PRAGMA_BOOT = join(ROOT, "provider", "pragma_boot.mjs");
/** Programs whose runs are counted. */
const COUNTED = ["virsh", "qemu-img", "qemu-storage-daemon", "debugfs"] as const;
export type Counts = Record<(typeof COUNTED)[number], number>;

/** One resource as `pulumi stack export` shows it. */
export interface StateResource {
  readonly urn: string;
  readonly type: string;
  readonly inputs?: Record<string, unknown>;
  readonly outputs?: Record<string, unknown>;
}

/**
 * A user of their own: a home folder with a default site, Pulumi state and ssh key, all gone at the end. Only the demo
 * image is the one that the set-up made.
 */
export class World {
  private constructor(
    readonly home: string,
    readonly project: string,
    private readonly counts: string,
    private readonly remote: { readonly site: RemoteSite; readonly ssh: string } | undefined,
  ) {}

  /**
   * @param remote where clusters run: on another host, reached by its `ssh` set up like this; else at this world's own
   * default site once that is started
   */
  static async create(remote?: { readonly site: RemoteSite; readonly setUp: SshSetUp }): Promise<World> {
    const folder = await mkdtemp(join(tmpdir(), "vc-test-"));
    // Inside the checkout, since that is where the packages resolve.
    const project = await mkdtemp(join(ROOT, "test", "acceptance", ".work-"));
    await cp(join(ROOT, "test", "acceptance", "program"), project, { recursive: true });
    await symlink(home("images"), join(folder, "images"));
    await makeFakeImage(join(folder, "fake-images"));
    await mkdir(join(folder, "pulumi"));
    await writeFile(join(folder, "passphrase"), "only for this test\n", { mode: 0o600 });
    await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(folder, "id_ed25519")], { stdin: "ignore" });
    return new World(
      folder,
      project,
      await makeCounters(folder),
      remote && {
        site: remote.site,
        ssh: await remote.site.ssh(remote.setUp),
      },
    );
  }

  get env(): Record<string, string> {
    return {
      VIRTUAL_CLUSTER_HOME: this.home,
      VIRTUAL_CLUSTER_AUDIT_LOG: join(this.home, "audit.jsonl"),
      // Neither the keys nor the settings of whoever runs the tests.
      HOME: this.home,
      PULUMI_HOME: process.env.PULUMI_HOME ?? join(process.env.HOME ?? "/root", ".pulumi"),
      PULUMI_BACKEND_URL: `file://${join(this.home, "pulumi")}`,
      ...(this.remote && { PATH: `${this.remote.ssh}:${process.env.PATH}` }),
    };
  }

  /** A repository whose image `fake` looks like one and stops at its boot loader, so that its machines cost no cpu. */
  get fakeImages(): string {
    return join(this.home, "fake-images");
  }

  get uri(): string {
    return this.remote?.site.uri ?? `qemu:///system?socket=${join(this.home, "site", "run", "libvirt-sock")}`;
  }

  async quickstart(...args: string[]): Promise<Result> {
    return execa(process.execPath, [QUICKSTART, ...args], { env: this.env, all: true, stdin: "ignore", cwd: ROOT });
  }

  /** Runs `npx pulumi` in the test's project, or in the repository. Fails as the CLI does unless `reject` is false. */
  async pulumi(args: readonly string[], options: { reject?: boolean; cwd?: string; count?: boolean } = {}) {
    return execa(process.execPath, [PULUMI, ...args, "--non-interactive"], {
      cwd: options.cwd ?? this.project,
      env: options.count ? this.countingEnv : this.env,
      all: true,
      stdin: "ignore",
      reject: options.reject ?? true,
    });
  }

  /** Runs `npx vc` in the test's project, and doesn't fail with it. */
  async vc(...args: string[]) {
    return execa(process.execPath, [VC, ...args], {
      cwd: this.project,
      env: this.env,
      all: true,
      stdin: "ignore",
      reject: false,
    });
  }

  /** Runs `npx pragma_boot`, and doesn't fail with it. */
  async pragmaBoot(...args: string[]) {
    return this.startPragmaBoot(...args);
  }

  startPragmaBoot(...args: string[]) {
    const options = { env: this.env, all: true, stdin: "ignore", reject: false } as const;
    return execa(process.execPath, [PRAGMA_BOOT, ...args], options);
  }

  /** The same on a terminal of its own. @returns what that was sent, and the exit code */
  async pragmaBootOnTerminal(...args: string[]) {
    const command = [process.execPath, PRAGMA_BOOT, ...args].map(shellWord).join(" ");
    return execa("script", ["--quiet", "--return", "--command", command, "/dev/null"], {
      env: this.env,
      all: true,
      stdin: "ignore",
      reject: false,
    });
  }

  /** What is left when a process is killed that had just begun to change a cluster: its lock. */
  async killHolderOfLock(cluster: ClusterRef): Promise<void> {
    const registry = join(ROOT, "provider", "dist", "drivers", "registry.js");
    const [site, ref] = [{ driver: "libvirt", uri: this.uri }, cluster].map((value) => JSON.stringify(value));
    const program = `require(${JSON.stringify(registry)}).connect(${site}).lock(${ref}, { seconds: 5, progress() {} })
      .then(() => { console.log("held"); setInterval(() => undefined, 1000); })`;
    const holder = execa(process.execPath, ["-e", program], { env: this.env, reject: false });
    for await (const line of holder) {
      expect(line).to.equal("held");
      holder.kill("SIGKILL");
    }
    await holder;
  }

  /** A process that the caller may kill, with its runs of programs counted. */
  startPulumi(args: readonly string[]) {
    return execa(process.execPath, [PULUMI, ...args, "--non-interactive"], {
      cwd: this.project,
      env: this.countingEnv,
      all: true,
      stdin: "ignore",
      reject: false,
      // A group of its own, as a terminal makes it for what runs in the foreground.
      detached: true,
    });
  }

  private get countingEnv(): Record<string, string> {
    return { ...this.env, PATH: `${this.counts}:${process.env.PATH}`, VC_COUNTS: this.runsFile };
  }

  private get runsFile(): string {
    return join(this.home, "runs");
  }

  /** @param config what else the stack's configuration says */
  async configure(stack: string, clusters: object, config: Readonly<Record<string, string>> = {}): Promise<void> {
    await this.pulumi(["stack", "select", "--create", stack]);
    await writeConfig(this.project, stack, { "acceptance:clusters": clusters, ...config });
  }

  /** @param stack default: the one that is selected */
  async outputs<T>(stack?: string): Promise<T> {
    const args = ["stack", "output", "--json", ...(stack ? ["--stack", stack] : [])];
    return JSON.parse((await this.pulumi(args)).stdout) as T;
  }

  async state(): Promise<readonly StateResource[]> {
    const { stdout } = await this.pulumi(["stack", "export"]);
    return (JSON.parse(stdout) as { deployment: { resources?: StateResource[] } }).deployment.resources ?? [];
  }

  async virsh(...args: string[]): Promise<string> {
    return this.remote
      ? this.remote.site.virsh(...args)
      : (await execa("virsh", ["-q", "-c", this.uri, ...args])).stdout;
  }

  /** What a site holds beside what it was born with: names of domains, networks and volumes. */
  async leftovers(): Promise<string[]> {
    const lists = await Promise.all([
      this.virsh("list", "--all", "--name"),
      this.virsh("net-list", "--all", "--name"),
      this.virsh("pool-refresh", "virtual-cluster").then(() => this.virsh("vol-list", "virtual-cluster")),
    ]);
    return lists
      .flatMap((list) => list.split("\n"))
      .map((line) => line.trim().split(/\s+/)[0] ?? "")
      .filter((name) => name !== "" && name !== "public");
  }

  /** Pids of dynamic-provider hosts that run in this world's project. */
  async providers(): Promise<string[]> {
    return this.processes("cmd/dynamic-provider");
  }

  /** Pids of the daemons through which such hosts write into disks. */
  async diskDaemons(): Promise<string[]> {
    return this.processes("qemu-storage-daemon");
  }

  /** Ends Pulumi's own helpers that a killed engine has left behind. */
  async endOrphans(): Promise<void> {
    for (const pid of await this.processes("pulumi-(language|resource)")) {
      process.kill(Number(pid));
    }
  }

  private async processes(pattern: string): Promise<string[]> {
    const { stdout } = await execa("pgrep", ["-f", pattern], { reject: false });
    const pids = stdout.split("\n").filter(Boolean);
    const folders = await Promise.all(pids.map((pid) => readlink(`/proc/${pid}/cwd`).catch(() => "")));
    return pids.filter((_, index) => folders[index] === this.project);
  }

  /** Runs `work` while the image repository isn't there. */
  async hideImages(work: () => Promise<void>): Promise<void> {
    await rename(this.fakeImages, `${this.fakeImages}.hidden`);
    try {
      await work();
    } finally {
      await rename(`${this.fakeImages}.hidden`, this.fakeImages);
    }
  }

  /** The counted programs' runs since the last `takeCounts`: a line each, the program and its arguments. */
  async runs(): Promise<string> {
    return readFile(this.runsFile, "utf8").catch(() => "");
  }

  /** How often the counted programs ran since the last call. */
  async takeCounts(): Promise<Counts> {
    const lines = (await this.runs()).split("\n");
    await rm(this.runsFile, { force: true });
    const count = (name: string) => lines.filter((line) => line.startsWith(`${name} `)).length;
    return Object.fromEntries(COUNTED.map((name) => [name, count(name)])) as Counts;
  }

  async killLibvirtd(): Promise<void> {
    process.kill(Number(await readFile(join(this.home, "site", "run", "libvirtd.pid"), "utf8")), "SIGKILL");
  }

  /** What a restart of the host leaves of the site: its folder, and nothing that runs. */
  async pullThePlug(): Promise<void> {
    const { namespace } = sitePaths(this.home);
    const { stdout } = await execa("ip", ["netns", "pids", namespace], { lines: true });
    for (const pid of stdout) {
      process.kill(Number(pid), "SIGKILL");
    }
    await execa("ip", ["netns", "delete", namespace]);
  }

  async dispose(): Promise<void> {
    await this.quickstart("--remove-site", "--force");
    await rm(this.project, { recursive: true, force: true });
    await rm(this.home, { recursive: true, force: true });
  }
}

/** YAML is a superset of JSON, so the stack's file can be completed with a line. */
async function writeConfig(project: string, stack: string, config: object): Promise<void> {
  const file = join(project, `Pulumi.${stack}.yaml`);
  const salt = (await readFile(file, "utf8")).split("\n").filter((line) => line.startsWith("encryptionsalt:"));
  await writeFile(file, `${salt.join("\n")}\n`);
  await appendFile(file, `config: ${JSON.stringify(config)}\n`);
}

async function makeFakeImage(folder: string): Promise<void> {
  await mkdir(join(folder, "fake"), { recursive: true });
  await writeFile(join(folder, "vcdb.txt"), "fake,fake/vc-in.xml\n");
  await makeFakeDisk(join(folder, "fake", "disk.raw"), { virtio: true, heedsPowerButton: true });
  const disk = `<domain><devices><disk><driver name="qemu" type="raw"/><source file="disk.raw"/></disk></devices></domain>`;
  await writeFile(
    join(folder, "fake", "vc-in.xml"),
    `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/><driver>any</driver>
<frontend>${disk}</frontend><compute>${disk}</compute></vc>`,
  );
}

async function makeCounters(folder: string): Promise<string> {
  const bin = join(folder, "counters");
  await mkdir(bin);
  for (const name of COUNTED) {
    const { stdout: real } = await execa("which", [name]);
    const file = join(bin, name);
    await writeFile(file, `#!/bin/sh\nprintf '%s\\n' "${name} $*" >> "$VC_COUNTS"\nexec ${real} "$@"\n`);
    await chmod(file, 0o755);
  }
  return bin;
}
