import { spawn } from "node:child_process";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { execa } from "execa";
import { BLOCK, type Change, type Changes, changesIn } from "../../images/disk/changes";
import { hashOf, locateDisk } from "../../images/disk/digests";
import type { GuestChanges } from "../../images/disk/inject";
import { withOverlay } from "../../images/disk/overlay";
import type { RootPlace } from "../../images/root/root";
import { rootOf } from "../../images/root/root";
import { inTemporaryFolder } from "../../temporary-folder";
import type { DiskImage, Progress } from "../driver";
import { InvalidImage, NotFound, SiteFailure } from "../errors";
import { reporting } from "../transfer";
import {
  type Answer,
  ContainerUnreachable,
  type PlacedScript,
  type RocksFrontend,
  refuseFailure,
  type ScriptOptions,
} from "./frontend";
import { MAKE_FOLDER } from "./store";

const TRANSFER_SECONDS = 6 * 3600;
const MIB = 1024 * 1024;
/** With this a script says that a file which it needs isn't there. */
const ABSENT = 3;

/** What lies in a host's folder: bytes by name of file. */
export type Files = ReadonlyMap<string, number>;

/**
 * A new disk: a copy of its base, which costs nothing where the file system can share blocks, with what differs. When its
 * machine starts, libvirt gives the file to the user that QEMU runs as, and root has it afterwards: only an entry in the
 * access list, which not every file system has, lets an account write it then.
 */
const MAKE = `set -e
umask 077
cd "$1"
[ -f "$2" ] || exit ${ABSENT}
rm -f "$3" "$3.part"
cp --reflink=auto --sparse=always "$2" "$3.part"
chmod 600 "$3.part"
[ "$(id -u)" = 0 ] || setfacl -m "u:$(id -u):rw" "$3.part" 2>/dev/null || true
apply "$3.part"
truncate -s "$4" "$3.part"
mv "$3.part" "$3"
`;

const CHANGE = `set -e
cd "$1"
[ -f "$2" ] && [ -f "$2.changes" ] || exit ${ABSENT}
size=$(stat -c %s "$2")
apply "$2" < "$2.changes"
truncate -s "$size" "$2"
`;

/**
 * Takes a RAW disk as a sparse tar; it gets its name when it is whole and the right one. Who comes second waits, and finds
 * it there. An NFS may not lock folders: then both write, and the digest decides.
 */
const STORE = `set -e
${MAKE_FOLDER}cd "$1"
exec 8<.
flock 8 || true
[ ! -f "$2" ] || { cat >/dev/null; exit 0; }
rm -f "$3"
tar -xSf -
[ "$(sha256sum < "$3" | cut -d ' ' -f 1)" = "$4" ] || { rm -f "$3"; exit ${ABSENT}; }
mv -f "$3" "$2"
`;

const LIST = `cd "$1" 2>/dev/null || exit 0
find . -maxdepth 1 -type f -name '[a-z]*' -printf '%f %s\\n'
`;

const REMOVE = `cd "$1" 2>/dev/null || exit 0
shift
rm -f -- "$@"
`;

const GROW = `set -e
cd "$1"
[ "$(stat -c %s "$2")" -ge "$3" ] || truncate -s "$3" "$2"
`;

/**
 * Disks and bases in our folder on each container: RAW, and named after what they are. Where the folder is the same
 * everywhere, all is done on the Rocks frontend; else by ssh from there.
 */
export class Disks {
  constructor(
    private readonly frontend: RocksFrontend,
    readonly folder: string,
    private readonly shared: boolean,
    /** What the Rocks frontend calls itself. */
    private readonly ownName: () => Promise<string>,
  ) {}

  /** Where a machine's disk lies. */
  pathOf(vm: string): string {
    return join(this.folder, diskFile(vm));
  }

  /** `disk=` as Rocks takes it. */
  specificationOf(vm: string): string {
    return `file:${this.pathOf(vm)},vda,virtio`;
  }

  /** Whether what Rocks lists as a machine's disk is this one. */
  isOurs(vm: string, disks: readonly string[]): boolean {
    return disks.length === 1 && disks[0]?.split(",")[0] === `file:${this.pathOf(vm)}`;
  }

  /** All of these hosts at the same time; undefined for one that can't be reached. */
  async list(hosts: Iterable<string>): Promise<Map<string, Files | undefined>> {
    const names = [...new Set(hosts)];
    const one = this.shared && names.length > 0 ? this.listOne(names[0] ?? "") : undefined;
    const found = names.map(async (host) => [host, await (one ?? this.listOne(host))] as const);
    return new Map(await Promise.all(found));
  }

