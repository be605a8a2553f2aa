import { existsSync, mkdirSync } from "node:fs";
import { delimiter, dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { home } from "../home";
import type { PulumiCli } from "./pulumi-cli";

/**
 * The environment in which the CLI runs: what the user has set stays; else the state lies in a folder of the user's,
 * encrypted with the passphrase that the quickstart made, and programs start without a type check (the engine's fast
 * mode, 1.3 s sooner).
 */
export function pulumiEnvironment(cli: PulumiCli, environment: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const state = home("pulumi");
  const passphrase = home("passphrase");
  const hasPassphrase = "PULUMI_CONFIG_PASSPHRASE" in environment || !existsSync(passphrase);
  mkdirSync(state, { recursive: true });
  return {
    PULUMI_BACKEND_URL: pathToFileURL(state).href,
    ...(hasPassphrase ? {} : { PULUMI_CONFIG_PASSPHRASE_FILE: passphrase }),
    PULUMI_NODEJS_TRANSPILE_ONLY: "true",
    PULUMI_SKIP_UPDATE_CHECK: "1",
    ...environment,
    PATH: `${dirname(cli.path)}${delimiter}${environment.PATH ?? ""}`,
  };
}
