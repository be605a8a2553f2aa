import { createHash } from "node:crypto";
import { readFile, realpath, rm, writeFile } from "node:fs/promises";
import { hostname, userInfo } from "node:os";
import { join } from "node:path";
import type { ClusterRef, Mark } from "../drivers/driver";

/** Which cluster a temporary directory belongs to: all that the programs share between their runs; the rest is at the site. */
export interface ClusterFile extends ClusterRef {
  readonly mark: Mark;
}

const NAME = "virtual-cluster.json";

export async function readClusterFile(temporaryDirectory: string): Promise<ClusterFile | undefined> {
  try {
    return JSON.parse(await readFile(join(temporaryDirectory, NAME), "utf8")) as ClusterFile;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      return undefined;
    }
    throw error;
  }
}

/** The contract gives no cluster a name. Its temporary directory is its own, and so the name follows from that. */
export async function makeClusterFile(temporaryDirectory: string): Promise<ClusterFile> {
  const known = await readClusterFile(temporaryDirectory);
  if (known) {
    return known;
  }
  const folder = await realpath(temporaryDirectory);
  const hash = createHash("sha256")
    .update(JSON.stringify([hostname(), folder]))
    .digest("hex");
  const name = `vc-${hash.slice(0, 8)}`;
  const mark: Mark = {
    version: 1,
    owner: `${userInfo().username}@${hostname()}`,
    organization: "programs",
    project: "programs",
    stack: folder,
    cluster: name,
    createdAt: new Date().toISOString(),
  };
  await writeFile(join(temporaryDirectory, NAME), JSON.stringify({ name, mark }));
  return { name, mark };
}

export async function removeClusterFile(temporaryDirectory: string): Promise<void> {
  await rm(join(temporaryDirectory, NAME), { force: true });
}
