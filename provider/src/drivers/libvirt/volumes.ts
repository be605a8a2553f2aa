import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { inTemporaryFolder } from "../../temporary-folder";
import { NotFound, SiteFailure } from "../errors";
import { AlreadyThere, type Virsh } from "./virsh";
import { parsePoolPath } from "./xml";

/** The volumes of one storage pool. All goes through libvirt, so the pool may be on another host or closed to this user. */
export class Volumes {
  private folder: Promise<string> | undefined;

  constructor(
    private readonly virsh: Virsh,
    readonly pool: string,
  ) {}

  /** Where a volume lies at the site. */
  async pathOf(name: string): Promise<string> {
    this.folder ??= this.virsh.run(["pool-dumpxml", this.pool]).then(parsePoolPath);
    try {
      return join(await this.folder, name);
    } catch (error) {
      this.folder = undefined;
      throw error;
    }
  }

  /** Lets libvirt look for files in the pool that it hasn't made itself. It doesn't while it is busy there. */
  async refresh(): Promise<void> {
    await this.virsh.run(["pool-refresh", this.pool]).catch((error) => {
      if (!(error instanceof SiteFailure)) {
        throw error;
      }
    });
  }

  /** The bytes that each of these holds, holes left out; undefined where there is none of that name. One virsh run. */
  async allocated(...names: readonly string[]): Promise<Array<number | undefined>> {
    const infos = await this.virsh.batch(names.map((name) => ["vol-info", "--bytes", "--pool", this.pool, name]));
    return infos.map((info) => {
      const [, bytes] = /^Allocation:\s+(\d+)/m.exec(info) ?? [];
      return bytes === undefined ? undefined : Number(bytes);
    });
  }

  async list(): Promise<Set<string>> {
    const lines = (await this.virsh.run(["vol-list", this.pool])).split("\n");
    return new Set(lines.map((line) => line.trim().split(/\s+/)[0] ?? "").filter(Boolean));
  }

  /**
   * Makes a volume: a plain file, whatever its content will be.
   * @returns whether it was made now; false when there was one of that name
   */
  async create(name: string, bytes: number): Promise<boolean> {
    try {
      await this.virsh.run(["vol-create-as", this.pool, name, `${bytes}b`, "--allocation", "0", "--format", "raw"]);
      return true;
    } catch (error) {
      if (error instanceof AlreadyThere) {
        return false;
      }
      throw error;
    }
  }

  /**
   * Makes volumes and fills them, in one virsh run. Volumes of these names are leftovers and made anew.
   * @param volumes `file` is what goes in; without one the volume stays empty
   */
  async store(
    volumes: ReadonlyArray<{ readonly name: string; readonly bytes: number; readonly file?: string }>,
  ): Promise<void> {
    const commands = volumes.flatMap(({ name, bytes, file }) => [
      ["vol-create-as", this.pool, name, `${bytes}b`, "--allocation", "0", "--format", "raw"],
      ...(file ? [["vol-upload", "--pool", this.pool, name, file]] : []),
    ]);
    try {
      await this.virsh.sequence(commands);
    } catch (error) {
      if (!(error instanceof AlreadyThere)) {
        throw error;
      }
      await this.remove(...volumes.map(({ name }) => name));
      await this.virsh.sequence(commands);
    }
  }

  async upload(name: string, file: string, options: { sparse?: boolean; timeoutSeconds?: number } = {}): Promise<void> {
    await this.virsh.run(["vol-upload", "--pool", this.pool, name, file, ...(options.sparse ? ["--sparse"] : [])], {
      endsWithUs: true,
      ...(options.timeoutSeconds && { timeoutSeconds: options.timeoutSeconds }),
    });
  }

  /** @returns false when there was no such volume */
  async download(
    name: string,
    file: string,
    options: { sparse?: boolean; timeoutSeconds?: number } = {},
  ): Promise<boolean> {
    const done = await this.virsh.runIfThere(
      ["vol-download", "--pool", this.pool, name, file, ...(options.sparse ? ["--sparse"] : [])],
      options.timeoutSeconds ? { timeoutSeconds: options.timeoutSeconds } : {},
    );
    return done !== undefined;
  }

  /** A volume's content, undefined when there is none of that name. */
  async read(name: string): Promise<string | undefined> {
    return inTemporaryFolder(async (folder) => {
      const file = join(folder, "volume");
      return (await this.download(name, file)) ? readFile(file, "utf8") : undefined;
    });
  }

  /** In one virsh run. Already gone is success. */
  async remove(...names: readonly string[]): Promise<void> {
    await this.virsh.batch(names.map((name) => ["vol-delete", "--pool", this.pool, name]));
  }

  /** @throws NotFound with the pools that are there */
  async refuseMissingPool(): Promise<void> {
    const pools = (await this.virsh.run(["pool-list", "--name"]))
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
    if (!pools.includes(this.pool)) {
      throw new NotFound(
        `site.pool ${JSON.stringify(this.pool)}`,
        "is not an active storage pool of this libvirt",
        `Active ones: ${pools.join(", ") || "none"}`,
      );
    }
  }
}
