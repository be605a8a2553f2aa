import { createHash } from "node:crypto";
import { access, link, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { createInterface } from "node:readline";
import { execa } from "execa";
import { GUEST_FOLDER } from "../guest-folder";
import { bootSector, installBootLoader } from "../images/disk/boot-loader";
import { hashOf } from "../images/disk/digests";
import { checkVcName, inRepository, listImage, settle } from "../images/repository/repository-folder";
import { vcInText } from "../images/repository/vc-in-text";

/** What an image is made of. */
export interface DebianRecipe {
  readonly vcName: string;
  /**
   * What is installed beside Debian's essential packages. It must have a kernel (`linux-image-cloud-amd64`, which has
   * drivers for virtio only, or `linux-image-amd64`), `kmod`, `busybox-static` for the initrd, and an init.
   */
  readonly packages: readonly string[];
  /**
   * An executable in a folder of its own. It is run as root with the installed system's tree as its argument, and finds
   * the folder with vc-guest in GUEST. The image is made anew when something in its folder has changed.
   */
  readonly customize: string;
  /** A program that `customize` runs inside, as it finds in SCRIPT. */
  readonly script?: string;
  /** MiB. */
  readonly diskSize: number;
}

/** Where and how {@link buildDebianImage} works. */
export interface ImageBuildOptions {
  /** The repository to make or to add to: it gets `vcdb.txt` and a folder named after the image. */
  readonly folder: string;
  /** Told what is being done, one plain line at a time. */
  readonly progress: (line: string) => void;
}

/** What lies beside the disks as `manifest.json`. */
interface Manifest {
  /** SHA-256 of all that the image was made from, except the distribution's packages. */
  readonly recipe: string;
  /** SHA-256 of each disk by its file name. */
  readonly disks: Readonly<Record<string, string>>;
}

const FRONTEND_DISK = "frontend.raw";
const COMPUTE_DISK = "compute.raw";

const MAKE_DISK = join(GUEST_FOLDER, "image", "make-disk");

/** What is installed of the kernels' 390 MiB of modules: virtual hardware, firewalls, shared file systems, discs. */
const KERNEL_MODULES = [
  ...["acpi", "ata", "char/hw_random", "net/ethernet/intel/e1000", "net/ethernet/intel/e1000e", "pps", "ptp", "virtio"],
  ...["block/loop.ko", "block/virtio_blk.ko", "char/virtio_console.ko", "input/evdev.ko"],
  ...["net/dummy.ko", "net/net_failover.ko", "net/tun.ko", "net/veth.ko", "net/virtio_net.ko"],
  ...["cdrom", "scsi/scsi_common.ko", "scsi/scsi_mod.ko", "scsi/sd_mod.ko", "scsi/sr_mod.ko", "scsi/virtio_scsi.ko"],
]
  .map((path) => `drivers/${path}`)
  .concat(["arch", "block", "crypto", "lib"])
  .concat(
    ["autofs", "ext4", "fuse", "isofs", "jbd2", "lockd", "nfs", "nfs_common", "nfsd", "overlayfs"].map(
      (name) => `fs/${name}`,
    ),
  )
  .concat(["fs/mbcache.ko", "net/8021q", "net/802", "net/bridge", "net/core", "net/ipv4", "net/ipv6", "net/llc"])
  .concat(["net/netfilter", "net/sunrpc"]);

const PATH_FILTERS = [
  ...["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*"],
  ...["/usr/share/bug/*", "/lib/modules/*/kernel/*"],
]
  .map((path) => `path-exclude=${path}`)
  .concat("path-include=/usr/share/doc/*/copyright")
  .concat(
    KERNEL_MODULES.map((path) => `path-include=/lib/modules/*/kernel/${path}${path.endsWith(".ko") ? "" : "/*"}`),
  );

/** A change here means other disks from the same recipe. */
const BUILDER_VERSION = 2;

/**
 * Builds an image from the distribution's packages: in the repository `folder` its line of `vcdb.txt`, and in a folder
 * of its name the `vc-in.xml`, two RAW disks (sparse, and one file under two names) and `manifest.json`. Follows the
 * PRAGMA virtual cluster image standard, phase 4. An image made from the same recipe is left alone; another one is
 * replaced when the new one is whole. Needs Debian, mmdebstrap, e2fsprogs, grub-common and grub-pc-bin, and root or sudo.
 * @returns whether it was made now
 */
export async function buildDebianImage(
  recipe: DebianRecipe,
  { folder, progress }: ImageBuildOptions,
): Promise<boolean> {
  const { vcName } = recipe;
  checkVcName(vcName);
  const tell = (line: string) => progress(`Image ${vcName}: ${line}`);
  const target = join(folder, vcName);
  const digest = await recipeDigest(recipe);
  if (await isBuilt(target, digest)) return false;

  return inRepository(folder, tell, async (workspace) => {
    // Another process may have built it while this one waited.
    if (await isBuilt(target, digest)) return false;
    const disk = join(workspace, FRONTEND_DISK);
    tell("installing Debian packages (a minute or two)");
    await installSystem(recipe, disk, digest, tell);
    tell("writing the boot loader");
    await writePartitionTable(disk);
    await installBootLoader(disk);
    await link(disk, join(workspace, COMPUTE_DISK));
    await writeFile(join(workspace, "vc-in.xml"), vcIn(vcName));
    const content = await hashOf(disk);
    const manifest: Manifest = { recipe: digest, disks: { [FRONTEND_DISK]: content, [COMPUTE_DISK]: content } };
    await writeFile(join(workspace, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    await rm(target, { recursive: true, force: true });
    await settle(workspace, target);
    await listImage(folder, vcName, `${vcName}/vc-in.xml`);
    tell(`ready in ${target}`);
    return true;
  });
}

async function isBuilt(target: string, recipe: string): Promise<boolean> {
  try {
    const manifest: Manifest = JSON.parse(await readFile(join(target, "manifest.json"), "utf8"));
    if (manifest.recipe !== recipe) return false;
    await Promise.all(
      [...Object.keys(manifest.disks), "vc-in.xml", "../vcdb.txt"].map((name) => access(join(target, name))),
    );
    return true;
  } catch {
    return false;
  }
}

async function recipeDigest({ vcName, packages, customize, script, diskSize }: DebianRecipe): Promise<string> {
  const hash = createHash("sha256").update(
    JSON.stringify([BUILDER_VERSION, packages, PATH_FILTERS, diskSize, vcIn(vcName)]),
  );
  for (const folder of [GUEST_FOLDER, dirname(customize)]) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
    for (const file of files.sort()) hash.update(`\0${relative(folder, file)}\0`).update(await readFile(file));
  }
  if (script !== undefined) hash.update(`\0script\0`).update(await readFile(script));
  return hash.digest("hex");
}

/** Installs the packages into a tree that only lives as long as this call, and makes `disk` from it. */
async function installSystem(
  { vcName, packages, customize, script, diskSize }: DebianRecipe,
  disk: string,
  digest: string,
  tell: (line: string) => void,
): Promise<void> {
  const { codename, sources, settings } = await debianHere();
  const environment = {
    GUEST: GUEST_FOLDER,
    ...(script !== undefined && { SCRIPT: resolve(script) }),
    DISK: disk,
    DISK_MIB: String(diskSize),
    // The same recipe gives the same file system UUID, as the boot loader's configuration is part of it.
    DISK_UUID: digest.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, "$1-$2-$3-$4-$5"),
    DISK_OWNER: `${process.getuid?.()}:${process.getgid?.()}`,
    // The image has an initrd of its own, so the kernels' packages need not make any.
    INITRD: "No",
    // Not the user's folder: mmdebstrap needs one that the package manager's own user can enter.
    TMPDIR: "/var/tmp",
  };
  const child = execa(
    ...asRoot([
      "env",
      ...Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      "mmdebstrap",
      ...["--mode=root", "--variant=apt", "--format=null", "--architectures=amd64", `--include=${packages.join(",")}`],
      ...PATH_FILTERS.map((filter) => `--dpkgopt=${filter}`),
      ...settings.map((setting) => `--aptopt=${setting}`),
      `--customize-hook=${customize}`,
      `--customize-hook=${MAKE_DISK}`,
      codename,
      "-",
      ...sources,
    ]),
    { stdin: "ignore", stdout: "ignore", stderr: "pipe", buffer: false, reject: false },
  );
  const last: string[] = [];
  for await (const line of createInterface({ input: child.stderr })) {
    last.push(line);
    if (last.length > 20) last.shift();
    if (line.startsWith("I: ")) tell(line.slice(3));
  }
  if ((await child).exitCode !== 0) {
    throw new Error(`Image ${vcName} could not be built, as mmdebstrap failed:\n${last.join("\n")}`);
  }
}

/** One partition from where `make-disk` puts the file system. */
async function writePartitionTable(disk: string): Promise<void> {
  const file = await open(disk, "r+");
  try {
    const { size } = await file.stat();
    await file.write(bootSector(size), 0);
  } finally {
    await file.close();
  }
}

/** This host's Debian: its release, its package sources as far as they are Debian's, and how its apt reaches them. */
export async function debianHere(): Promise<{
  readonly codename: string;
  readonly sources: readonly string[];
  readonly settings: readonly string[];
}> {
  const codename = await debianCodename();
  return { codename, sources: await debianSources(codename), settings: await aptSettings() };
}

async function debianCodename(): Promise<string> {
  const release = await readFile("/etc/os-release", "utf8");
  const codename = /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1];
  if (!codename || !/^ID=debian$/m.test(release)) {
    throw new Error(
      "Images are built from Debian's packages, on Debian only; on this host name a repository with other images.",
    );
  }
  return codename;
}

