import { rmSync } from "node:fs";
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Progress } from "../../drivers/driver";
import { InvalidImage, Locked, SiteFailure } from "../../drivers/errors";
import { holdLock } from "../../file-lock";
import { FORMAT_VERSION } from "./manifest";
import { parseVcdb } from "./repository";

const WORKSPACE = ".pack-";
/** How long another may take that writes into the same repository. */
const LOCK_SECONDS = 3600;
const NAME_RULE = "A vc name has letters, digits, and . _ - after the first: at most 64";

/** An image that is to be in a repository. */
export interface NewImage {
  readonly vcName: string;
  /** The repository: a folder, made where there is none. */
  readonly into: string;
  /** Whether it takes the place of an image of its name. */
  readonly isReplacing: boolean;
}

/**
 * Puts an image into a repository, with its line of vcdb.txt: the repository has it when that line is there, and is as it was
 * until then.
 * @param make writes the vc-in.xml and all that is beside it into a folder
 * @returns the folder
 * @throws InvalidImage for a name that can't be, SiteFailure, Locked
 */
export async function addToRepository(
  { vcName, into: given, isReplacing }: NewImage,
  progress: Progress,
  make: (folder: string) => Promise<void>,
): Promise<string> {
  checkVcName(vcName);
  const into = resolve(given);
  return inRepository(into, progress, async (workspace) => {
    const former = await formerPath({ vcName, into, isReplacing });
    await make(workspace);
    const folder = await freeFolder(into, vcName);
    await settle(workspace, join(into, folder));
    await listImage(into, vcName, `${folder}/vc-in.xml`);
    if (former !== undefined) {
      await removeFormer(into, former);
    }
    return join(into, folder);
  });
}

/** @throws InvalidImage for what can't be the name of a folder, a line of vcdb.txt and a part of files' names */
export function checkVcName(vcName: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(vcName)) {
    throw new InvalidImage(`image ${JSON.stringify(vcName)}`, "can't be called that", NAME_RULE);
  }
}

/**
 * Works on a repository that nobody else writes into meanwhile; it is made where there is none.
 * @param work is handed a folder inside, which goes when it isn't settled by the end, or with whoever is interrupted
 * @throws SiteFailure where it can't be written, Locked
 */
export async function inRepository<T>(
  into: string,
  progress: Progress,
  work: (workspace: string) => Promise<T>,
): Promise<T> {
  try {
    await mkdir(into, { recursive: true });
    await using lock = await holdLock(into, 0).then(async (held) => {
      if (!held) {
        progress(`waiting for another process, which is writing into ${into}`);
      }
      return held ?? holdLock(into, LOCK_SECONDS);
    });
    if (!lock) {
      throw new Locked(`the repository ${into}`, "another process is writing into it", "Wait for its end");
    }
    await clearAbandoned(into);
    // Awaited here: the lock goes as soon as this returns.
    return await inWorkspace(into, work);
  } catch (error) {
    throw unwritable(error, into);
  }
}

/** Renaming a workspace puts all that is in it where it belongs at once. */
export async function settle(workspace: string, folder: string): Promise<void> {
  // A new temporary folder is its maker's alone, but servers and other users read repositories.
  await chmod(workspace, 0o755);
  await rename(workspace, folder);
}

/** What a folder fails with that can't be written, in words. Other failures stay what they are. */
function unwritable(error: unknown, into: string): unknown {
  const { code = "", path = into } = error as NodeJS.ErrnoException;
  const isFull = code === "ENOSPC" || code === "EDQUOT";
  const isRefused = ["EACCES", "EPERM", "EROFS", "EEXIST", "ENOTDIR"].includes(code) && path.startsWith(into);
  return isFull || isRefused
    ? new SiteFailure(
        `the repository ${into}`,
        `it can't be written (${code})`,
        isFull ? "Make room there, or take a folder elsewhere" : "Name a folder that is yours to write into",
      )
    : error;
}

/** @returns the path of the image that is to be replaced */
async function formerPath({ into, vcName, isReplacing }: NewImage): Promise<string | undefined> {
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

/** Adds an image to its repository's list. */
export async function listImage(into: string, vcName: string, path: string): Promise<void> {
  const others = (await vcdbOf(into)).split(/\r?\n/).filter((line) => line !== "" && !parseVcdb(line).has(vcName));
  const file = join(into, "vcdb.txt");
  await writeFile(`${file}.new`, [...others, `${vcName},${path}`, ""].join("\n"));
  await rename(`${file}.new`, file);
}

/** Only a folder of its own that was written here: others may hold more than this image. */
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
