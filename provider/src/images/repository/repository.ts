import { realpath } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, posix, resolve } from "node:path";
import { closest } from "../../closest";
import { InvalidImage, NotFound, VirtualClusterError } from "../../drivers/errors";
import { FolderStore } from "./folder-store";
import type { HttpLimits } from "./http-client";
import { HttpStore } from "./http-store";
import { type Content, type Manifest, parseManifest } from "./manifest";
import { checkName, type Store, type StoredFile } from "./store";
import { type PackedDisk, parseVcIn, type VcIn } from "./vc-in";

/** An image as a repository describes it: its disks needn't be on this machine. */
export interface FoundImage {
  readonly vcName: string;
  readonly vcIn: VcIn;
  readonly manifest: Manifest;
  readonly frontend: FoundDisk;
  /** The same object where both have one disk. */
  readonly compute: FoundDisk;
}

export interface FoundDisk {
  /** Its file's name, unpacked. */
  readonly name: string;
  readonly isGzip: boolean;
  /** In the order of the disk. */
  readonly parts: readonly FoundPart[];
  /** Bytes unpacked; undefined where only unpacking tells. */
  readonly size?: number;
  /** Its SHA-256 unpacked, hex, as its manifest says. */
  readonly digest?: string;
}

export interface FoundPart extends StoredFile {
  /** What its manifest says of it. */
  readonly told?: Content;
}

/**
 * Finds an image by its vc name, without fetching its disks. A repository is a folder, or an http(s) URL, with a `vcdb.txt`
 * of `NAME,PATH` lines, each PATH that of a vc-in.xml below it; disks lie beside that.
 * @throws NotFound when the repository or the name isn't there (known names are listed), InvalidImage, Unreachable, Denied
 */
export async function findImage(repository: string, vcName: string, limits?: HttpLimits): Promise<FoundImage> {
  return findIn(await placeOf(repository, vcName, limits));
}

/**
 * The image that a vc-in.xml of this machine describes; all that it names must lie, or be linked, beside or below it.
 * @throws NotFound, InvalidImage
 */
export async function findImageAt(vcInPath: string): Promise<FoundImage> {
  return findIn(await placeAt(vcInPath));
}

/**
 * What a vc-in.xml of this machine says, wherever its disks are.
 * @throws NotFound, InvalidImage
 */
export async function readVcIn(vcInPath: string): Promise<VcIn> {
  const { text, origin } = await describeAt(vcInPath);
  return parseVcIn(text, origin);
}

/** A vc-in.xml, whatever it holds. */
export interface Description {
  /** Where it is, for messages. */
  readonly origin: string;
  readonly text: string;
}

/** @throws NotFound, InvalidImage, Unreachable, Denied */
export async function describe(repository: string, vcName: string): Promise<Description> {
  return descriptionAt(await placeOf(repository, vcName));
}

/** @throws NotFound, InvalidImage */
export async function describeAt(vcInPath: string): Promise<Description> {
  return descriptionAt(await placeAt(vcInPath));
}

/** Where an image is. */
interface Place {
  /** Of its vc-in.xml, for messages. */
  readonly origin: string;
  readonly store: Store;
  /** Of its vc-in.xml. */
  readonly path: string;
  readonly vcName: string;
}

async function placeOf(repository: string, vcName: string, limits?: HttpLimits): Promise<Place> {
  const store = storeOf(repository, limits);
  const names = await namesInStore(store);
  const path = names.get(vcName);
  if (path === undefined) {
    const known = [...names.keys()].sort().join(", ") || "none";
    const near = closest(vcName, names.keys());
    throw new NotFound(
      `image ${JSON.stringify(vcName)}`,
      `is not in the repository ${repository}`,
      near ? `Did you mean ${near}? Known there: ${known}` : `Known there: ${known}`,
    );
  }
  return { origin: `${repository.replace(/\/$/, "")}/${path}`, store, path, vcName };
}

