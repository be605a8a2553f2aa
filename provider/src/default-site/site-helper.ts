import { randomUUID } from "node:crypto";
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { kvmUsable } from "../kvm";
import { type Progress, SetupError } from "../setup/setup-error";
import { libvirtdConf, POOL, POOL_XML, PUBLIC_NETWORK, PUBLIC_NETWORK_XML, QEMU_CONF } from "./configuration";
import { becomesTrue, startDaemon, waitForDaemon } from "./daemon";
import { gateAnswers } from "./gate";
import { libvirtAnswers, virsh } from "./libvirt";
import { type SitePaths, sitePaths } from "./paths";

/**
 * The part of the default site that needs root: `site-helper.js start|stop|remove HOME UID GID [--force]`. Called by
 * site.ts, one at a time (under a lock). Progress goes to stdout; an error is one sentence on stderr and exit code 1.
 */

const START_LIMIT_MS = 60_000;
const COME_BACK_LIMIT_MS = 15_000;
const SHUTDOWN_LIMIT_MS = 30_000;
const TERMINATE_LIMIT_MS = 10_000;

const FOLDERS = ["etc", "lib/images", "lib/dnsmasq", "run", "cache", "log"] as const;

/**
 * Runs inside the network namespace, where `ip netns exec` has already made a mount namespace. Everything that libvirtd
 * reads and writes is bound over its usual places, so that the machine's own libvirt isn't touched and QEMU's user
 * reaches its files although the site's folder is private. Where KVM isn't usable its device is hidden behind a file that
 * QEMU's user can't open: libvirt would ask QEMU about KVM again before every start of a guest. Control groups, whose
 * names aren't per namespace, are hidden too: libvirt does without.
 *
 * libvirtd's status is 0 only when it was asked to end; after any other end it comes back and finds its guests again.
 * One that never got as far as its socket can't start here, which is for whoever starts the site to know.
 */
const LIBVIRTD_SCRIPT = `
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/run" /run/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/log" /var/log/libvirt
if mountpoint -q /sys/fs/cgroup; then umount --recursive --lazy /sys/fs/cgroup; fi
if [ "$2" = without-kvm ] && [ -e /dev/kvm ]; then mount --bind "$1/no-kvm" /dev/kvm; fi
trap exit TERM
delay=0 started=$(date +%s)
until libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid; do
  [ -S /run/libvirt/libvirt-sock ]
  delay=$(($(date +%s) - started > delay + 30 ? 0 : delay < 10 ? delay + 1 : 10)) started=$(date +%s)
  echo "$(date): libvirtd has ended by itself; it starts again in $delay s"
  sleep "$delay"
done
`;

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

const report: Progress = (line) => process.stdout.write(`${line}\n`);

async function start(site: SitePaths, owner: Owner): Promise<void> {
  mkdirSync(site.root, { recursive: true, mode: 0o700 });
  chownSync(site.root, owner.uid, owner.gid);
  for (const folder of FOLDERS) {
    mkdirSync(join(site.root, folder), { recursive: true });
  }
  mkdirSync("/run/libvirt", { recursive: true });

  if (!(await namespaceWorks(site))) {
    await makeNamespace(site);
  }
  if (!(await libvirtComesBack(site))) {
    await startLibvirtd(site, owner);
  }
  await ensureObject(site, "pool", POOL.name, POOL_XML);
  await ensureObject(site, "net", PUBLIC_NETWORK.name, PUBLIC_NETWORK_XML);
  if (!(await gateAnswers(site.gate))) {
    await startGate(site, owner);
  }
}

async function namespaceWorks(site: SitePaths): Promise<boolean> {
  return !(await execa("ip", ["netns", "exec", site.namespace, "true"], { reject: false })).failed;
}

async function makeNamespace(site: SitePaths): Promise<void> {
  // A name without a namespace behind it is what an interrupted start leaves.
  await execa("ip", ["netns", "delete", site.namespace], { reject: false });
  // Without the namespace nothing runs any more: what libvirt noted about running guests is from before a restart of
  // the host, and libvirt starts the guests marked autostart only where it finds no such notes.
  forgetRunningState(site);
  await execa("ip", ["netns", "add", site.namespace]);
}

function forgetRunningState(site: SitePaths): void {
  rmSync(join(site.root, "run"), { recursive: true, force: true });
  mkdirSync(join(site.root, "run"));
  rmSync(site.gate, { force: true });
}

/** Whether libvirtd answers, at once or soon: where its script runs, it starts again by itself. */
async function libvirtComesBack(site: SitePaths): Promise<boolean> {
  const supervised = (await processes(site)).some((pid) => commandLine(pid).includes(LIBVIRTD_SCRIPT));
  return becomesTrue(() => libvirtAnswers(site.socket), supervised ? COME_BACK_LIMIT_MS : 0);
}

async function startLibvirtd(site: SitePaths, owner: Owner): Promise<void> {
  report("starting libvirtd");
  await execa("ip", ["-n", site.namespace, "link", "set", "lo", "up"]);
  rmSync(site.socket, { force: true });
  rmSync(join(site.root, "run", "libvirtd.pid"), { force: true });
  const uuidFile = join(site.root, "host-uuid");
  if (!existsSync(uuidFile)) {
    writeFileSync(uuidFile, randomUUID());
  }
  writeFileSync(join(site.root, "no-kvm"), "", { mode: 0o000 });
  writeFileSync(join(site.root, "etc", "libvirtd.conf"), libvirtdConf(readFileSync(uuidFile, "utf8"), owner.gid));
  writeFileSync(join(site.root, "etc", "qemu.conf"), QEMU_CONF);

  const script = ["sh", "-euc", LIBVIRTD_SCRIPT, "site", site.root, kvmUsable() ? "with-kvm" : "without-kvm"];
  // As a subreaper, tini adopts the QEMU processes and reaps them at once; a slow init would delay each stop by seconds.
  const daemon = startDaemon(["tini", "-s", "--", "ip", "netns", "exec", site.namespace, ...script], site.log);
  await waitForDaemon(
    daemon,
    "The default site's libvirtd",
    site.log,
    () => libvirtAnswers(site.socket),
    START_LIMIT_MS,
  );
}

