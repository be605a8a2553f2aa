import { rmSync } from "node:fs";
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Progress, Shape } from "../drivers/driver";
import { InvalidImage, Locked, NotFound, SiteFailure } from "../drivers/errors";
import { reporting } from "../drivers/transfer";
import { holdLock } from "../file-lock";
import { DEFAULT_DIALECT } from "../vc-out/vc-out";
import { examineDisk } from "./disk";
import { FORMAT_VERSION } from "./manifest";
import { type PackedFiles, packDisk } from "./pack-disk";
import { parseVcdb } from "./repository";
import { vcInText } from "./vc-in-text";

const WORKSPACE = ".pack-";
/** How long another may take that packs into the same repository. */
const LOCK_SECONDS = 3600;

export interface Packing {
  readonly vcName: string;
  /** Files with RAW disks. */
  readonly frontend: string;
  /** The frontend's where it is left out. */
  readonly compute?: string;
  /** The repository: a folder, made where there is none. */
  readonly into: string;
  /** The most that a file may have, bytes. Left out: one file for each disk, whatever its size. */
  readonly split?: number;
  readonly shapes: { readonly frontend: Shape; readonly compute: Shape };
  /** Whether it takes the place of an image of its name. */
  readonly isReplacing: boolean;
}

export interface PackedImage {
  /** The folder with its files. */
  readonly folder: string;
  /** Bytes of all of its files. */
  readonly packed: number;
  /** Bytes of its disks. */
  readonly unpacked: number;
}

/**
 * Puts an image into a repository, packed, with its vc-in.xml, its manifest.json and its line of vcdb.txt. The repository
 * has it when that line is there, and is as it was until then.
 * @throws InvalidImage for disks that can't be run and names that can't be, SiteFailure, Locked
 */
