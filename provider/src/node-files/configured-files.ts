import { lstat, mkdir, readdir, readFile, readlink, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { SiteFailure } from "../drivers/errors";
import { GUEST_FOLDER } from "../guest-folder";
import type { GuestChange, GuestFile, GuestLink } from "../images/disk/inject";
import type { GuestEntry, GuestFileSystem } from "../images/root/file-system";
import { inTemporaryFolder } from "../temporary-folder";
import { readVcOut } from "../vc-out/read";
import type { NodeSetUp } from "./set-up";

/** Folders of which the configuration of a network and of ssh depends, with what they hold. */
const CONFIGURATION = [
  ...["/etc/network", "/etc/network/interfaces.d", "/etc/netplan", "/etc/systemd/network"],
  ...["/etc/systemd/resolved.conf.d", "/etc/NetworkManager", "/etc/NetworkManager/conf.d"],
  ...["/etc/NetworkManager/system-connections", "/etc/sysconfig/network-scripts", "/etc/ssh", "/root/.ssh", "/etc/vc"],
];
const CONFIGURATION_FILES = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/sysconfig/network"];
/** Folders whose names alone tell what is installed; of the first two only these names. */
const PROGRAM_FOLDERS = ["/sbin", "/usr/sbin"];
const PROGRAMS = /^(netplan|ifup|resolvconf|NetworkManager|nft|iptables-restore)$/;
/** Folders that tell by being there how services are started. */
const INIT_FOLDERS = ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/rc.d/init.d"];
const RUNLEVEL_FOLDERS = ["S", "2", "3", "4", "5"].flatMap((level) => [`/etc/rc${level}.d`, `/etc/rc.d/rc${level}.d`]);
const UNIT_FOLDER = "/etc/systemd/system";
const MOST_FILE = 256 * 1024;
/** What a link leads to that means nothing but being there. */
const NOWHERE = "nowhere";
/** Whose work a resolv.conf is that is a link. */
const RESOLVERS = ["systemd", "NetworkManager", "resolvconf"];
/** What the guest program keeps for itself of a machine that runs. */
const OF_A_RUN = ["run", "sys", "var"];

const NIC_NAMES_FILE = "/etc/udev/rules.d/70-persistent-net.rules";

/**
 * The configuration files of an image that nobody in it would write: the guest program itself writes them, here, into a
 * copy of those that are there, and what it has changed is what to change. It goes into the image too, to start at boot:
 * where it can, it also lets computes out through a frontend and takes changes while the machine runs.
 */
export async function configuredFiles(
  { vcOut }: NodeSetUp,
  contract: readonly GuestFile[],
  root: GuestFileSystem,
): Promise<readonly GuestChange[]> {
  const macs = readVcOut(vcOut).vcOut.nics.map(({ mac }) => mac);
  const cards = macs.map((mac, index) => ({ name: `eth${index}`, mac }));
  return [...(await whatGuestWrites([...(await presentFiles(root)), ...contract], cards)), nicNames(cards)];
}

/** A network card as the guest is going to know it. */
export interface Card {
  readonly name: string;
  readonly mac: string;
}

/**
 * What the guest program changes in a root file system that holds `present`: itself included, and what starts it there.
 * @throws SiteFailure with what it said
 */
export async function whatGuestWrites(
  present: readonly (GuestFile | GuestLink)[],
  cards: readonly Card[],
): Promise<readonly GuestChange[]> {
  return changesOf(present, async (folder) => {
    for (const { name, mac } of cards) {
      await mkdir(join(folder, "sys", "class", "net", name), { recursive: true });
      await writeFile(join(folder, "sys", "class", "net", name, "address"), `${mac}\n`);
    }
    await install(folder);
    const { exitCode } = await execa("sh", [join(GUEST_FOLDER, "vc-guest"), "apply"], {
      env: { VC_ROOT: folder, VC_LIB: GUEST_FOLDER, VC_DRY_RUN: "1" },
      reject: false,
      timeout: 60_000,
    });
    if (exitCode !== 0) {
      const said = await readFile(join(folder, "run", "vc", "error"), "utf8").catch(() => "");
      throw new SiteFailure(
        "writing the node's configuration files",
        said.trim() || `vc-guest exited with ${exitCode}`,
      );
    }
  });
}

/** What it takes that the guest program is in a root file system, and started there. */
export async function whatInstallWrites(root: GuestFileSystem): Promise<readonly GuestChange[]> {
  return changesOf(await names(root), install);
}

async function install(tree: string): Promise<void> {
  await execa("sh", [join(GUEST_FOLDER, "install"), tree], { timeout: 60_000 });
}

/** What `work` changes in a tree with these files. */
async function changesOf(
  present: readonly (GuestFile | GuestLink)[],
  work: (tree: string) => Promise<void>,
): Promise<readonly GuestChange[]> {
  return inTemporaryFolder(async (folder) => {
    // Of two with the same path, as only a damaged folder has, one.
    for (const change of new Map(present.map((one) => [one.path, one])).values()) {
      const path = join(folder, change.path);
      await mkdir(dirname(path), { recursive: true });
      await ("target" in change
        ? symlink(change.target, path)
        : writeFile(path, change.content, { mode: change.mode }));
    }
    for (const needed of ["etc", "tmp", join("usr", "sbin")]) {
      await mkdir(join(folder, needed), { recursive: true });
    }
    const before = await contentOf(folder);
    await work(folder);
    return changesBetween(before, await contentOf(folder));
  });
}

/** Gives cards the names that the files have: the first is `eth0`, as in PRAGMA's images, whatever a kernel would call it. */
function nicNames(cards: readonly Card[]): GuestFile {
  const rules = cards.map(
    ({ name, mac }) => `SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="${mac}", NAME="${name}"\n`,
  );
  return { path: NIC_NAMES_FILE, content: rules.join(""), mode: 0o644 };
}

// ── What is there ────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * A guest's files as far as they matter; nothing that the guest program would run, as it runs hooks. Links become files, so
 * that none leads anywhere on this machine.
 */
async function presentFiles(root: GuestFileSystem): Promise<Array<GuestFile | GuestLink>> {
  const wanted = new Set(CONFIGURATION_FILES);
  const listed = await Promise.all(
    [...CONFIGURATION, ...new Set(CONFIGURATION_FILES.map(dirname))].map(async (folder) =>
      (await inFolder(root, folder)).filter(
        ({ path, kind }) => kind !== "folder" && (CONFIGURATION.includes(folder) || wanted.has(path)),
      ),
    ),
  );
  const files: Array<GuestFile | GuestLink> = [];
  for (const { path, kind, mode, size } of listed.flat()) {
    if (kind === "link") {
      files.push(await harmlessLink(root, path));
    } else if (kind === "file" && size <= MOST_FILE) {
      files.push({ path, content: await root.readBytes(path), mode: mode | 0o600 });
    }
  }
  return [...files, ...(await names(root))];
}

/** Programs and what is started, by name alone. */
async function names(root: GuestFileSystem): Promise<Array<GuestFile | GuestLink>> {
  const units = await inFolder(root, UNIT_FOLDER);
  const wants = units.filter(({ path, kind }) => path.endsWith(".wants") && kind === "folder").map(({ path }) => path);
  const [programs, inits, started] = await Promise.all([
    Promise.all(PROGRAM_FOLDERS.map((folder) => inFolder(root, folder))),
    Promise.all(INIT_FOLDERS.map(async (folder) => (await inFolder(root, folder)).slice(0, 1))),
    Promise.all([...wants, ...RUNLEVEL_FOLDERS].map((folder) => inFolder(root, folder))),
  ]);
  const told = [...programs.flat().filter(({ name }) => PROGRAMS.test(name)), ...inits.flat(), ...started.flat()];
  return [
    ...told.map(({ path, kind }) => (kind === "link" ? { path, target: NOWHERE } : { path, content: "", mode: 0o644 })),
    ...(await Promise.all(units.filter(({ kind }) => kind === "link").map(({ path }) => harmlessLink(root, path)))),
  ];
}

async function inFolder(root: GuestFileSystem, folder: string): Promise<Array<GuestEntry & { readonly path: string }>> {
  return (await root.list(folder)).map((entry) => ({ ...entry, path: `${folder}/${entry.name}` }));
}

/** A link of the same meaning that leads to nothing; what means neither of these is an empty file. */
async function harmlessLink(root: GuestFileSystem, path: string): Promise<GuestFile | GuestLink> {
  const target = await root.linkTarget(path);
  if (target === "/dev/null") {
    return { path, target };
  }
  const resolver = RESOLVERS.find((name) => target.includes(`/${name}/`));
  return resolver && path === "/etc/resolv.conf"
    ? { path, target: `../run/${resolver}/resolv.conf` }
    : { path, content: "", mode: 0o644 };
}

// ── What has changed ─────────────────────────────────────────────────────────────────────────────────────────────────

type Content = ReadonlyMap<string, GuestFile | GuestLink>;

/** All below a folder, without following links. */
async function contentOf(folder: string): Promise<Content> {
  const content = new Map<string, GuestFile | GuestLink>();
  const visit = async (path: string): Promise<void> => {
    for (const entry of await readdir(join(folder, path), { withFileTypes: true })) {
      const inside = `${path}/${entry.name}`;
      const file = join(folder, inside);
      if (entry.isDirectory()) {
        await visit(inside);
      } else if (entry.isSymbolicLink()) {
        content.set(inside, { path: inside, target: await readlink(file) });
      } else {
        content.set(inside, { path: inside, content: await readFile(file), mode: (await lstat(file)).mode & 0o7777 });
      }
    }
  };
  for (const entry of await readdir(folder)) {
    if (!OF_A_RUN.includes(entry)) {
      await visit(`/${entry}`);
    }
  }
  return content;
}

function changesBetween(before: Content, after: Content): GuestChange[] {
  const removed = [...before.keys()].filter((path) => !after.has(path));
  return [
    ...removed.map((path) => ({ path, removed: true }) as const),
    ...[...after.values()].filter((now) => !isSame(before.get(now.path), now)),
  ];
}

function isSame(then: GuestFile | GuestLink | undefined, now: GuestFile | GuestLink): boolean {
  if (!then || "target" in then || "target" in now) {
    return then !== undefined && "target" in then && "target" in now && then.target === now.target;
  }
  return then.mode === now.mode && Buffer.from(then.content).equals(Buffer.from(now.content));
}
