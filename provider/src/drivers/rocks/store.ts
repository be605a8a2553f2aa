import type { Change } from "../../images/disk/changes";
import type { PrivateKeys } from "../../node-files/set-up";
import { parseKeys } from "../cluster-keys";
import type { ClusterRecord, Mark } from "../driver";
import { SiteFailure } from "../errors";
import type { RocksFrontend } from "./frontend";

/** What our folder on the Rocks frontend says of a cluster. */
export interface ClusterFile {
  readonly record: ClusterRecord;
  readonly vlan: number;
  /** The container of each node that has a virtual machine in Rocks' tables, or is about to. */
  readonly hosts: Readonly<Record<string, string>>;
}

/** What our folder on the Rocks frontend says of a machine, from its first boot until it is removed. */
export interface NodeFile {
  readonly cluster: string;
  readonly node: string;
  readonly mark: Mark;
  readonly machineId: string;
  readonly host: string;
  /** Digest of the image's disk that it was made from. */
  readonly base: string;
  /** `filling`: the disk isn't whole yet. `replacing`: a part of it is being exchanged, from a file beside it. */
  readonly disk?: "filling" | "replacing";
  readonly changes?: readonly Change[];
  /** Whether only its disk is left: its cluster was released and the disk kept. */
  readonly orphan?: true;
  readonly vcOutDigest: string;
  readonly vcOutWaits?: true;
  /** The shape that it was started with last: Rocks only knows what the next start would give it. */
  readonly started?: { readonly cpus: number; readonly memory: number };
  /** MiB, as last seen. */
  readonly diskSize?: number;
}

export interface StoreContent {
  readonly clusters: ReadonlyMap<string, ClusterFile>;
  readonly nodes: readonly NodeFile[];
  /** Clusters that have keys. */
  readonly keys: ReadonlySet<string>;
  /** Whose locks are held, or were by a process that was killed. */
  readonly locks: ReadonlyMap<string, ClusterRecord["mark"]>;
}

/** Closed to others but for those who know a name in it: QEMU runs as a user of its own, whose disk libvirt gives to it. */
export const MAKE_FOLDER = `umask 066
mkdir -p "$1"
umask 077
`;

/** Writes what comes as its input; in one act, so that a file is whole or not there. */
const WRITE = `set -e
${MAKE_FOLDER}cd "$1"
cat > ".$2.part"
mv -f ".$2.part" "$2"
`;

/** Prints files, each on one line behind its name. A folder that isn't there has none; one may go meanwhile. */
const READ = `cd "$1" 2>/dev/null || exit 0
shift
for pattern; do
  for file in $pattern; do
    [ -f "$file" ] || continue
    case $file in *.keys) content='""' ;; *) content=$(cat "$file" 2>/dev/null) || continue ;; esac
    printf '%s\\t%s\\n' "$file" "$content"
  done
done
`;

const REMOVE = `cd "$1" 2>/dev/null || exit 0
shift
rm -f -- "$@"
`;

/**
 * Our folder on the Rocks frontend. Files are written in one act (`rename`), and only ever under the lock of their cluster.
 * Their names begin with the cluster's, which has no dot.
 */
export class Store {
  constructor(
    private readonly frontend: RocksFrontend,
    readonly folder: string,
  ) {}

  /** One request. @param clusters those whose files are read; all where there are none named */
  async read(clusters: readonly string[] = ["*"]): Promise<StoreContent> {
    const patterns = clusters.flatMap((name) =>
      [".cluster.json", ".keys", ".lock", ".*.node.json"].map((ending) => `${name}${ending}`),
    );
    return contentOf(await this.frontend.script(READ, [this.folder, ...patterns]));
  }

  async writeCluster(file: ClusterFile): Promise<void> {
    await this.write(`${file.record.name}.cluster.json`, JSON.stringify(file));
  }

  async writeNode(file: NodeFile): Promise<void> {
    await this.write(nodeFile(file.cluster, file.node), JSON.stringify(file));
  }

  async removeNode(cluster: string, node: string): Promise<void> {
    await this.remove(nodeFile(cluster, node));
  }

  async removeCluster(cluster: string, options: { readonly keepKeys: boolean }): Promise<void> {
    // The record goes last, so that what was cut off can be taken up again.
    await this.remove(...(options.keepKeys ? [] : [`${cluster}.keys`]), `${cluster}.cluster.json`);
  }

  async readKeys(cluster: string): Promise<PrivateKeys | undefined> {
    const text = await this.frontend.script(`cat -- "$1/$2" 2>/dev/null || true`, [this.folder, `${cluster}.keys`]);
    return parseKeys(text);
  }

  async writeKeys(cluster: string, keys: PrivateKeys): Promise<void> {
    await this.write(`${cluster}.keys`, JSON.stringify(keys));
  }

  async removeKeys(cluster: string): Promise<void> {
    await this.remove(`${cluster}.keys`);
  }

  private async write(name: string, content: string): Promise<void> {
    await this.frontend.script(WRITE, [this.folder, name], { input: content });
  }

  private async remove(...names: readonly string[]): Promise<void> {
    await this.frontend.script(REMOVE, [this.folder, ...names]);
  }
}

function nodeFile(cluster: string, node: string): string {
  return `${cluster}.${node}.node.json`;
}

function contentOf(output: string): StoreContent {
  const clusters = new Map<string, ClusterFile>();
  const nodes: NodeFile[] = [];
  const keys = new Set<string>();
  const locks = new Map<string, ClusterRecord["mark"]>();
  for (const line of output.split("\n").filter(Boolean)) {
    const [name = "", content = ""] = line.split("\t", 2);
    const [cluster = ""] = name.split(".");
    if (name.endsWith(".keys")) {
      keys.add(cluster);
    } else if (name.endsWith(".lock")) {
      const { mark } = parse<{ mark?: ClusterRecord["mark"] }>(name, content || "{}");
      if (mark) {
        locks.set(cluster, mark);
      }
    } else if (name.endsWith(".cluster.json")) {
      clusters.set(cluster, parse<ClusterFile>(name, content));
    } else {
      nodes.push(parse<NodeFile>(name, content));
    }
  }
  return { clusters, nodes, keys, locks };
}

function parse<T>(name: string, content: string): T {
  try {
    return JSON.parse(content) as T;
  } catch {
    throw new SiteFailure(`the file ${name} of the Rocks frontend's`, "can't be read: it isn't as it was written");
  }
}