export async function packImage(packing: Packing, progress: Progress): Promise<PackedImage> {
  const { vcName } = packing;
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(vcName)) {
    throw new InvalidImage(`image ${JSON.stringify(vcName)}`, "can't be called that", NAME_RULE);
  }
  const into = resolve(packing.into);
  await mkdir(into, { recursive: true });
  await using lock = await holdLock(into, 0).then(async (held) => {
    if (!held) {
      progress(`waiting for another process, which is packing into ${into}`);
    }
    return held ?? holdLock(into, LOCK_SECONDS);
  });
  if (!lock) {
    throw new Locked(`the repository ${into}`, "another process is packing into it", "Wait for its end");
  }
  await clearAbandoned(into);
  const former = await formerPath(into, packing);
  const { frontend, compute } = await examined(packing);
  return inWorkspace(into, async (workspace) => {
    const files = await packDisks(packing, workspace, progress);
    const [frontendFiles, computeFiles] = [files[0] as PackedFiles, files.at(-1) as PackedFiles];
    const described = {
      frontend: { disk: frontendFiles.disk, shape: packing.shapes.frontend },
      compute: { disk: computeFiles.disk, shape: packing.shapes.compute },
    };
    // It is said of both disks.
    const isSame = frontend.reads === compute.reads && frontend.vcOutDialect === compute.vcOutDialect;
    const manifest = {
      formatVersion: FORMAT_VERSION,
      ...(isSame && frontend),
      disks: Object.fromEntries(files.map(({ disk, content }) => [disk.name, content])),
      files: Object.assign({}, ...files.map((one) => one.files)),
    };
    await writeFile(join(workspace, "vc-in.xml"), vcInText(vcName, described.frontend, described.compute));
    await writeFile(join(workspace, "manifest.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
    // A new temporary folder is its maker's alone, but servers and other users read repositories.
    await chmod(workspace, 0o755);
    const folder = await freeFolder(into, vcName);
    await rename(workspace, join(into, folder));
    await list(into, vcName, `${folder}/vc-in.xml`);
    if (former !== undefined) {
      await removeFormer(into, former);
    }
    const sizes = (contents: readonly { size: number }[]) => contents.reduce((sum, { size }) => sum + size, 0);
    return {
      folder: join(into, folder),
      packed: sizes(files.flatMap((one) => Object.values(one.files))),
      unpacked: sizes(files.map(({ content }) => content)),
    };
  });
}

const NAME_RULE = "A vc name has letters, digits, and . _ - after the first: at most 64";

/** @returns the path of the image that is to be replaced */
async function formerPath(into: string, { vcName, isReplacing }: Packing): Promise<string | undefined> {
  const former = parseVcdb(await vcdbOf(into)).get(vcName);
  if (former !== undefined && !isReplacing) {
    throw new InvalidImage(
      `image ${vcName}`,
      `is in the repository ${into} already`,
      "Take another name, or replace it with --replace",
    );
  }
  return former;
}

/** What reads the network inside the disks. @throws InvalidImage for disks that can't be run */
async function examined({ frontend, compute = frontend }: Packing) {
  const told = async (file: string) => {
    await stat(file).catch((error: NodeJS.ErrnoException) => {
      throw new NotFound(`disk ${file}`, `can't be read (${error.code})`, "Name a RAW disk's file");
    });
    const { reads = "vc-out.xml", vcOutDialect = DEFAULT_DIALECT } = await examineDisk(resolve(file));
    return { reads, ...(reads === "vc-out.xml" && { vcOutDialect }) };
  };
  return { frontend: await told(frontend), compute: await told(compute) };
}

/** @returns those of the frontend, then those of the compute where that has another disk */
async function packDisks(
  { vcName, frontend, compute = frontend, split }: Packing,
  workspace: string,
  progress: Progress,
): Promise<PackedFiles[]> {
  const [one, other] = await Promise.all([stat(frontend), stat(compute)]);
  const isShared = one.dev === other.dev && one.ino === other.ino;
  const disks = isShared
    ? [{ name: "frontend.raw", file: frontend }]
    : [
        { name: "frontend.raw", file: frontend },
        { name: "compute.raw", file: compute },
      ];
  const packed: PackedFiles[] = [];
  for (const { name, file } of disks) {
    const { size } = await stat(file);
    let done = 0;
    const what = `image ${vcName}: packing ${name}`;
    packed.push(
      await reporting({ what, bytes: size, arrived: async () => done }, progress, () =>
        packDisk(resolve(file), { name, into: workspace, split }, (bytes) => {
          done = bytes;
        }),
      ),
    );
  }
  return packed;
}

/** A folder in the repository, so that renaming it is all at once; it goes with whoever is interrupted. */
async function inWorkspace<T>(into: string, work: (workspace: string) => Promise<T>): Promise<T> {
  const workspace = await mkdtemp(join(into, WORKSPACE));
  const interrupted = (signal: NodeJS.Signals) => {
    rmSync(workspace, { recursive: true, force: true });
    process.kill(process.pid, signal);
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) {
    process.once(signal, interrupted);
  }
  try {
    return await work(workspace);
  } finally {
    for (const signal of signals) {
      process.removeListener(signal, interrupted);
    }
    await rm(workspace, { recursive: true, force: true });
  }
}

/** What processes that were killed have left: nobody else packs now. */
async function clearAbandoned(into: string): Promise<void> {
  const left = (await readdir(into)).filter((name) => name.startsWith(WORKSPACE));
  await Promise.all(left.map((name) => rm(join(into, name), { recursive: true, force: true })));
}

/** The image's name, or with a number where something else is called that: what is listed isn't touched. */
async function freeFolder(into: string, vcName: string): Promise<string> {
  for (let number = 1; ; number++) {
    const folder = number === 1 ? vcName : `${vcName}-${number}`;
    const isTaken = await lstat(join(into, folder)).then(
      () => true,
      () => false,
    );
    if (!isTaken) {
      return folder;
    }
  }
}

async function list(into: string, vcName: string, path: string): Promise<void> {
  const others = (await vcdbOf(into)).split(/\r?\n/).filter((line) => line !== "" && !parseVcdb(line).has(vcName));
  const file = join(into, "vcdb.txt");
  await writeFile(`${file}.new`, [...others, `${vcName},${path}`, ""].join("\n"));
  await rename(`${file}.new`, file);
}

/** Only a folder of its own that was packed: others may hold more than this image. */
async function removeFormer(into: string, path: string): Promise<void> {
  const folder = dirname(path);
  const isOwn = /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(folder);
  const others = [...parseVcdb(await vcdbOf(into)).values()];
  const manifest = await readFile(join(into, folder, "manifest.json"), "utf8").catch(() => "");
  if (
    isOwn &&
    manifest.includes(`"formatVersion": ${FORMAT_VERSION},`) &&
    !others.some((other) => dirname(other) === folder)
  ) {
    await rm(join(into, folder), { recursive: true, force: true });
  }
}

async function vcdbOf(into: string): Promise<string> {
  return readFile(join(into, "vcdb.txt"), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") {
      return "";
    }
    throw new SiteFailure(`the repository ${into}`, `its vcdb.txt can't be read (${error.code})`);
  });
}
