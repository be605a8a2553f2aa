import { readFile, realpath, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join, relative, resolve } from "node:path";
import { InvalidImage, NotFound, NotSupported, VirtualClusterError } from "../drivers/errors";
import { parseVcIn, type VcIn } from "./vc-in";

/** An image as a repository offers it: RAW disks on this machine. */
export interface LocalImage {
  readonly vcName: string;
  /** Absolute paths. */
  readonly frontendDisk: string;
  readonly computeDisk: string;
}

/** More than any vcdb.txt or vc-in.xml needs. */
const MOST_TEXT = 1024 * 1024;

/**
 * Finds an image by its vc name. A repository is a folder with a `vcdb.txt` of `NAME,PATH` lines, each PATH that of a
 * vc-in.xml inside the folder; disks lie beside it.
 * @throws NotFound when the repository or the name isn't there (known names are listed), InvalidImage
 */
export async function findImage(repository: string, vcName: string): Promise<LocalImage> {
  const names = await namesIn(repository);
  const folder = folderOf(repository);
  const path = names.get(vcName);
  if (path === undefined) {
    const known = [...names.keys()].sort().join(", ") || "none";
    throw new NotFound(
      `image ${JSON.stringify(vcName)}`,
      `is not in the repository ${repository}`,
      `Known there: ${known}`,
    );
  }
  const vcInFile = await inside(folder, folder, path, `image ${vcName}`);
  const vcIn: VcIn = parseVcIn(await readText(vcInFile, `image ${vcName}`), vcInFile);
  const disk = (file: string) => inside(folder, join(vcInFile, ".."), file, `image ${vcName}`);
  return {
    vcName,
    frontendDisk: await disk(vcIn.frontendDisk),
    computeDisk: await disk(vcIn.computeDisk),
  };
}

/**
 * The vc names in a repository, each with the path of its vc-in.xml.
 * @throws NotFound, NotSupported
 */
export async function namesIn(repository: string): Promise<Map<string, string>> {
  if (/^https?:/.test(repository)) {
    throw new NotSupported(
      `repository ${repository}`,
      "repositories over http aren't read yet",
      "Copy it to a folder and name that",
    ).about("repository");
  }
  const vcdb = join(folderOf(repository), "vcdb.txt");
  return parseVcdb(
    await readText(vcdb, `repository ${repository}`).catch((error: Error) => {
      throw error instanceof VirtualClusterError ? error.about("repository") : error;
    }),
  );
}

function folderOf(repository: string): string {
  return resolve(repository.replace(/^~(?=\/|$)/, homedir()));
}

/** `NAME,PATH` lines; blank ones and those without exactly one comma are passed over, as pragma_boot did. */
export function parseVcdb(text: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const [name, path, ...more] = line.split(",").map((part) => part.trim());
    if (name && path && more.length === 0 && !name.startsWith("#")) {
      names.set(name, path);
    }
  }
  return names;
}

/** A file's real path, which must lie inside the repository: neither `..` nor a symbolic link leads out. */
async function inside(repository: string, base: string, file: string, what: string): Promise<string> {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (isAbsolute(file) || /[\x00-\x1f\x7f]/.test(file)) {
    throw new InvalidImage(
      what,
      `names the file ${JSON.stringify(file)}`,
      "Only relative paths without control characters are allowed",
    );
  }
  const found = await realpath(join(base, file)).catch(() => {
    throw new NotFound(
      what,
      `its file ${JSON.stringify(file)} is missing in ${base}`,
      "Restore it, or mend the vc-in.xml",
    );
  });
  if (relative(await realpath(repository), found).startsWith("..")) {
    throw new InvalidImage(
      what,
      `its file ${JSON.stringify(file)} lies outside the repository`,
      "Copy it into the repository",
    );
  }
  return found;
}

async function readText(file: string, what: string): Promise<string> {
  const found = await stat(file).catch(() => undefined);
  if (!found?.isFile()) {
    throw new NotFound(what, `there is no file ${file}`, "Name a folder that holds a vcdb.txt and what it lists");
  }
  if (found.size > MOST_TEXT) {
    throw new InvalidImage(what, `${file} has ${found.size} bytes`, `At most ${MOST_TEXT} are read`);
  }
  return readFile(file, "utf8");
}
