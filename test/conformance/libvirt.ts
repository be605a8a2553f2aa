import { createHash } from "node:crypto";
import { access, chmod, mkdir, mkdtemp, open, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { execa } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import type * as defaultSite from "../../provider/src/default-site/site";
import type { DiskImage } from "../../provider/src/drivers/driver";
import { LibvirtDriver, resolveLibvirtSettings } from "../../provider/src/drivers/libvirt";
import { FIRST_PARTITION_OFFSET } from "../../provider/src/images/disk/boot-loader";
import { digestOf } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import type { Backend } from "./backend";
import { type FakeGuest, makeFakeDisk } from "./fake-guest";

const PROGRAMS = [
  ...["virsh", "libvirtd", "qemu-system-x86_64", "qemu-img", "qemu-storage-daemon"],
  ...["debugfs", "mke2fs", "ssh-keygen", "ip", "tini"],
];
/** In the first cluster of a qcow2 file, behind its header and the name of its base: nobody else uses it. */
const SCRIBBLE_OFFSET = 60_000;
const SCRIBBLE = "scribbled";

/** A real libvirt, by what its own tools can do. */
export interface LibvirtSite {
  readonly uri: string;
  /** Where its libvirt would be if it didn't answer. */
  readonly unreachableUri: string;
  /** Folders of its files: definitions of machines and networks, and the pool. */
  readonly etc: string;
  readonly images: string;
  /** A folder with programs that this side needs to reach it. */
  readonly path?: string;
  virsh(...args: string[]): Promise<string>;
  remove(): Promise<void>;
}

interface Options {
  readonly interruptEvery?: number;
  /** Starts the site; the environment is the test's own by then. */
  readonly start?: () => Promise<LibvirtSite>;
  /** What that takes beside what every libvirt takes. */
  readonly programs?: readonly string[];
}

/** Guests are a boot sector that says a line and halts. */
export async function libvirtBackend(
  context: Mocha.Context,
  { interruptEvery = 4, start = startDefaultSite, programs = [] }: Options = {},
): Promise<Backend> {
  await skipWithoutPrograms(context, [...PROGRAMS, ...programs]);
  const environment = { ...process.env };
  const home = await realpath(await mkdtemp("/tmp/vc-conformance-"));
  const temporary = join(home, "tmp");
  await mkdir(temporary);
  process.env.VIRTUAL_CLUSTER_HOME = home;
  process.env.TMPDIR = temporary;
  const site = await start();
  const pool = site.images;
  const [plain, modern, other] = await Promise.all([
    diskOf(join(home, "plain.raw"), { virtio: false, heedsPowerButton: false }),
    diskOf(join(home, "modern.raw"), { virtio: true, heedsPowerButton: true }),
    diskOf(join(home, "other.raw"), { virtio: false, heedsPowerButton: false }),
  ]);
  const gate = await VirshGate.make(join(home, "bin"));
  process.env.PATH = [gate.folder, ...(site.path ? [site.path] : []), process.env.PATH].join(":");

  const virsh = site.virsh.bind(site);
  const virshDefine = async (command: string, xml: string) => {
    const file = join(home, "definition.xml");
    await writeFile(file, xml);
    await virsh(command, file);
  };
  const definitions = async (folder: string) =>
    (await readdir(join(site.etc, folder)).catch(() => []))
      .filter((file) => file.endsWith(".xml") && file !== "public.xml")
      .sort();
  const overlay = (cluster: string, node: string) => join(pool, `${cluster}-${node}.qcow2`);
  const settings = resolveLibvirtSettings({ driver: "libvirt", uri: site.uri });
  let stranger: { readonly dump: string[]; readonly asMade: string; readonly undefine: string[] } | undefined;

  return {
    driver: new LibvirtDriver(settings),
    otherProcess: new LibvirtDriver(settings),
    unreachable: new LibvirtDriver({ ...settings, uri: site.unreachableUri }),
    settings,
    image: { vcName: "modern", frontend: modern, compute: modern },
    otherImage: { vcName: "other", frontend: plain, compute: other },
    guestsAnswer: false,
    showsConsole: true,
    interruptEvery,
    memory: 64,

    leftovers: async () => [
      ...(await definitions("qemu")).map((file) => `machine ${file}`),
      ...(await definitions("qemu/networks")).map((file) => `network ${file}`),
      ...(await readdir(pool)).sort().map((file) => `file ${file}`),
      ...(await readdir(temporary)).map((file) => `temporary ${file}`),
    ],
    holdsBase: async (digest) => {
      const file = join(pool, `vc-base-${digest}.raw`);
      const whole = await access(join(pool, `vc-base-${digest}.complete`)).then(
        () => true,
        () => false,
      );
      return (
        whole &&
        createHash("sha256")
          .update(await readFile(file))
          .digest("hex") === digest
      );
    },
    requests: () => gate.requests(),
    interruptAfter: (requests) => gate.interruptAfter(requests),

    turnOff: async (cluster, node) => {
      await virsh("destroy", `${cluster}-${node}`);
    },
    forgetMachine: async (cluster, node) => {
      await virsh("destroy", `${cluster}-${node}`);
      await virsh("undefine", `${cluster}-${node}`);
    },
    forgetNetwork: async (cluster) => {
      await virsh("net-destroy", cluster);
      await virsh("net-undefine", cluster);
    },
    stopNetwork: async (cluster) => {
      await virsh("net-destroy", cluster);
      await virsh("net-autostart", cluster, "--disable");
    },
    isPluggedIn: async (cluster, node) => {
      const [ports, xml] = await Promise.all([virsh("net-port-list", cluster), virsh("dumpxml", `${cluster}-${node}`)]);
      return ports.includes(/portid='([^']+)'/.exec(xml)?.[1] ?? "none");
    },
    takeAutostart: async (cluster, node) => {
      await virsh("autostart", `${cluster}-${node}`, "--disable");
    },
    reshape: async (cluster, node, memory) => {
      await virsh("setmaxmem", `${cluster}-${node}`, `${memory}MiB`, "--config");
      await virsh("setmem", `${cluster}-${node}`, `${memory}MiB`, "--config");
    },
    deleteDisk: async (cluster, node) => {
      await virsh("vol-delete", "--pool", "virtual-cluster", `${cluster}-${node}.qcow2`);
    },
    dieWithLock: async (cluster) => {
      const dist = require.resolve("../../provider/dist/drivers/libvirt");
      const script = `
        const { LibvirtDriver } = require(${JSON.stringify(dist)});
        new LibvirtDriver(${JSON.stringify(settings)})
          .lock(${JSON.stringify(cluster)}, { seconds: 1, progress() {} })
          .then(() => process.kill(process.pid, "SIGKILL"));`;
      const { signal } = await execa(process.execPath, ["-e", script], { reject: false });
      if (signal !== "SIGKILL") {
        throw new Error("the process that should have died with the lock didn't");
      }
    },
    vcOutOnDisk: async (cluster, node) => {
      const raw = join(home, "disk.raw");
      const file = overlay(cluster, node);
      const info = await execa("qemu-img", ["info", "-f", "qcow2", "--output", "json", file]);
      const base = basename(JSON.parse(info.stdout)["backing-filename"]);
      const disk = {
        driver: "qcow2",
        file: { driver: "file", filename: file },
        backing: { driver: "raw", file: { driver: "file", filename: join(pool, base) } },
      };
      await execa("qemu-img", ["convert", "-O", "raw", `json:${JSON.stringify(disk)}`, raw]);
      const { stdout } = await execa("debugfs", [
        "-R",
        "cat /root/vc-out.xml",
        `${raw}?offset=${FIRST_PARTITION_OFFSET}`,
      ]);
      await rm(raw);
      return stdout;
    },
    scribble: async (cluster, node) => {
      const file = await open(overlay(cluster, node), "r+");
      await file.write(SCRIBBLE, SCRIBBLE_OFFSET);
      await file.close();
    },
    isScribbled: async (cluster, node) => {
      const file = await open(overlay(cluster, node), "r");
      const { buffer } = await file.read(Buffer.alloc(SCRIBBLE.length), 0, SCRIBBLE.length, SCRIBBLE_OFFSET);
      await file.close();
      return buffer.toString() === SCRIBBLE;
    },
    // None of these guests ever gets ready, and each says so.
    makeUnhealthy: async () => undefined,
    makeStrangerNetwork: async (name) => {
      await virshDefine("net-define", `<network><name>${name}</name><bridge name='stranger0'/></network>`);
      const dump = ["net-dumpxml", "--inactive", name];
      stranger = { dump, asMade: await virsh(...dump), undefine: ["net-undefine", name] };
    },
    makeStrangerMachine: async (cluster, node) => {
      const name = `${cluster}-${node}`;
      await virshDefine(
        "define",
        `<domain type='qemu'><name>${name}</name><memory>65536</memory><os><type>hvm</type></os></domain>`,
      );
      const dump = ["dumpxml", "--inactive", name];
      stranger = { dump, asMade: await virsh(...dump), undefine: ["undefine", name] };
    },
    removeStranger: async () => {
      const now = stranger && (await virsh(...stranger.dump).catch(() => undefined));
      const asMade = now !== undefined && now === stranger?.asMade;
      if (now !== undefined && stranger) {
        await virsh(...stranger.undefine);
      }
      return asMade;
    },

    tearDown: async () => {
      await site.remove();
      for (const name of Object.keys(process.env).filter((name) => !(name in environment))) {
        delete process.env[name];
      }
      Object.assign(process.env, environment);
      await rm(home, { recursive: true, force: true });
    },
  };
}

