import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import type { KeyPair, PrivateKeys } from "../node-files/set-up";
import { inTemporaryFolder } from "../temporary-folder";
import type { ClusterKeys } from "./driver";

export async function makeKeys(cluster: string): Promise<PrivateKeys> {
  const [hostKey, rootKey] = await Promise.all([makeKeyPair("host"), makeKeyPair(`root@${cluster}`)]);
  return { hostKey, rootKey };
}

export function publicHalves({ hostKey, rootKey }: PrivateKeys): ClusterKeys {
  return { hostKey: hostKey.public, rootKey: rootKey.public };
}

/** Keys as they were written down, undefined where that is damaged. */
export function parseKeys(content: string | undefined): PrivateKeys | undefined {
  try {
    const keys = JSON.parse(content ?? "") as Partial<PrivateKeys>;
    const whole = [keys.hostKey, keys.rootKey].every((pair) => pair?.private && pair.public);
    return whole ? (keys as PrivateKeys) : undefined;
  } catch {
    return undefined;
  }
}

async function makeKeyPair(comment: string): Promise<KeyPair> {
  return inTemporaryFolder(async (folder) => {
    const file = join(folder, "key");
    await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file], { stdin: "ignore" });
    const [secret, open] = await Promise.all([readFile(file, "utf8"), readFile(`${file}.pub`, "utf8")]);
    return { private: secret, public: open.trim().split(" ").slice(0, 2).join(" ") };
  });
}
