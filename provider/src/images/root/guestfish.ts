import { randomUUID } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { execa } from "execa";
import { InvalidImage } from "../../drivers/errors";
import { kvmUsable } from "../../kvm";
import { makeTemporaryFolder } from "../../temporary-folder";
import { type GuestEntry, type GuestFileSystem, isPlainName, MOST_OUTPUT } from "./file-system";

/** Where a root file system is. */
export interface Device {
  /** A RAW file. */
  readonly file: string;
  /** What it is called in libguestfs' machine: `/dev/sda`, or a partition of it. */
  readonly name: "/dev/sda" | "/dev/sda1";
  readonly isReadOnly: boolean;
}

/** Starting libguestfs' machine, where processors are emulated, and the work in it. */
const LIMIT_MS = 600_000;
/** In which of its subvolumes a btrfs has the root, where that isn't the default one. */
const SUBVOLUMES = ["@", "root"];
const KINDS: Readonly<Record<string, GuestEntry["kind"]>> = { r: "file", d: "folder", l: "link" };

/**
 * A guest's file system of whatever kind Linux knows, through libguestfs: the kernel of a machine of its own mounts it. Its
 * links lead to nowhere but inside it.
 */
export class Guestfish implements GuestFileSystem, AsyncDisposable {
  private readonly marker = randomUUID();
  private readonly answers: AsyncIterator<string>;
  private last: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly folder: string,
    private readonly child: Child,
    lines: Interface,
  ) {
    this.answers = lines[Symbol.asyncIterator]();
  }

  /** @throws InvalidImage where libguestfs isn't installed or can't read it */
  static async open({ file, name, isReadOnly }: Device): Promise<Guestfish> {
    const folder = await makeTemporaryFolder();
    const child = start(isReadOnly ? "--ro" : "--rw", "--format=raw", "-a", file);
    const fish = new Guestfish(folder, child, createInterface({ input: child.stdout }));
    try {
      await fish.ask("run", "must");
      const mount = (options: string) => fish.ask(`mount-options ${quoted(options)} ${name} /`, "must");
      const how = isReadOnly ? "ro" : "rw";
      await mount(how);
      for (const subvolume of SUBVOLUMES) {
        if (!(await fish.has("/etc")) && (await fish.has(`/${subvolume}/etc`))) {
          await fish.ask("umount /", "must");
          await mount(`${how},subvol=${subvolume}`);
        }
      }
      return fish;
    } catch (error) {
      await fish[Symbol.asyncDispose]();
      throw error;
    }
  }

  async list(folder: string): Promise<readonly GuestEntry[]> {
    const told = await this.ask(`readdir ${quoted(folder)}`);
    const found = [...told.matchAll(/^ {2}ftyp: (\w)\n {2}name: (.*)$/gm)].flatMap(([, kind = "", name = ""]) =>
      isPlainName(name) ? [{ name, kind: KINDS[kind] ?? "other" }] : [],
    );
    if (found.length === 0) {
      return [];
    }
    const names = found.map(({ name }) => `'${name}'`).join(" ");
    const stats = await this.ask(`lstatnslist ${quoted(folder)} ${quoted(names)}`);
    const [modes, sizes] = ["st_mode", "st_size"].map((field) =>
      [...stats.matchAll(new RegExp(`^  ${field}: (\\d+)$`, "gm"))].map(([, value]) => Number(value)),
    );
    return found.map((entry, index) => ({
      ...entry,
      mode: (modes?.[index] ?? 0) & 0o7777,
      size: entry.kind === "folder" ? 0 : (sizes?.[index] ?? 0),
    }));
  }

  async has(path: string): Promise<boolean> {
    return (await this.ask(`lstatns ${quoted(path)}`)) !== "";
  }

  async read(path: string): Promise<string> {
    return (await this.readBytes(path)).toString("utf8");
  }

  async readBytes(path: string, atMost = MOST_OUTPUT): Promise<Buffer> {
    const stat = await this.ask(`lstatns ${quoted(path)}`);
    const [mode = 0, size = 0] = ["st_mode", "st_size"].map((field) =>
      Number(new RegExp(`^${field}: (\\d+)$`, "m").exec(stat)?.[1] ?? 0),
    );
    const isFile = (mode & 0o170000) === 0o100000;
    const length = Math.min(size, atMost);
    if (!isFile || length === 0) {
      return Buffer.alloc(0);
    }
    const copy = join(this.folder, randomUUID());
    await this.ask(`download-offset ${quoted(path)} ${quoted(copy)} 0 ${length}`);
    const content = await readFile(copy).catch(() => Buffer.alloc(0));
    await rm(copy, { force: true });
    return content;
  }

  async linkTarget(path: string): Promise<string> {
    return (await this.ask(`readlink ${quoted(path)}`)).trimEnd();
  }

  /** @returns whether it wasn't there; the one that it is in must be */
  async makeFolder(path: string): Promise<boolean> {
    const isThere = (await this.ask(`is-dir ${quoted(path)} followsymlinks:true`)).trim() === "true";
    if (!isThere) {
      await this.ask(`mkdir ${quoted(path)}`, "must");
    }
    return !isThere;
  }

  /** @param label SELinux', if it is to have one */
  async label(path: string, label: string | undefined): Promise<void> {
    if (label !== undefined) {
      await this.ask(`lsetxattr security.selinux ${quoted(label)} ${label.length} ${quoted(path)}`, "must");
    }
  }

  async remove(path: string): Promise<void> {
    await this.ask(`rm-f ${quoted(path)}`, "must");
  }

  async link(path: string, target: string): Promise<void> {
    await this.ask(`ln-s ${quoted(target)} ${quoted(path)}`, "must");
  }

  /** Copies a file of this machine into it, for root to own. */
  async upload(file: string, path: string, mode: number): Promise<void> {
    await this.ask(`upload ${quoted(file)} ${quoted(path)}`, "must");
    await this.ask(`chmod 0${mode.toString(8)} ${quoted(path)}`, "must");
    await this.ask(`chown 0 0 ${quoted(path)}`, "must");
  }

  /** Lets an XFS or btrfs fill its partition. */
  async grow(kind: "xfs" | "btrfs"): Promise<void> {
    await this.ask(kind === "xfs" ? "xfs-growfs /" : "btrfs-filesystem-resize /", "must");
  }

  /** Writes down all that was changed. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.child.stdin.end();
    await this.child;
    await rm(this.folder, { recursive: true, force: true });
  }

  /**
   * @param must what fails ends everything; else it just has no answer
   * @throws InvalidImage with what libguestfs says
   */
  private ask(command: string, must?: "must"): Promise<string> {
    const answer = this.last.then(async () => {
      this.child.stdin.write(`${must ? "" : "-"}${command}\necho ${this.marker}\n`);
      const lines: string[] = [];
      for (;;) {
        const { value, done } = await this.answers.next();
        if (done) {
          throw await this.failure();
        }
        if (value === this.marker) {
          return lines.length > 0 ? `${lines.join("\n")}\n` : "";
        }
        lines.push(value);
      }
    });
    this.last = answer.catch(() => undefined);
    return answer;
  }

  private async failure(): Promise<InvalidImage> {
    const { stderr } = await this.child;
    return /failed to run command/.test(stderr)
      ? new InvalidImage(
          "an image",
          "its root file system is neither ext2, ext3 nor ext4, and libguestfs, which reads others, isn't installed",
          "Install guestfish (Debian, Red Hat) and a kernel that may be read in /boot here, or make the image with ext4",
        )
      : new InvalidImage(
          "an image",
          `libguestfs can't work on its root file system: ${stderr.trim().split("\n")[0] ?? ""}`,
          "Run libguestfs-test-tool: it says what libguestfs lacks here",
        );
  }
}

type Child = ReturnType<typeof start>;

/** It ends with this process, and says each line at once. */
function start(...options: readonly string[]) {
  return execa("setpriv", ["--pdeathsig", "TERM", "stdbuf", "-oL", "guestfish", ...options], {
    reject: false,
    stdin: "pipe",
    stdout: "pipe",
    buffer: { stdout: false },
    timeout: LIMIT_MS,
    env: { LIBGUESTFS_BACKEND: "direct", ...(!kvmUsable() && { LIBGUESTFS_BACKEND_SETTINGS: "force_tcg" }) },
  });
}

/** One word for guestfish. */
function quoted(word: string): string {
  return `"${word.replaceAll(/["\\]/g, "\\$&")}"`;
}
