import { createHash, randomUUID } from "node:crypto";
import {
  appendFile,
  chmod,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from "node:fs/promises";
import { hostname, userInfo } from "node:os";
import { join } from "node:path";
import type { Progress } from "../../drivers/driver";
import { holdLock, type LockKind } from "../../file-lock";
import { home } from "../../home";

/** A wait that isn't worth a word: another looks whether a file is there. */
const UNSAID_SECONDS = 1;
/** How often somebody who waits for another process is told so. */
const SAY_EVERY_SECONDS = 15;

/** What the cache keeps, by file names that follow from the key. */
interface Place {
  readonly content: string;
  /** What it is; its time of change is that of the last use. */
  readonly note: string;
  /** Shared by those who use the content, exclusive for who makes or removes it. */
  readonly lock: string;
}

/** One file of the cache, or what is left of making one. */
export interface CacheEntry {
  /** What it is, for people. */
  readonly about: string;
  readonly file: string;
  /** Bytes that it takes on this machine's disk. */
  readonly bytes: number;
  readonly lastUse: Date;
  /** Whether it was made to its end. What a download has got so far is taken up by the next. */
  readonly isWhole: boolean;
}

/** By content's path: this process uses it until it ends. */
const inUse = new Map<string, Promise<string>>();

/**
 * The file of a key, made once: by one process, while others wait and say so, whole or not at all. It can't be written and
 * isn't pruned as long as this process runs.
 * @param key says what the file is made from, all of it
 * @param make writes the content into a file that isn't there yet
 * @param about what it is, for people
 * @returns an absolute path
 */
export function cachedFile(
  key: string,
  make: (file: string) => Promise<void>,
  about: string,
  progress: Progress = () => undefined,
): Promise<string> {
  const place = placeOf(key);
  const known = inUse.get(place.content);
  if (known) {
    return known;
  }
  const file = useOrMake(place, make, about, progress);
  inUse.set(place.content, file);
  file.catch(() => inUse.delete(place.content));
  return file;
}

/** The file of a key if it is there, to be used as long as this process runs. */
export async function cachedFileIfThere(key: string, progress: Progress): Promise<string | undefined> {
  const place = placeOf(key);
  const known = inUse.get(place.content);
  if (known) {
    return known;
  }
  if (!(await isThere(place.content)) || !(await use(place, "it", progress))) {
    return undefined;
  }
  inUse.set(place.content, Promise.resolve(place.content));
  return place.content;
}

/**
 * Hands `work` a folder in which it finds what it has left there when it was interrupted. One process at a time works on a
 * key. The folder goes when `work` is done, or when `isInVain` says so of its failure.
 */
export async function inWorkFolder<T>(
  { key, about, isInVain }: { key: string; about: string; isInVain: (error: unknown) => boolean },
  progress: Progress,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  const { content: folder, note, lock } = placeOf(`work ${key}`);
  await using _held = await locked(lock, "exclusive", about, progress);
  await writeNote(note, about);
  await mkdir(folder, { recursive: true });
  const clear = async () => {
    await rm(folder, { recursive: true, force: true });
    await rm(note, { force: true });
  };
  try {
    const done = await work(folder);
    await clear();
    return done;
  } catch (error) {
    if (isInVain(error) || (await bytesIn(folder)) === 0) {
      await clear();
    }
    throw error;
  }
}

/** Notes what a key stands for, so that it is known without making it. */
export async function remember(key: string, value: string): Promise<void> {
  const { note } = placeOf(`value ${key}`);
  await writeWhole(note, JSON.stringify({ value }));
}

export async function remembered(key: string): Promise<string | undefined> {
  try {
    const { value } = JSON.parse(await readFile(placeOf(`value ${key}`).note, "utf8")) as { value?: unknown };
    return typeof value === "string" ? value : undefined;
  } catch {
    return undefined; // A cache: without it the answer is found anew.
  }
}

/** What is in the cache, what was used last first. */
export async function cacheEntries(): Promise<CacheEntry[]> {
  const names = await readdir(folder()).catch(() => [] as string[]);
  const entries = await Promise.all(names.filter(isContent).map(entryOf));
  return entries.flatMap((entry) => entry ?? []).sort((one, other) => other.lastUse.getTime() - one.lastUse.getTime());
}

/**
 * Removes what nobody has used since a time.
 * @param isDry only says what would be removed
 * @returns what was removed; what a running process uses stays
 */
export async function pruneCache(since: Date, isDry: boolean): Promise<CacheEntry[]> {
  const old = (await cacheEntries()).filter(({ lastUse }) => lastUse <= since);
  const removed = await Promise.all(old.map(async (entry) => ((await prune(entry, since, isDry)) ? [entry] : [])));
  if (!isDry) {
    await pruneNotes(since);
  }
  return removed.flat();
}

/** What was remembered, and notes of what isn't there: they take next to nothing, and would become many. */
async function pruneNotes(since: Date): Promise<void> {
  const names = await readdir(folder()).catch(() => [] as string[]);
  for (const name of names.filter((one) => one.endsWith(".json"))) {
    const note = join(folder(), name);
    const found = await stat(note).catch(() => undefined);
    if (found && found.mtime <= since && !(await isThere(note.replace(/\.json$/, "")))) {
      await rm(note, { force: true });
    }
  }
}

async function prune({ file }: CacheEntry, since: Date, isDry: boolean): Promise<boolean> {
  const place = placeAt(file.replace(/\.new$/, ""));
  await appendFile(place.lock, "");
  await using lock = await holdLock(place.lock, 0);
  // Somebody may have used it meanwhile.
  const now = lock && (await entryOf(file.slice(folder().length + 1)));
  if (!now || now.lastUse > since) {
    return false;
  }
  if (!isDry) {
    await rm(file, { recursive: true, force: true });
    await rm(place.note, { force: true });
  }
  return true;
}

async function useOrMake(
  place: Place,
  make: (file: string) => Promise<void>,
  about: string,
  progress: Progress,
): Promise<string> {
  for (;;) {
    if (await use(place, about, progress)) {
      return place.content;
    }
    await using _held = await locked(place.lock, "exclusive", about, progress);
    if (!(await isThere(place.content))) {
      await makeWhole(place, make, about);
    }
  }
}

/** @returns whether the content is there; then it stays as long as this process runs */
async function use(place: Place, about: string, progress: Progress): Promise<boolean> {
  const use = await locked(place.lock, "shared", about, progress);
  if (await isThere(place.content)) {
    const now = new Date();
    await utimes(place.note, now, now).catch(() => undefined);
    return true;
  }
  await use[Symbol.asyncDispose]();
  return false;
}

async function makeWhole(place: Place, make: (file: string) => Promise<void>, about: string): Promise<void> {
  const file = `${place.content}.new`;
  await rm(file, { force: true });
  try {
    await make(file);
    await chmod(file, 0o444);
    const handle = await open(file, "r");
    await handle.sync().finally(() => handle.close());
    await writeNote(place.note, about);
    await rename(file, place.content);
  } finally {
    await rm(file, { force: true });
  }
}

async function locked(lock: string, kind: LockKind, about: string, progress: Progress): Promise<AsyncDisposable> {
  await mkdir(folder(), { recursive: true });
  await appendFile(lock, "");
  let held = await holdLock(lock, UNSAID_SECONDS, kind);
  while (!held) {
    const holder = (await readFile(lock, "utf8")).trim() || "another process";
    progress(`waiting for ${holder}, which is at work on ${about}`);
    held = await holdLock(lock, SAY_EVERY_SECONDS, kind);
  }
  if (kind === "exclusive") {
    await writeFile(lock, `process ${process.pid} of ${userInfo().username}@${hostname()}\n`);
  }
  return held;
}

async function entryOf(name: string): Promise<CacheEntry | undefined> {
  const file = join(folder(), name);
  const { note } = placeAt(file.replace(/\.new$/, ""));
  try {
    const found = await stat(file);
    const [bytes, about, noted] = await Promise.all([
      found.isDirectory() ? bytesIn(file) : found.blocks * 512,
      readFile(note, "utf8").then(
        (text) => String((JSON.parse(text) as { about?: unknown }).about),
        () => "left by a process that was cut off",
      ),
      stat(note).catch(() => found),
    ]);
    return { about, file, bytes, lastUse: noted.mtime, isWhole: found.isFile() && !name.endsWith(".new") };
  } catch {
    return undefined; // It went meanwhile.
  }
}

async function bytesIn(folder: string): Promise<number> {
  const names = await readdir(folder);
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).blocks * 512));
  return sizes.reduce((sum, size) => sum + size, 0);
}

function folder(): string {
  return home("cache", "images");
}

function placeOf(key: string): Place {
  return placeAt(join(folder(), createHash("sha256").update(key).digest("hex")));
}

function placeAt(content: string): Place {
  return { content, note: `${content}.json`, lock: `${content}.lock` };
}

function isContent(name: string): boolean {
  return /^[0-9a-f]{64}(\.new)?$/.test(name);
}

async function isThere(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined)) !== undefined;
}

async function writeNote(note: string, about: string): Promise<void> {
  await writeWhole(note, JSON.stringify({ about }));
}

async function writeWhole(file: string, text: string): Promise<void> {
  await mkdir(folder(), { recursive: true });
  const part = `${file}.${randomUUID()}.part`;
  await writeFile(part, text);
  await rename(part, file);
}