/** The host's own package sources as far as they are Debian's: a mirror or a proxy of the host's is used here too. */
async function debianSources(codename: string): Promise<string[]> {
  const fields = "$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)";
  const { stdout } = await execa("apt-get", ["indextargets", "--format", fields, "Created-By: Packages"]);
  const suites = [codename, `${codename}-updates`, `${codename}-security`];
  const sources = stdout
    .split("\n")
    .map((line) => line.split("|"))
    .filter(([origin, suite]) => origin === "Debian" && suites.includes(suite ?? ""))
    .map(([, , source]) => source ?? "");
  if (sources.length === 0) throw new Error("apt knows no packages of Debian yet; run `apt-get update` first.");
  return [...new Set(sources)];
}

/** How the host's apt reaches its sources (proxies, certificates, …), and where it keeps their credentials. */
async function aptSettings(): Promise<string[]> {
  const { stdout } = await execa("apt-config", ["dump", "--no-empty", "--format", '%F "%v";%n']);
  const settings = stdout.split("\n").filter((line) => /^Acquire::(http|https|ftp|Retries|Check-)/i.test(line));
  return [...settings, 'Dir::Etc::netrc "/etc/apt/auth.conf";', 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";'];
}

export function asRoot(command: readonly string[]): [file: string, args: string[]] {
  // Without these sudo would forget how this user reaches the network.
  const proxies = "http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY";
  const [file = "", ...args] = process.getuid?.() === 0 ? command : ["sudo", `--preserve-env=${proxies}`, ...command];
  return [file, args];
}

function vcIn(vcName: string): string {
  const shape = { cpus: 1, memory: 256 };
  const node = (name: string) => ({ disk: { name, parts: [name], isGzip: false }, shape });
  return vcInText(vcName, node(FRONTEND_DISK), node(COMPUTE_DISK));
}
