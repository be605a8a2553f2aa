import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, chmod, link, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { execa } from "execa";
import { installBootLoader } from "./boot-loader";

/** Where and how {@link buildDemoImage} works. */
export interface DemoImageOptions {
  /** The repository to make: it gets `vcdb.txt` and the folder `demo`. */
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

const NAME = "demo";
const FRONTEND_DISK = "frontend.raw";
const COMPUTE_DISK = "compute.raw";

/** `guest/` of this package, seen from `src/images/` and from `dist/images/` alike. */
const GUEST_FOLDER = join(__dirname, "..", "..", "guest");

const PACKAGES = [
  "linux-image-cloud-amd64",
  "linux-image-amd64",
  "kmod",
  "busybox-static",
  "sysvinit-core",
  "e2fsprogs",
  "fdisk",
  "iproute2",
  "iputils-ping",
  "nftables",
  "openssh-client",
  "openssh-server",
  "qemu-guest-agent",
];

/** What is installed of the kernels' 390 MiB of modules: virtual hardware, firewalls, shared file systems. */
const KERNEL_MODULES = [
  ...["acpi", "ata", "char/hw_random", "net/ethernet/intel/e1000", "net/ethernet/intel/e1000e", "pps", "ptp", "virtio"],
  ...["block/loop.ko", "block/virtio_blk.ko", "char/virtio_console.ko", "input/evdev.ko"],
  ...["net/dummy.ko", "net/net_failover.ko", "net/tun.ko", "net/veth.ko", "net/virtio_net.ko"],
  ...["scsi/scsi_common.ko", "scsi/scsi_mod.ko", "scsi/sd_mod.ko", "scsi/virtio_scsi.ko"],
]
  .map((path) => `drivers/${path}`)
  .concat(["arch", "block", "crypto", "lib"])
  .concat(["ext4", "fuse", "jbd2", "lockd", "nfs", "nfs_common", "nfsd", "overlayfs"].map((name) => `fs/${name}`))
  .concat(["fs/mbcache.ko", "net/8021q", "net/802", "net/bridge", "net/core", "net/ipv4", "net/ipv6", "net/llc"])
  .concat(["net/netfilter", "net/sunrpc"]);

const PACKAGE_FILTERS = [
  ...["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*"],
  ...["/usr/share/bug/*", "/lib/modules/*/kernel/*"],
]
  .map((path) => `path-exclude=${path}`)
  .concat("path-include=/usr/share/doc/*/copyright")
  .concat(
    KERNEL_MODULES.map((path) => `path-include=/lib/modules/*/kernel/${path}${path.endsWith(".ko") ? "" : "/*"}`),
  );

/** A change here means other disks from the same recipe files. */
const RECIPE_VERSION = 1;

const VC_IN = `<?xml version="1.0"?>
<vc version="0.1">
  <virtualization engine="kvm" type="hvm" arch="x86_64"/>
  <driver>rocks6_client</driver>
  <frontend>
    ${domain("frontend", FRONTEND_DISK, ["private", "public"])}
  </frontend>
  <compute>
    <boot_dependency parent="frontend">
      <wait type="clock" value="0"/>
    </boot_dependency>
    ${domain("compute", COMPUTE_DISK, ["private"])}
  </compute>
  <networks>
    <network name="private">
      <ipaddress>10.1.1.1</ipaddress>
      <netmask>255.255.0.0</netmask>
    </network>
    <frontend>
      <public>eth1</public>
    </frontend>
  </networks>
</vc>
`;

/**
 * Builds the demo image from the distribution's packages: the repository `folder` with `vcdb.txt`, and in `folder/demo`
 * the `vc-in.xml`, two RAW disks of 512 MiB (sparse, and one file under two names) and `manifest.json`. Follows the
 * PRAGMA virtual cluster image standard, phase 4. An image made from the same recipe is left alone; another one is
 * replaced when the new one is whole. Needs Debian, mmdebstrap, e2fsprogs, grub-common and grub-pc-bin, and root or sudo.
 */
export async function buildDemoImage({ folder, progress }: DemoImageOptions): Promise<void> {
  const target = join(folder, NAME);
  const recipe = await recipeDigest();
  if (await isBuilt(target, recipe)) return;

  await mkdir(folder, { recursive: true });
  const workspace = await mkdtemp(join(folder, ".demo-"));
  try {
    const disk = join(workspace, FRONTEND_DISK);
    progress("Demo image: installing Debian packages (about a minute)");
    await installSystem(disk, recipe, progress);
    progress("Demo image: writing the boot loader");
    await installBootLoader(disk);
    await link(disk, join(workspace, COMPUTE_DISK));
    await writeFile(join(workspace, "vc-in.xml"), VC_IN);
    const digest = await fileDigest(disk);
    const manifest: Manifest = { recipe, disks: { [FRONTEND_DISK]: digest, [COMPUTE_DISK]: digest } };
    await writeFile(join(workspace, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
    // A new temporary folder is its maker's alone, but the site's processes read the disks.
    await chmod(workspace, 0o755);
    await rm(target, { recursive: true, force: true });
    await rename(workspace, target);
    await writeFile(join(folder, "vcdb.txt"), `${NAME},${NAME}/vc-in.xml\n`);
    progress(`Demo image: ready in ${target}`);
  } finally {
    await rm(workspace, { recursive: true, force: true });
  }
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

async function recipeDigest(): Promise<string> {
  const hash = createHash("sha256").update(JSON.stringify([RECIPE_VERSION, PACKAGES, PACKAGE_FILTERS, VC_IN]));
  const entries = await readdir(GUEST_FOLDER, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  for (const file of files.sort()) hash.update(`\0${relative(GUEST_FOLDER, file)}\0`).update(await readFile(file));
  return hash.digest("hex");
}

/** Installs the packages into a tree that only lives as long as this call, and makes `disk` from it. */
async function installSystem(disk: string, recipe: string, progress: (line: string) => void): Promise<void> {
  const codename = await debianCodename();
  const environment = {
    DEMO_GUEST: GUEST_FOLDER,
    DEMO_DISK: disk,
    // The same recipe gives the same file system UUID, as the boot loader's configuration is part of it.
    DEMO_UUID: recipe.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, "$1-$2-$3-$4-$5"),
    DEMO_OWNER: `${process.getuid?.()}:${process.getgid?.()}`,
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
      ...["--mode=root", "--variant=apt", "--format=null", "--architectures=amd64", `--include=${PACKAGES.join(",")}`],
      ...PACKAGE_FILTERS.map((filter) => `--dpkgopt=${filter}`),
      ...(await aptSettings()).map((setting) => `--aptopt=${setting}`),
      `--customize-hook=${join(GUEST_FOLDER, "image", "customize")}`,
      codename,
      "-",
      ...(await debianSources(codename)),
    ]),
    { stdin: "ignore", stdout: "ignore", stderr: "pipe", buffer: false, reject: false },
  );
  const last: string[] = [];
  for await (const line of createInterface({ input: child.stderr })) {
    last.push(line);
    if (last.length > 20) last.shift();
    if (line.startsWith("I: ")) progress(`Demo image: ${line.slice(3)}`);
  }
  if ((await child).exitCode !== 0) {
    throw new Error(`The demo image could not be built, as mmdebstrap failed:\n${last.join("\n")}`);
  }
}

async function debianCodename(): Promise<string> {
  const release = await readFile("/etc/os-release", "utf8");
  const codename = /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1];
  if (!codename || !/^ID=debian$/m.test(release)) {
    throw new Error(
      "The demo image is built from Debian's packages, on Debian only; on this host name a repository with other images.",
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

function asRoot(command: readonly string[]): [file: string, args: string[]] {
  // Without these sudo would forget how this user reaches the network.
  const proxies = "http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY";
  const [file = "", ...args] = process.getuid?.() === 0 ? command : ["sudo", `--preserve-env=${proxies}`, ...command];
  return [file, args];
}

async function fileDigest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

/** libvirt's domain XML, as the standard wants it: it describes the machine that the image was made for. */
function domain(name: string, disk: string, networks: readonly string[]): string {
  const interfaces = networks.map(
    (network) => `
        <interface type="network">
          <source network="${network}"/>
          <model type="virtio"/>
        </interface>`,
  );
  return `<domain type="kvm">
      <name>${NAME}-${name}</name>
      <memory unit="KiB">262144</memory>
      <vcpu>1</vcpu>
      <os>
        <type arch="x86_64">hvm</type>
        <boot dev="hd"/>
      </os>
      <features>
        <acpi/>
      </features>
      <devices>
        <disk type="file" device="disk">
          <driver name="qemu" type="raw"/>
          <source file="${disk}"/>
          <target dev="vda" bus="virtio"/>
        </disk>${interfaces.join("")}
        <console type="pty"/>
      </devices>
    </domain>`;
}
