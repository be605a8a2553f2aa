import { mkdirSync, realpathSync } from "node:fs";
import { mkdtemp, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, extname, join } from "node:path";
import { execaSync } from "execa";
import { isProgram, onPath } from "./programs";
import { buildPulumi } from "./pulumi-build";
import { downloadPulumi } from "./pulumi-download";
import { type Progress, SetupError } from "./setup-error";
import { isAtLeast } from "./version";

/** The version that is installed where there is none, and npm's launcher of the same version looks for. */
export const PULUMI_VERSION = "3.250.0";

/** The oldest CLI that is used when found on PATH: its refresh takes over inputs that a provider's `read` returns. */
const OLDEST_VERSION = "3.216.0";

/** A Pulumi CLI that runs programs for Node. Its folder has to be on PATH, as the language host may lie beside it. */
export interface PulumiCli {
  /** Absolute path of the program. */
  readonly path: string;
  readonly version: string;
}

/**
 * The Pulumi CLI to use: the one on PATH if it is recent and has its language host for Node, else the one in the folder
 * of npm's launcher.
 */
export function findPulumiCli(): PulumiCli | undefined {
  return findOnPath() ?? findInstalled();
}

/** The Pulumi CLI, downloaded or built if there is none. @throws SetupError when it can't be had */
export async function ensurePulumiCli(progress: Progress): Promise<PulumiCli> {
  const found = findPulumiCli();
  if (found) {
    return found;
  }
  const target = versionFolder();
  mkdirSync(dirname(target), { recursive: true });
  const workspace = await mkdtemp(join(dirname(target), ".unfinished-"));
  try {
    const made =
      (await downloadPulumi(PULUMI_VERSION, workspace, progress)) ??
      (await buildPulumi(PULUMI_VERSION, workspace, progress));
    await rm(target, { recursive: true, force: true });
    await rename(made, target);
  } finally {
    await rm(workspace, { recursive: true, force: true });
  }
  const installed = findInstalled();
  if (!installed) {
    throw new SetupError(`The Pulumi CLI in ${target} isn't whole: remove that folder and run this again.`);
  }
  return installed;
}

/** Where npm's launcher looks: the folder of one version, with the programs in `bin`. */
function versionFolder(): string {
  return join(process.env.PULUMI_HOME || join(homedir(), ".pulumi"), "versions", PULUMI_VERSION);
}

function findInstalled(): PulumiCli | undefined {
  const bin = join(versionFolder(), "bin");
  const whole = ["pulumi", "pulumi-language-nodejs"].every((name) => isProgram(join(bin, name)));
  return whole ? { path: join(bin, "pulumi"), version: PULUMI_VERSION } : undefined;
}

function findOnPath(): PulumiCli | undefined {
  // Scripts for Node are launchers from npm packages, this project's among them: they only lead back here.
  const path = onPath("pulumi").find((file) => ![".js", ".mjs", ".cjs"].includes(extname(realpathSync(file))));
  if (path === undefined) {
    return undefined;
  }
  const besideIt = join(dirname(realpathSync(path)), "pulumi-language-nodejs");
  if (!isProgram(besideIt) && onPath("pulumi-language-nodejs").length === 0) {
    return undefined;
  }
  const { stdout } = execaSync(path, ["version"], {
    env: { PULUMI_SKIP_UPDATE_CHECK: "1" },
    timeout: 20_000,
    reject: false,
  });
  const version = /^v?(\d+\.\d+\.\d+)/.exec(stdout ?? "")?.[1];
  return version && isAtLeast(version, OLDEST_VERSION) ? { path, version } : undefined;
}
