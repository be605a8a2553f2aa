import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import { home } from "../home";

/** Where the parts of a default site are. */
export interface SitePaths {
  /** The folder of everything that the site keeps. */
  readonly root: string;
  /** libvirt's unix socket, as seen from outside the site's namespaces. */
  readonly socket: string;
  /** The unix socket through which ssh reaches guests (see gate.ts). */
  readonly gate: string;
  /** An ssh configuration that goes through the gate. */
  readonly sshConfig: string;
  /** What libvirtd prints before it has a log of its own. */
  readonly log: string;
  readonly gateLog: string;
  /** Held by whoever starts, stops or removes the site; beside the site's folder because that one comes and goes. */
  readonly lock: string;
  /** Name of the network namespace: from the folder, so that sites of several folders live side by side. */
  readonly namespace: string;
}

/** The parts of the default site of a home folder, by default the user's. */
export function sitePaths(homeFolder = home()): SitePaths {
  const base = realPath(resolve(homeFolder));
  const root = join(base, "site");
  return {
    root,
    socket: join(root, "run", "libvirt-sock"),
    gate: join(root, "gate.sock"),
    sshConfig: join(root, "ssh_config"),
    log: join(root, "site.log"),
    gateLog: join(root, "gate.log"),
    lock: join(base, "site.lock"),
    namespace: `vc-${createHash("sha256").update(base).digest("hex").slice(0, 10)}`,
  };
}

/** One folder reached by two paths is one site. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}
