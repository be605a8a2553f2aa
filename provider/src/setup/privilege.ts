import { execa } from "execa";
import { SetupError } from "./setup-error";

/** Whether this process is root. */
export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/**
 * What to put before a command so that it runs as root: nothing for root, else `sudo`, which asks for a password only
 * where there is a terminal to ask on.
 *
 * @param purpose completes "root is needed to …"
 * @throws SetupError where root can't be had
 */
export async function rootPrefix(purpose: string): Promise<string[]> {
  if (isRoot()) {
    return [];
  }
  const sudo = await execa("sudo", ["-n", "true"], { reject: false });
  if (sudo.code === "ENOENT") {
    throw new SetupError(`Root is needed to ${purpose}: run this as root, or install sudo.`);
  }
  if (!sudo.failed) {
    return ["sudo", "-n"];
  }
  if (!process.stdin.isTTY) {
    throw new SetupError(`Root is needed to ${purpose}: run this as root, or in a terminal where sudo can ask.`);
  }
  return ["sudo"];
}
