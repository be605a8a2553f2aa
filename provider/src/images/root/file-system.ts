import { execa } from "execa";
import { InvalidImage } from "../../drivers/errors";
import { bounded } from "../disk/bounded";

/** More than any configuration file, program of a script's kind or list of modules has, bytes. */
export const MOST_OUTPUT = 8 * 1024 * 1024;
/** What a name may be made of here: nothing that debugfs takes apart, or that would be another place on this machine. */
const PLAIN_NAME = /^(?!\.{1,2}$)[A-Za-z0-9@._+~: -]+$/;

/** A command that debugfs takes for one, and the system for an argument. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const ONE_LINE = /^[^\x00-\x1f\x7f]{1,8192}$/;

/** What a folder of a guest holds. */
export interface GuestEntry {
  readonly name: string;
  readonly kind: "file" | "folder" | "link" | "other";
  /** Permission bits. */
  readonly mode: number;
  /** Bytes; 0 of a folder. */
  readonly size: number;
}

/**
 * The root file system of a guest, read without being mounted. Whoever made it may have put anything into it: its symbolic
 * links lead to nowhere but inside it, names that no honest one needs are passed over, and nobody reads more than a few MiB.
 */
export interface GuestFileSystem {
  /** Empty where there is no such folder. */
  list(folder: string): Promise<readonly GuestEntry[]>;
  /** Whether there is anything of that name. */
  has(path: string): Promise<boolean>;
  /** The text of a file; empty where there is none, or a link. */
  read(path: string): Promise<string>;
  /** @param atMost bytes; what is longer is cut off. Default: 8 MiB */
  readBytes(path: string, atMost?: number): Promise<Buffer>;
  /** Where a symbolic link leads to; empty where there is none, or it leads far: it can't be read then. */
  linkTarget(path: string): Promise<string>;
}

/** ext2, ext3 and ext4, read through debugfs. */
export class ExtFileSystem implements GuestFileSystem {
  /** @param target a file that holds the file system, and how many bytes from its start on */
  constructor(
    private readonly target: string,
    private readonly offset = 0,
  ) {}

  async list(folder: string): Promise<readonly GuestEntry[]> {
    // With a dot at its end, for debugfs takes a link in the last place for the link itself.
    const lines = (await this.debugfs(`ls -p ${quoted(`${folder === "/" ? "" : folder}/.`)}`))
      .toString("utf8")
      .split("\n");
    return lines.flatMap((line) => {
      const [, mode = "", name = "", size = ""] = /^\/\d+\/([0-7]{6})\/\d+\/\d+\/([^/]+)\/(\d*)\/$/.exec(line) ?? [];
      if (!isPlainName(name)) {
        return [];
      }
      return [
        { name, kind: KINDS[mode.slice(0, 2)] ?? "other", mode: Number.parseInt(mode, 8) & 0o7777, size: Number(size) },
      ];
    });
  }

  async has(path: string): Promise<boolean> {
    const [folder, name] = parted(path);
    return (await this.list(folder || "/")).some((entry) => entry.name === name);
  }

  async read(path: string): Promise<string> {
    return (await this.readBytes(path)).toString("utf8");
  }

  async readBytes(path: string, atMost = MOST_OUTPUT): Promise<Buffer> {
    const content = await this.debugfs(`cat ${quoted(plainly(path))}`, atMost);
    // Of a file that lies in its inode debugfs gives all that there is room for.
    return content.at(-1) === 0 ? content.subarray(0, await this.sizeOf(path)) : content;
  }

  private async sizeOf(path: string): Promise<number | undefined> {
    const [folder, name] = parted(path);
    return (await this.list(folder || "/")).find((entry) => entry.name === name)?.size;
  }

  async linkTarget(path: string): Promise<string> {
    const told = await this.debugfs(`stat ${quoted(plainly(path))}`);
    return /^Fast link dest: "([^"\n]*)"$/m.exec(told.toString("utf8"))?.[1] ?? "";
  }

  private async debugfs(command: string, maxBuffer = MOST_OUTPUT): Promise<Buffer> {
    if (!ONE_LINE.test(command)) {
      return Buffer.alloc(0);
    }
    const target = this.offset ? debugfsTarget(this.target, this.offset) : this.target;
    const result = await execa(...bounded("debugfs", ["-R", command, target]), {
      maxBuffer,
      timeout: 30_000,
      encoding: "buffer",
      stripFinalNewline: false,
      reject: false,
      env: { DEBUGFS_PAGER: "cat", PAGER: "cat" },
    });
    if (result instanceof Error && !result.isMaxBuffer) {
      const reason = Buffer.from(result.stderr ?? "")
        .toString("utf8")
        .trim();
      throw new InvalidImage(
        `disk ${this.target}`,
        `its file system can't be read: ${reason.split("\n").at(-1) || result.shortMessage}`,
        "Run e2fsck on it",
      );
    }
    return Buffer.from(result.stdout).subarray(0, maxBuffer);
  }
}

const KINDS: Readonly<Record<string, GuestEntry["kind"]>> = { "10": "file", "04": "folder", "12": "link" };

/** How debugfs has to be told a path whose folder may be a link to another: in the last place it doesn't follow one. */
export function plainly(path: string): string {
  const [folder, name] = parted(path);
  return `${folder}/./${name}`;
}

export function isPlainName(name: string): boolean {
  return PLAIN_NAME.test(name);
}

/** One word for debugfs. */
export function quoted(path: string): string {
  return `"${path.replaceAll('"', '""')}"`;
}

function parted(path: string): [folder: string, name: string] {
  const slash = path.lastIndexOf("/");
  return [path.slice(0, slash), path.slice(slash + 1)];
}

/** How e2fsprogs names a file system inside a disk. */
export function debugfsTarget(file: string, offset: number): string {
  if (file.includes("?")) {
    throw new InvalidImage(`disk ${file}`, "its path has a question mark, which debugfs can't take", "Rename it");
  }
  return `${file}?offset=${offset}`;
}