/** Makes a pool or network unless it is there, and sees to it that it is active now and at every start. */
async function ensureObject(site: SitePaths, kind: "pool" | "net", name: string, xml: string): Promise<void> {
  const list = (which: string[]) => virsh(site.socket, [`${kind}-list`, "--name", ...which]);
  if (!(await list(["--all"])).includes(name)) {
    report(`making the ${kind === "pool" ? "storage pool" : "network"} ${name}`);
    const definition = join(site.root, `${name}.xml`);
    writeFileSync(definition, xml);
    await virsh(site.socket, [`${kind}-define`, definition]);
  }
  if (!(await list([])).includes(name)) {
    await virsh(site.socket, [`${kind}-start`, name]);
  }
  if (!(await list(["--autostart"])).includes(name)) {
    await virsh(site.socket, [`${kind}-autostart`, name]);
  }
}

async function startGate(site: SitePaths, owner: Owner): Promise<void> {
  report("starting the gate for ssh");
  const gate = [process.execPath, join(__dirname, "gate.js"), site.gate, String(owner.uid), String(owner.gid)];
  const daemon = startDaemon(["ip", "netns", "exec", site.namespace, ...gate], site.gateLog);
  await waitForDaemon(daemon, "The default site's gate", site.gateLog, () => gateAnswers(site.gate), START_LIMIT_MS);
}

/** @param shutdownLimitMs how long guests have to shut down before they are turned off */
async function stop(site: SitePaths, shutdownLimitMs: number): Promise<void> {
  if (!(await namespaceWorks(site))) {
    return;
  }
  if (await libvirtComesBack(site)) {
    await stopGuests(site, shutdownLimitMs);
  }
  report("stopping libvirtd");
  await signalAll(site, "SIGTERM");
  if (!(await becomesTrue(async () => (await processes(site)).length === 0, TERMINATE_LIMIT_MS))) {
    await signalAll(site, "SIGKILL");
    await becomesTrue(async () => (await processes(site)).length === 0, TERMINATE_LIMIT_MS);
  }
  await execa("ip", ["netns", "delete", site.namespace]);
  forgetRunningState(site);
}

/** Asks every guest to shut down, and takes the power from those that haven't in time. */
async function stopGuests(site: SitePaths, limitMs: number): Promise<void> {
  const running = () => virsh(site.socket, ["list", "--name"]);
  const guests = await running();
  if (guests.length === 0) {
    return;
  }
  report(`shutting down ${guests.join(", ")}`);
  await Promise.allSettled(guests.map((guest) => virsh(site.socket, ["shutdown", guest])));
  if (await becomesTrue(async () => (await running()).length === 0, limitMs, 500)) {
    return;
  }
  const stubborn = await running();
  report(`turning off ${stubborn.join(", ")}`);
  await Promise.allSettled(stubborn.map((guest) => virsh(site.socket, ["destroy", guest])));
}

async function processes(site: SitePaths): Promise<number[]> {
  const { stdout } = await execa("ip", ["netns", "pids", site.namespace], { lines: true });
  return stdout.map(Number);
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return ""; // It has ended by itself.
  }
}

async function signalAll(site: SitePaths, signal: NodeJS.Signals): Promise<void> {
  for (const pid of await processes(site)) {
    try {
      process.kill(pid, signal);
    } catch {
      // It has ended by itself.
    }
  }
}

async function remove(site: SitePaths, force: boolean): Promise<void> {
  const inUse = force ? [] : definedByUsers(site);
  if (inUse.length > 0) {
    throw new SetupError(
      `The default site still holds ${inUse.join(", ")}: destroy the stacks that use it first, or force its removal.`,
    );
  }
  // Nothing that a guest would save when it shuts down outlives it here.
  await stop(site, 0);
  rmSync(site.root, { recursive: true, force: true });
}

/** What clusters have left on the site, running or not: its domains, and its networks but the public one. */
function definedByUsers(site: SitePaths): string[] {
  const definitions = (folder: string) => {
    const path = join(site.root, "etc", folder);
    const files = existsSync(path) ? readdirSync(path) : [];
    return files.filter((file) => file.endsWith(".xml")).map((file) => file.slice(0, -".xml".length));
  };
  const networks = definitions("qemu/networks").filter((name) => name !== PUBLIC_NETWORK.name);
  return [...definitions("qemu").map((name) => `the domain ${name}`), ...networks.map((name) => `the network ${name}`)];
}

async function main([operation, homeFolder, uid, gid, force]: string[]): Promise<void> {
  const site = sitePaths(homeFolder);
  switch (operation) {
    case "start":
      return start(site, { uid: Number(uid), gid: Number(gid) });
    case "stop":
      return stop(site, SHUTDOWN_LIMIT_MS);
    case "remove":
      return remove(site, force === "--force");
    default:
      throw new SetupError(`site-helper: unknown operation ${operation}.`);
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
