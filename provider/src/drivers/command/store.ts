import { randomUUID } from "node:crypto";
import { link, mkdir, readdir, readFile, rename, rm, stat, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CLUSTER_NAME } from "../../plan/names";
import type { ClusterRecord, Mark, NodeState } from "../driver";
import { ForeignOwner, SiteFailure, Unreachable } from "../errors";

/** What is written down of a cluster. */
export interface Entry {
  readonly record: ClusterRecord;
  /** Whether the site's program `allocate` has ended well. */
  readonly allocated: boolean;
  /** What the site was last asked for, to know a change. */
  readonly request: Request;
  /** What `fix_images` said, and of which image. */
  readonly disks?: { readonly of: string; readonly frontend: string; readonly compute: string };
}

export interface Request {
  readonly numCpus: number;
  readonly vcIn: string;
  readonly keys: string;
}

/** What is written down of a node: the site's programs tell only whether it runs. */
export interface Note {
  /** By which the site's programs know it. */
  readonly hostName: string;
  /** Whether `boot` hasn't come to its end yet. */
  readonly booting: boolean;
  /** As it was left: what holds where the site has no program `status`. */
  readonly state: NodeState;
  readonly cpus: number;
  readonly memory: number;
  /** MiB. */
  readonly diskSize: number;
  readonly macs: readonly string[];
  readonly machineId: string;
  readonly vcOutDigest: string;
  readonly vcOutWaits: boolean;
  readonly mark: Mark;
}

const FOLDER = "virtual-clusters";

/** What this driver remembers of a site: a folder below the site's temporary directory, and in that one for each cluster. */
export class Store {
  private readonly root: string;

  constructor(private readonly temporaryDirectory: string) {
    this.root = join(temporaryDirectory, FOLDER);
  }

  /**
   * A site has no name of its own: this is what it was given when it was first used.
   * @throws Unreachable where the temporary directory isn't there; it may be a file system that isn't mounted
   */
  async siteId(): Promise<string> {
    await this.refuseMissing();
    const file = join(this.root, ".site-id");
    const known = await readText(file);
    if (known !== undefined) {
      return known.trim();
    }
    await mkdir(this.root, { recursive: true });
    const own = `${file}.${randomUUID()}`;
    await writeFile(own, `${randomUUID()}\n`);
    // Of several at once, one is first.
    await link(own, file).catch(ignoring("EEXIST"));
    await unlink(own);
    return (await readFile(file, "utf8")).trim();
  }

  async refuseMissing(): Promise<void> {
    const found = await stat(this.temporaryDirectory).catch(() => undefined);
    if (!found?.isDirectory()) {
      throw new Unreachable(
        `the site's temporary directory ${this.temporaryDirectory}`,
        "isn't there",
        "Mount or make it, or name another in site.temporaryDirectory",
      );
    }
  }

  lockFile(cluster: string): string {
    return join(this.root, ".locks", cluster);
  }

  /** The folder that is one cluster's. */
  folder(cluster: string, ...path: string[]): string {
    return join(this.root, cluster, ...path);
  }

  /** Where the site's programs work: their temporary directory. */
  work(cluster: string, ...path: string[]): string {
    return this.folder(cluster, "work", ...path);
  }

  /** Where the frontend's vc-out.xml lies. */
  vcOut(cluster: string): string {
    return this.work(cluster, "vc-out.xml");
  }

  async clusters(): Promise<string[]> {
    await this.refuseMissing();
    const names = await readdir(this.root).catch(ignoring("ENOENT", []));
    return names.filter((name) => CLUSTER_NAME.test(name)).sort();
  }

  /** @throws ForeignOwner for a folder in which nothing is written down */
  async entry(cluster: string): Promise<Entry | undefined> {
    await this.refuseMissing();
    const file = this.folder(cluster, "record.json");
    const text = await readText(file);
    if (text !== undefined) {
      return parse<Entry>(text, file);
    }
    if (await stat(this.folder(cluster)).catch(() => undefined)) {
      throw new ForeignOwner(
        `folder ${this.folder(cluster)}`,
        "exists and carries no mark of a virtual cluster",
        "Give this cluster another clusterName",
      );
    }
    return undefined;
  }

  /** @returns false where somebody has made one of that name meanwhile */
  async create(cluster: string, entry: Entry): Promise<boolean> {
    const folder = join(this.root, `.${randomUUID()}`);
    await mkdir(join(folder, "work"), { recursive: true });
    await mkdir(join(folder, "nodes"));
    await writeFile(join(folder, "record.json"), JSON.stringify(entry));
    try {
      await rename(folder, this.folder(cluster));
      return true;
    } catch (error) {
      await rm(folder, { recursive: true });
      ignoring("ENOTEMPTY", undefined, "EEXIST")(error);
      return false;
    }
  }

  write(cluster: string, entry: Entry): Promise<void> {
    return replace(this.folder(cluster, "record.json"), JSON.stringify(entry));
  }

  /** The record goes last, so that what was cut off is taken up again. */
  async remove(cluster: string): Promise<void> {
    for (const name of await readdir(this.folder(cluster)).catch(ignoring("ENOENT", []))) {
      if (name !== "record.json") {
        await rm(this.folder(cluster, name), { recursive: true });
      }
    }
    await rm(this.folder(cluster), { recursive: true, force: true });
  }

  async notes(cluster: string): Promise<Map<string, Note>> {
    const folder = this.folder(cluster, "nodes");
    const names = (await readdir(folder).catch(ignoring("ENOENT", []))).filter((name) => name.endsWith(".json"));
    const notes = await Promise.all(
      names.map(async (name) => {
        const text = await readText(join(folder, name));
        return [name.slice(0, -".json".length), text && parse<Note>(text, join(folder, name))] as const;
      }),
    );
    // One that went meanwhile has no text.
    return new Map(notes.flatMap(([node, note]) => (note ? [[node, note] as const] : [])));
  }

  async writeNote(cluster: string, node: string, note: Note): Promise<void> {
    await replace(this.folder(cluster, "nodes", `${node}.json`), JSON.stringify(note));
  }

  async removeNote(cluster: string, node: string): Promise<void> {
    await rm(this.folder(cluster, "nodes", `${node}.json`), { force: true });
  }

  /** Puts a link beside the cluster's vc-in.xml, in place of a former one. */
  async linkDisk(cluster: string, name: string, disk: string): Promise<void> {
    const own = this.folder(cluster, `.${randomUUID()}`);
    await symlink(disk, own);
    await rename(own, this.folder(cluster, name));
  }

  async writeInput(cluster: string, name: string, content: string): Promise<string> {
    const file = this.folder(cluster, name);
    await replace(file, content);
    return file;
  }
}

async function replace(file: string, content: string): Promise<void> {
  const own = `${file}.${randomUUID()}`;
  await writeFile(own, content);
  await rename(own, file);
}

async function readText(file: string): Promise<string | undefined> {
  return readFile(file, "utf8").catch(ignoring("ENOENT", undefined));
}

function parse<T>(text: string, file: string): T {
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new SiteFailure(file, "is damaged", "Bring it back from a copy; the site's machines are as they were");
  }
}

/** For `catch`: the value instead of an error with this code. */
function ignoring<T = undefined>(code: string, value?: T, otherCode?: string): (error: unknown) => T {
  return (error) => {
    const { code: found } = error as NodeJS.ErrnoException;
    if (found !== code && (otherCode === undefined || found !== otherCode)) {
      throw error;
    }
    return value as T;
  };
}
