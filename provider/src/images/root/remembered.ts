import { posix } from "node:path";
import { InvalidImage } from "../../drivers/errors";
import type { GuestEntry, GuestFileSystem } from "./file-system";

/** For all that is asked of one, seconds; an honest one takes two. */
const MOST_SECONDS = 120;

/**
 * A guest's file system that nobody changes meanwhile: what has been asked once isn't asked again. One whose every answer
 * takes long is given up.
 */
export class RememberedFileSystem implements GuestFileSystem {
  private readonly folders = new Map<string, Promise<readonly GuestEntry[]>>();
  private readonly texts = new Map<string, Promise<string>>();
  private readonly deadline = performance.now() + MOST_SECONDS * 1000;

  /** @param disk its file, for messages */
  constructor(
    private readonly disk: string,
    private readonly root: GuestFileSystem,
  ) {}

  /** @throws InvalidImage for one with nothing in it, which is what a damaged one looks like */
  async refuseEmpty(): Promise<void> {
    if ((await this.list("/")).length === 0) {
      throw new InvalidImage(
        `disk ${this.disk}`,
        "its root file system is empty or damaged: it has no folder at all",
        "Run e2fsck on it, or copy the disk again",
      );
    }
  }

  async list(folder: string): Promise<readonly GuestEntry[]> {
    if (performance.now() > this.deadline) {
      throw new InvalidImage(
        `disk ${this.disk}`,
        `its root file system takes more than ${MOST_SECONDS} s to be looked into`,
        "Run e2fsck on it: it may be damaged",
      );
    }
    // Most of what is looked for isn't there, nor is the folder that it would be in.
    const isThere = folder === "/" || (await this.has(folder));
    return isThere ? remembered(this.folders, folder, () => this.root.list(folder)) : [];
  }

  async has(path: string): Promise<boolean> {
    const entries = await this.list(posix.dirname(path));
    return entries.some(({ name }) => name === posix.basename(path));
  }

  async read(path: string): Promise<string> {
    return (await this.isFile(path)) ? remembered(this.texts, path, () => this.root.read(path)) : "";
  }

  async readBytes(path: string, atMost?: number): Promise<Buffer> {
    return (await this.isFile(path)) ? this.root.readBytes(path, atMost) : Buffer.alloc(0);
  }

  async linkTarget(path: string): Promise<string> {
    return (await this.kindOf(path)) === "link" ? this.root.linkTarget(path) : "";
  }

  private async isFile(path: string): Promise<boolean> {
    return (await this.kindOf(path)) === "file";
  }

  private async kindOf(path: string): Promise<GuestEntry["kind"] | undefined> {
    const entries = await this.list(posix.dirname(path));
    return entries.find(({ name }) => name === posix.basename(path))?.kind;
  }
}

function remembered<T>(known: Map<string, Promise<T>>, path: string, ask: () => Promise<T>): Promise<T> {
  const answer = known.get(path) ?? ask();
  known.set(path, answer);
  return answer;
}
