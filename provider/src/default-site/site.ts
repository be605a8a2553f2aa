import { existsSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { home } from "../home";
import { rootPrefix } from "../setup/privilege";
import { type Progress, SetupError } from "../setup/setup-error";
import { POOL, PUBLIC_NETWORK } from "./configuration";
import { gateAnswers } from "./gate";
import { socketUri, virsh } from "./libvirt";
import { sitePaths } from "./paths";
import { writeSshConfig } from "./ssh-config";

/** The longest path that a unix socket can have on Linux, in bytes. */
const LONGEST_SOCKET_PATH = 107;

/** How long one start, stop or removal waits for another one that is under way, in seconds. */
const LOCK_LIMIT_S = 180;

export interface SiteStatus {
  /** `absent`: there is no site; `stopped`: it has to be started (first, or again after a restart of the host). */
  readonly state: "absent" | "stopped" | "running";
  /** The libvirt URI of the site, whatever its state. */
  readonly uri: string;
  /** The site's ssh configuration, for `ssh -F`. */
  readonly sshConfig: string;
  /** Names of the running guests. */
  readonly running: readonly string[];
}

/** The libvirt URI of the default site, which answers only while the site runs. */
export function defaultSiteUri(): string {
  return socketUri(sitePaths().socket);
}

/** What the default site is doing now. Needs no root and changes nothing. */
export async function siteStatus(): Promise<SiteStatus> {
  const { root, socket, gate, sshConfig } = sitePaths();
  const status = { uri: socketUri(socket), sshConfig, running: [] };
  if (!existsSync(root)) {
    return { ...status, state: "absent" };
  }
  try {
    const [running, networks, pools, open] = await Promise.all([
      virsh(socket, ["list", "--name"]),
      virsh(socket, ["net-list", "--name"]),
      virsh(socket, ["pool-list", "--name"]),
      gateAnswers(gate),
    ]);
    const complete = open && networks.includes(PUBLIC_NETWORK.name) && pools.includes(POOL.name);
    return { ...status, running, state: complete ? "running" : "stopped" };
  } catch {
    return { ...status, state: "stopped" };
  }
}

/**
 * Starts the default site, or what is missing of it. It lives in a network namespace and a folder of its own, and
 * survives this process; its guests marked autostart start with it.
 *
 * @returns the site's libvirt URI
 * @throws SetupError when it can't be started
 */
export async function startSite(progress: Progress = () => {}): Promise<string> {
  const site = sitePaths();
  const longest = Math.max(Buffer.byteLength(site.socket), Buffer.byteLength(site.gate));
  if (longest > LONGEST_SOCKET_PATH) {
    const excess = longest - LONGEST_SOCKET_PATH;
    throw new SetupError(
      `The default site's folder ${site.root} is ${excess} characters too long for a unix socket: set VIRTUAL_CLUSTER_HOME to a shorter one.`,
    );
  }
  mkdirSync(home(), { recursive: true, mode: 0o700 });
  if ((await siteStatus()).state !== "running") {
    await runHelper("start", "start the default site", progress);
  }
  writeSshConfig(sitePaths());
  return defaultSiteUri();
}

/**
 * Stops the default site: shuts its guests down (those that don't within 30 s are turned off), then libvirtd and
 * everything else in its namespace. What is on its disks stays.
 */
export async function stopSite(progress: Progress = () => {}): Promise<void> {
  if (existsSync(sitePaths().root)) {
    await runHelper("stop", "stop the default site", progress);
  }
}

/**
 * Stops the default site and deletes all that it keeps.
 *
 * @param options.force also when there are clusters on it, which are lost
 * @throws SetupError that names what is still on it
 */
export async function removeSite(options: { force?: boolean } = {}, progress: Progress = () => {}): Promise<void> {
  if (existsSync(sitePaths().root)) {
    await runHelper("remove", "remove the default site", progress, options.force ? ["--force"] : []);
  }
}

/** All that needs root is one program, run under a lock that is free again when it ends, however it ends. */
async function runHelper(
  operation: string,
  purpose: string,
  progress: Progress,
  options: string[] = [],
): Promise<void> {
  const { lock } = sitePaths();
  const user = [String(process.getuid?.()), String(process.getgid?.())];
  const helper = [process.execPath, join(__dirname, "site-helper.js"), operation, resolve(home()), ...user, ...options];
  const waiting = ["flock", "--close", "--wait", String(LOCK_LIMIT_S), "--conflict-exit-code", "75", lock];
  const [program = "", ...args] = [...(await rootPrefix(purpose)), ...waiting, ...helper];
  const running = execa(program, args, { stdin: "inherit", lines: true, reject: false });
  for await (const line of running) {
    progress(line);
  }
  const { failed, exitCode, stderr } = await running;
  if (exitCode === 75) {
    throw new SetupError(`Somebody else has been changing the default site for ${LOCK_LIMIT_S} s: try again later.`);
  }
  if (failed) {
    throw new SetupError(stderr.join("\n").trim() || `Could not ${purpose}.`);
  }
}