  private async listOne(host: string): Promise<Files | undefined> {
    try {
      const lines = (await this.on(host, LIST)).split("\n").filter(Boolean);
      return new Map(
        lines.map((line) => line.split(" ") as [string, string]).map(([name, size]) => [name, Number(size)]),
      );
    } catch (error) {
      if (error instanceof ContainerUnreachable) {
        return undefined;
      }
      throw error;
    }
  }

  /**
   * Stores a base on a host, from here or from another host that has it.
   * @throws NotFound where nobody has the disk
   */
  async ensureBase(image: DiskImage, host: string, others: readonly string[], progress: Progress): Promise<void> {
    const base = baseFile(image.digest);
    const files = await this.list([host, ...others]);
    if (files.get(host)?.has(base)) {
      return;
    }
    const source = others.find((other) => files.get(other)?.has(base));
    if (source !== undefined) {
      progress(`copying the base image from ${source} to ${host}`);
      await this.copyBase(image, source, host);
      return;
    }
    const file = await locateDisk(image.digest);
    if (!file) {
      throw new NotFound(
        "the base image",
        `no file here holds the disk ${image.digest.slice(0, 16)}…`,
        "Put the image back into its repository and run `pulumi up`",
      );
    }
    const started = Date.now();
    progress(`copying the base image to ${host}`);
    await this.sendBase(image, file, host, progress);
    progress(`base image stored on ${host} in ${((Date.now() - started) / 1000).toFixed(1)} s`);
  }

  /** Hands `use` a base as a file on this machine: where it came from, else a copy fetched back from its host. */
  private async withLocalBase<T>(
    image: DiskImage,
    host: string,
    progress: Progress,
    use: (file: string) => Promise<T>,
  ) {
    const known = await locateDisk(image.digest);
    if (known) {
      return use(known);
    }
    progress("fetching the base image back from the site, since its file here is gone");
    return this.withCopy(host, baseFile(image.digest), async (file) => {
      if ((await hashOf(file)) !== image.digest) {
        throw missingBase(image, host);
      }
      return use(file);
    });
  }

  /**
   * Makes a machine's disk anew, with its root file system changed like this.
   * @param bytes its size
   * @throws NotFound where the base isn't on that host
   */
  async make(
    vm: string,
    host: string,
    image: DiskImage,
    bytes: number,
    wanted: GuestChanges,
    progress: Progress,
  ): Promise<void> {
    const size = Math.max(bytes, image.size);
    const { changes, data } = await this.withLocalBase(image, host, progress, (base) =>
      withOverlay({ base, baseAtSite: base, size, root: rootOf(image), changes: wanted }, changesIn),
    );
    const args = [baseFile(image.digest), diskFile(vm), String(size)];
    const answer = await this.run(host, applying(changes) + MAKE, args, {
      input: data,
      timeoutSeconds: TRANSFER_SECONDS,
    });
    if (answer.exitCode === ABSENT) {
      throw missingBase(image, host);
    }
    refuseFailure(`making the disk of ${vm} on ${host}`, answer);
  }

  /** What would change on a machine's disk: laid beside it, for `change` to take up. The machine must be off. */
  async prepare(vm: string, host: string, root: RootPlace, wanted: GuestChanges): Promise<readonly Change[]> {
    const { changes, data } = await this.withCopy(host, diskFile(vm), (base, size) =>
      withOverlay({ base, baseAtSite: base, size, root, changes: wanted }, changesIn),
    );
    const script = `set -e\numask 077\ncd "$1"\ncat > "$2.part"\nmv -f "$2.part" "$2"\n`;
    await this.on(host, script, [changesFile(vm)], { input: data });
    return changes;
  }

  /** Writes what `prepare` has laid beside a disk into it; again does no harm. */
  async change(vm: string, host: string, changes: readonly Change[]): Promise<void> {
    const answer = await this.run(host, applying(changes) + CHANGE, [diskFile(vm)]);
    if (answer.exitCode === ABSENT) {
      throw new SiteFailure(
        `machine ${vm}`,
        `its disk was being changed, and ${changesFile(vm)} on ${host} is gone`,
        "Look at its disk by hand",
      );
    }
    refuseFailure(`changing the disk of ${vm} on ${host}`, answer);
  }

  /** A larger file; whoever runs on it sees it at its next start. */
  async grow(vm: string, host: string, bytes: number): Promise<void> {
    await this.on(host, GROW, [diskFile(vm), String(bytes)]);
  }

  /** Already gone is success. */
  async remove(host: string, names: readonly string[]): Promise<void> {
    if (names.length > 0) {
      await this.on(host, REMOVE, names);
    }
  }

  /** The last lines of what the machine's QEMU has said. */
  async logOf(vm: string, host: string): Promise<string> {
    const { stdout } = await this.run(host, `tail -n 20 "/var/log/libvirt/qemu/$2.log" 2>/dev/null`, [vm]);
    return stdout;
  }

