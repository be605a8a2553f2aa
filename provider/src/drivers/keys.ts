import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import type { GuestFile } from "../images/overlay";
import { inTemporaryFolder } from "../temporary-folder";
import type { ClusterKeys } from "./driver";

/** The cluster's own key pairs: they lie at its site and on its disks, and nowhere else. */
export interface PrivateKeys {
  /** The ssh host key of all nodes. */
  readonly hostKey: KeyPair;
  /** Root's own, with which nodes reach each other. */
  readonly rootKey: KeyPair;
}

export interface KeyPair {
  readonly private: string;
  readonly public: string;
}

/** Where they lie in a guest. */
export const KEY_FILES = {
  rootKey: "/etc/vc/id_ed25519",
  rootPublic: "/etc/vc/id_ed25519.pub",
  hostKey: "/etc/vc/ssh_host_ed25519_key",
  hostPublic: "/etc/vc/ssh_host_ed25519_key.pub",
} as const;

/** What a new node's disk gets. */
export function guestFiles(vcOut: string, keys: PrivateKeys): GuestFile[] {
  return [
    vcOutFile(vcOut),
    { path: KEY_FILES.rootKey, content: keys.rootKey.private, mode: 0o600 },
    { path: KEY_FILES.rootPublic, content: `${keys.rootKey.public}\n`, mode: 0o644 },
    { path: KEY_FILES.hostKey, content: keys.hostKey.private, mode: 0o600 },
    { path: KEY_FILES.hostPublic, content: `${keys.hostKey.public}\n`, mode: 0o644 },
  ];
}

export function vcOutFile(content: string): GuestFile {
  return { path: "/root/vc-out.xml", content, mode: 0o644 };
}

export function publicHalves({ hostKey, rootKey }: PrivateKeys): ClusterKeys {
  return { hostKey: hostKey.public, rootKey: rootKey.public };
}

/** New ones. */
export async function makeKeys(cluster: string): Promise<PrivateKeys> {
  const [hostKey, rootKey] = await Promise.all([makeKeyPair("host"), makeKeyPair(`root@${cluster}`)]);
  return { hostKey, rootKey };
}

async function makeKeyPair(comment: string): Promise<KeyPair> {
  return inTemporaryFolder(async (folder) => {
    const file = join(folder, "key");
    await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file], { stdin: "ignore" });
    const [secret, open] = await Promise.all([readFile(file, "utf8"), readFile(`${file}.pub`, "utf8")]);
    return { private: secret, public: open.trim().split(" ").slice(0, 2).join(" ") };
  });
}

/** Keys as `JSON.stringify` wrote them; undefined for what isn't whole. */
export function parseKeys(content: string | undefined): PrivateKeys | undefined {
  try {
    const keys = JSON.parse(content ?? "") as Partial<PrivateKeys>;
    const whole = [keys.hostKey, keys.rootKey].every((pair) => pair?.private && pair.public);
    return whole ? (keys as PrivateKeys) : undefined;
  } catch {
    return undefined;
  }
}