/** A default site of this test's own. */
async function startDefaultSite(): Promise<LibvirtSite> {
  const site: typeof defaultSite = require("../../provider/dist/default-site/site");
  const uri = await site.startSite();
  const { root } = sitePaths();
  const { stdout: program } = await execa("which", ["virsh"]);
  return {
    uri,
    unreachableUri: `qemu:///system?socket=${join(root, "nobody")}`,
    etc: join(root, "etc"),
    images: join(root, "lib", "images"),
    virsh: async (...args) => (await execa(program, ["-q", "-c", uri, ...args])).stdout,
    remove: () => site.removeSite({ force: true }),
  };
}

async function skipWithoutPrograms(context: Mocha.Context, programs: readonly string[]): Promise<void> {
  const path = `${process.env.PATH}:/usr/sbin:/sbin`;
  const found = await Promise.all(
    programs.map((program) => execa("which", [program], { env: { PATH: path }, reject: false })),
  );
  const missing = programs.filter((_, index) => found[index]?.failed);
  const root = process.getuid?.() === 0 || !(await execa("sudo", ["-n", "true"], { reject: false })).failed;
  if (missing.length > 0 || !root) {
    console.log(`    The libvirt driver isn't tested: ${root ? `no ${missing.join(", ")} here` : "no root here"}.`);
    context.skip();
  }
}