  private async sendBase(image: DiskImage, file: string, host: string, progress: Progress): Promise<void> {
    const part = partFile(image.digest);
    const bytes = Number((await execa("du", ["--block-size=1", "--", file])).stdout.split("\t")[0]);
    // Not execa's: that lets the first bytes go while nobody takes them.
    const sender = spawn(
      "tar",
      ["-cSf", "-", "--transform", `s,.*,${part},`, "-C", dirname(file), "--", basename(file)],
      { stdio: ["ignore", "pipe", "ignore"] },
    );
    const transfer = {
      what: `copying the base image to ${host}`,
      bytes,
      arrived: async () => Number(await this.on(host, `cd "$1" && stat -c %b "$2"`, [part])) * 512,
    };
    const answer = await reporting(transfer, progress, () =>
      this.run(host, STORE, [baseFile(image.digest), part, image.digest], {
        input: sender.stdout,
        timeoutSeconds: TRANSFER_SECONDS,
      }),
    );
    sender.kill();
    this.refuseBrokenBase(answer, host);
  }

  /** From host to host, through the Rocks frontend. */
  private async copyBase(image: DiskImage, source: string, host: string): Promise<void> {
    const [base, part] = [baseFile(image.digest), partFile(image.digest)];
    const read = `cd "$1" && tar -cSf - --transform "s,.*,$3," -- "$2"`;
    const from = await this.placed(source, read, [base, part]);
    const to = await this.placed(host, STORE, [base, part, image.digest]);
    const answer = await this.frontend.pipe(from, to, { timeoutSeconds: TRANSFER_SECONDS });
    this.refuseBrokenBase(answer, host);
  }

  private refuseBrokenBase(answer: Answer, host: string): void {
    if (answer.exitCode === ABSENT) {
      throw new InvalidImage(
        "the base image",
        `what arrived on ${host} isn't what was sent`,
        "Run `pulumi up` again; if it comes again, look at the disk of that host",
      );
    }
    refuseFailure(`storing the base image on ${host}`, answer);
  }

  /** Hands `use` a copy of a host's file, holes left out on the way. */
  private async withCopy<T>(host: string, name: string, use: (file: string, size: number) => Promise<T>): Promise<T> {
    return inTemporaryFolder(async (folder) => {
      const placed = await this.placed(host, `cd "$1" && tar -cSf - -- "$2"`, [name]);
      const receiver = execa("tar", ["-xSf", "-", "-C", folder, "--", name], { reject: false, stdin: "pipe" });
      await this.frontend.stream(placed, receiver.stdin, TRANSFER_SECONDS);
      const { exitCode, stderr } = await receiver;
      refuseFailure(`fetching ${name} from ${host}`, { exitCode: exitCode ?? 1, stderr: String(stderr) });
      const file = join(folder, name);
      return use(file, (await stat(file)).size);
    });
  }

  private async on(host: string, script: string, args: readonly string[] = [], options: ScriptOptions = {}) {
    const answer = await this.run(host, script, args, options);
    refuseFailure(`a step on ${host}`, answer);
    return answer.stdout;
  }

  private async run(
    host: string,
    script: string,
    args: readonly string[] = [],
    options: ScriptOptions = {},
  ): Promise<Answer> {
    return this.frontend.scriptOn(await this.placeOf(host), script, [this.folder, ...args], options);
  }

  private async placed(host: string, script: string, args: readonly string[]): Promise<PlacedScript> {
    return { container: await this.placeOf(host), script, args: [this.folder, ...args] };
  }

  /** Where scripts for a host's folder run; undefined: on the Rocks frontend. */
  private async placeOf(host: string): Promise<string | undefined> {
    return this.shared || host === (await this.ownName()) ? undefined : host;
  }
}

/** A shell function that writes blocks, which come one after the other as its input, to their places in a file. */
function applying(changes: Changes["changes"]): string {
  const writes = changes.map(
    ({ block, count }) =>
      `  dd bs=${BLOCK} seek=${block} count=${count} iflag=fullblock conv=notrunc "of=$1" 2>/dev/null`,
  );
  return `apply() {\n${writes.join("\n")}\n  :\n}\n`;
}

function missingBase(image: DiskImage, host: string): NotFound {
  return new NotFound(
    `the base image on ${host}`,
    `the disk ${image.digest.slice(0, 16)}… isn't there`,
    "Run `pulumi up`, which copies it there",
  );
}

export function diskFile(vm: string): string {
  return `${vm}.vda`;
}

export function changesFile(vm: string): string {
  return `${diskFile(vm)}.changes`;
}

export function baseFile(digest: string): string {
  return `vc-base-${digest}.raw`;
}

/** A base on its way. */
export function partFile(digest: string): string {
  return `vc-base-${digest}.part`;
}

/** The sizes of a disk's file as Rocks counts, whole GB. */
export function gigabytes(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / (1024 * MIB)));
}
