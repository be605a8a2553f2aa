import type { NetworkContract } from "../drivers/driver";
import type { GuestFileSystem } from "../images/file-system";
import type { GuestChange, GuestFile } from "../images/overlay";
import { cloudInitSeed } from "./cloud-init";
import { configuredFiles } from "./configured-files";

/** What a node has to know before its first boot, and again before a boot with another network contract. */
export interface NodeSetUp {
  /** The machine's name at its site. */
  readonly name: string;
  readonly vcOut: string;
  readonly keys: NodeKeys;
}

/** The cluster's own keys, in OpenSSH's forms. They lie only on its nodes' disks. */
export interface NodeKeys {
  /** The ssh host key of all nodes. */
  readonly hostKey: KeyPair;
  /** Root's own key, with which nodes reach each other. */
  readonly rootKey: KeyPair;
}

interface KeyPair {
  readonly private: string;
  readonly public: string;
}

/** Where the cluster's own keys lie in a guest. */
export const KEY_FILES = {
  rootKey: "/etc/vc/id_ed25519",
  rootPublic: "/etc/vc/id_ed25519.pub",
  hostKey: "/etc/vc/ssh_host_ed25519_key",
  hostPublic: "/etc/vc/ssh_host_ed25519_key.pub",
} as const;

/**
 * What to change in a node's root file system so that the machine configures itself: its vc-out.xml and the cluster's keys
 * where something there reads them; else also what the image does read.
 * @param reads absent: `vc-out.xml`
 */
export async function nodeFiles(
  reads: NetworkContract | undefined,
  setUp: NodeSetUp,
  root: GuestFileSystem,
): Promise<readonly GuestChange[]> {
  const contract = contractFiles(setUp);
  switch (reads) {
    case "cloud-init":
      return [...contract, ...(await cloudInitSeed(setUp, contract))];
    case "files":
      return [...contract, ...(await configuredFiles(setUp, contract, root))];
    default:
      return contract;
  }
}

function contractFiles({ vcOut, keys }: NodeSetUp): readonly GuestFile[] {
  return [
    { path: "/root/vc-out.xml", content: vcOut, mode: 0o644 },
    { path: KEY_FILES.rootKey, content: keys.rootKey.private, mode: 0o600 },
    { path: KEY_FILES.rootPublic, content: `${keys.rootKey.public}\n`, mode: 0o644 },
    { path: KEY_FILES.hostKey, content: keys.hostKey.private, mode: 0o600 },
    { path: KEY_FILES.hostPublic, content: `${keys.hostKey.public}\n`, mode: 0o644 },
  ];
}