/** Counts the driver's virsh processes, and refuses them when they are used up. */
class VirshGate {
  private constructor(
    readonly folder: string,
    /** The real program. */
    readonly virsh: string,
  ) {}

  static async make(folder: string): Promise<VirshGate> {
    const virsh = (await execa("which", ["virsh"])).stdout;
    await mkdir(folder);
    await writeFile(join(folder, "calls"), "");
    const file = join(folder, "virsh");
    await writeFile(
      file,
      `#!/bin/sh
here=\${0%/*}
echo >>"$here/calls"
if [ -e "$here/allowed" ] && [ "$(wc -l <"$here/calls")" -gt "$(cat "$here/allowed")" ]; then
  echo "error: interrupted by the test" >&2
  exit 1
fi
exec ${virsh} "$@"
`,
    );
    await chmod(file, 0o755);
    return new VirshGate(folder, virsh);
  }

  async requests(): Promise<number> {
    return (await readFile(join(this.folder, "calls"))).length;
  }

  async interruptAfter(requests: number | undefined): Promise<void> {
    const file = join(this.folder, "allowed");
    if (requests === undefined) {
      await rm(file, { force: true });
    } else {
      await writeFile(file, `${(await this.requests()) + requests}`);
    }
  }
}

async function diskOf(file: string, guest: FakeGuest): Promise<DiskImage> {
  await makeFakeDisk(file, guest);
  return { ...(await examineDisk(file)), digest: await digestOf(file) };
}
