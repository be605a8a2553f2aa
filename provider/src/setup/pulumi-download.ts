import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { home } from "../home";
import type { Progress } from "./setup-error";

const RELEASES = "https://get.pulumi.com/install.sh";
const REACH_LIMIT_MS = 8_000;
const DOWNLOAD_LIMIT_MS = 600_000;

/**
 * Lets npm's `pulumi` launcher download a release of the CLI.
 *
 * @returns the folder of that version inside `workspace`, or undefined where it can't be downloaded
 */
export async function downloadPulumi(
  version: string,
  workspace: string,
  progress: Progress,
): Promise<string | undefined> {
  if (!(await canReach(RELEASES))) {
    progress("Pulumi's releases can't be reached from here");
    return undefined;
  }
  const launcher = home("pulumi-launcher");
  await mkdir(launcher, { recursive: true });
  progress(`downloading the Pulumi CLI ${version}`);
  const options = ["--no-audit", "--no-fund", "--no-save", "--ignore-scripts"];
  const installed = await execa("npm", ["install", "--prefix", launcher, ...options, `pulumi@${version}`], {
    stdin: "ignore",
    reject: false,
  });
  if (installed.failed) {
    progress(`npm can't install Pulumi's launcher: ${installed.stderr.split("\n").at(-1)}`);
    return undefined;
  }
  const run = await execa(process.execPath, [join(launcher, "node_modules", "pulumi", "run.js"), "version"], {
    env: { PULUMI_HOME: workspace, PULUMI_VERSION: version, PULUMI_SKIP_UPDATE_CHECK: "1" },
    timeout: DOWNLOAD_LIMIT_MS,
    stdin: "ignore",
    reject: false,
  });
  const folder = join(workspace, "versions", version);
  if (run.failed || !existsSync(join(folder, "bin", "pulumi-language-nodejs"))) {
    progress(`the download failed: ${run.stderr.trim().split("\n").at(-1)}`);
    return undefined;
  }
  return folder;
}

async function canReach(url: string): Promise<boolean> {
  return fetch(url, { method: "HEAD", signal: AbortSignal.timeout(REACH_LIMIT_MS) }).then(
    ({ ok }) => ok,
    () => false,
  );
}
