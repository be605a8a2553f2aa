import type { NetworkContract } from "../drivers/driver";
import type { GuestChange, GuestFile } from "../images/disk/inject";
import type { GuestFileSystem } from "../images/root/file-system";
import { cloudInitSeed } from "./cloud-init";
import { configuredFiles } from "./configured-files";
import { KEY_FILES, type NodeSetUp } from "./set-up";

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
