import { homedir } from "node:os";
import { join } from "node:path";

/**
 * The folder of the user's things: Pulumi state, passphrase, an ssh key where they have none, demo images, the default
 * site. `$VIRTUAL_CLUSTER_HOME`, default `~/.virtual-cluster`.
 */
export function home(...path: string[]): string {
  return join(process.env.VIRTUAL_CLUSTER_HOME || join(homedir(), ".virtual-cluster"), ...path);
}