async function placeAt(vcInPath: string): Promise<Place> {
  const file = await realpath(vcInPath).catch(() => resolve(vcInPath));
  return {
    origin: vcInPath,
    store: new FolderStore(dirname(file), "anywhere"),
    path: basename(file),
    vcName: basename(dirname(resolve(vcInPath))),
  };
}

async function descriptionAt({ origin, store, path, vcName }: Place): Promise<Description> {
  return { origin, text: await store.text(path, `image ${vcName}`) };
}

/**
 * The vc names in a repository, each with the path of its vc-in.xml.
 * @throws NotFound, InvalidImage, Unreachable, Denied
 */
export function namesIn(repository: string): Promise<Map<string, string>> {
  return namesInStore(storeOf(repository));
}

export function isUrl(repository: string): boolean {
  return /^https?:/i.test(repository);
}

async function namesInStore(store: Store): Promise<Map<string, string>> {
  return parseVcdb(
    await store.list().catch((error: Error) => {
      throw error instanceof VirtualClusterError ? error.about("repository") : error;
    }),
  );
}

async function findIn(place: Place): Promise<FoundImage> {
  const { store, path, vcName } = place;
  const what = `image ${vcName}`;
  const beside = (name: string) => {
    checkName(name, what);
    return `${posix.dirname(path)}/${name}`;
  };
  const manifestPath = beside("manifest.json");
  const [{ text, origin }, manifestText] = await Promise.all([
    descriptionAt(place),
    store.textIfThere(manifestPath, what),
  ]);
  const vcIn = parseVcIn(text, origin);
  const manifest = manifestText === undefined ? {} : parseManifest(manifestText, `${what}: ${manifestPath}`);
  const disk = (packed: PackedDisk) => findDisk(packed, manifest, what, (name) => store.look(beside(name), what));
  const frontend = await disk(vcIn.frontend.disk);
  const isShared = JSON.stringify(vcIn.compute.disk) === JSON.stringify(vcIn.frontend.disk);
  return { vcName, vcIn, manifest, frontend, compute: isShared ? frontend : await disk(vcIn.compute.disk) };
}

async function findDisk(
  { name, parts, isGzip }: PackedDisk,
  manifest: Manifest,
  what: string,
  look: (name: string) => Promise<StoredFile>,
): Promise<FoundDisk> {
  const found = await Promise.all(
    parts.map(async (part): Promise<FoundPart> => {
      const [file, told] = [{ ...(await look(part)), name: part }, toldOf(manifest.files, part)];
      if (told && file.size !== undefined && file.size !== told.size) {
        throw new InvalidImage(
          what,
          `its file ${part} has ${file.size} bytes, and ${told.size} in its manifest`,
          "Get the image anew from who made it, or pack it anew",
        );
      }
      return told ? { ...file, size: told.size, told } : file;
    }),
  );
  const told = toldOf(manifest.disks, name);
  const sizes = found.map(({ size }) => size);
  const size = told?.size ?? (isGzip || sizes.includes(undefined) ? undefined : sum(sizes));
  return {
    name,
    isGzip,
    parts: found,
    ...(size !== undefined && { size }),
    ...(told && { digest: told.sha256 }),
  };
}

function toldOf(contents: Readonly<Record<string, Content>> | undefined, name: string): Content | undefined {
  return contents && Object.hasOwn(contents, name) ? contents[name] : undefined;
}

function sum(sizes: readonly (number | undefined)[]): number {
  return sizes.reduce<number>((total, size = 0) => total + size, 0);
}

function storeOf(repository: string, limits?: HttpLimits): Store {
  return isUrl(repository)
    ? HttpStore.at(repository, limits)
    : new FolderStore(resolve(repository.replace(/^~(?=\/|$)/, homedir())));
}

/**
 * `NAME,PATH` lines; blank ones and those without exactly one comma are passed over, as pragma_boot did, and so are names
 * with control characters, which reach terminals.
 */
export function parseVcdb(text: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const [name, path, ...more] = line.split(",").map((part) => part.trim());
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    if (name && path && more.length === 0 && !/^#|[\x00-\x1f\x7f-\x9f]/.test(name)) {
      names.set(name, path);
    }
  }
  return names;
}
