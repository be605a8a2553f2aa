import { open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import type { Dispatcher } from "undici";
import type { Progress } from "../../drivers/driver";
import { InvalidImage, Unreachable } from "../../drivers/errors";
import {
  ask,
  broken,
  discard,
  HTTP_LIMITS,
  type HttpLimits,
  headerOf,
  lengthOf,
  refuseFailure,
  versionOf,
} from "./http-client";
import { Room } from "./sparse-file";
import { MOST_UNPACKED } from "./unpack";

const ATTEMPTS = 5;
/** An attempt that brought this much starts the count anew, bytes. */
const HEADWAY = 1024 * 1024;
/** Less than this in a window is as good as nothing, bytes. */
const LEAST = 16 * 1024;

export interface Download {
  readonly url: URL;
  /** For messages. */
  readonly what: string;
  /** Its size, where a manifest tells; else what the server says. */
  readonly size?: number;
}

/** What a file holds of a download, beside it. */
interface State {
  readonly url: string;
  /** Of what is there so far; without one it can't be resumed. */
  readonly version?: string;
  readonly isWhole: boolean;
}

/**
 * Gets a file. What is there of it is resumed, if the server still has the same; a connection that breaks is made anew.
 * @param version that the server has now, where that is known: a whole file of it isn't asked for again
 * @param has is told how much of it is there, bytes
 * @returns the version that it got
 * @throws Unreachable when the connection breaks again and again, NotFound, Denied, InvalidImage, NoCapacity
 */
export async function download(
  wanted: Download,
  into: string,
  { version, progress, has }: { version: string | undefined; progress: Progress; has: (bytes: number) => void },
  limits: HttpLimits = HTTP_LIMITS,
): Promise<string | undefined> {
  const state = await readState(into);
  if (state?.url === wanted.url.href && state.isWhole && version !== undefined && state.version === version) {
    has(await sizeOf(into));
    return version;
  }
  if (state?.url !== wanted.url.href || state.version === undefined || state.isWhole) {
    await rm(into, { force: true });
  }
  let furthest = await sizeOf(into);
  for (let failures = 0; ; ) {
    try {
      return await attempt(wanted, into, has, limits);
    } catch (error) {
      if (!(error instanceof Unreachable)) {
        throw error;
      }
      const reached = await sizeOf(into);
      failures = reached >= furthest + HEADWAY ? 1 : failures + 1;
      furthest = Math.max(furthest, reached);
      if (failures === ATTEMPTS) {
        throw error;
      }
      progress(`${wanted.url.pathname.split("/").at(-1)} broke off after ${reached} bytes: going on`);
      await setTimeout(limits.pause * 2 ** (failures - 1));
    }
  }
}

/** One connection's worth. */
async function attempt(
  { url, what, size }: Download,
  into: string,
  has: (bytes: number) => void,
  limits: HttpLimits,
): Promise<string | undefined> {
  const [present, state] = [await sizeOf(into), await readState(into)];
  const range: Record<string, string> =
    present > 0 && state?.version !== undefined ? { range: `bytes=${present}-`, "if-range": state.version } : {};
  const watch = new AbortController();
  const answer = await ask({ method: "GET", url, headers: range, signal: watch.signal, limits, what });
  try {
    if (answer.statusCode === 416) {
      // What is there is no beginning of what the server has now.
      await rm(into, { force: true });
      throw new Unreachable(what, `${url} has changed, or its server doesn't know its length`, "Try again");
    }
    refuseFailure(answer, url, what);
    const from = answer.statusCode === 206 ? rangeStart(answer, present, url, what) : 0;
    const length = lengthOf(answer);
    const total = length === undefined ? size : from + length;
    refuseSize(total, size, url, what);
    const version = versionOf(answer);
    await writeState(into, { url: url.href, ...(version !== undefined && { version }), isWhole: false });
    const reached = await receive(answer, into, from, { most: total ?? MOST_UNPACKED, url, what, has, watch, limits });
    if (total !== undefined && reached < total) {
      throw new Unreachable(what, `${url} ended after ${reached} of ${total} bytes`, AGAIN);
    }
    await writeState(into, { url: url.href, ...(version !== undefined && { version }), isWhole: true });
    return version;
  } catch (error) {
    throw broken(error, url, what);
  } finally {
    discard(answer);
  }
}

const AGAIN = "Run the same command again, which goes on where it broke off; or ask who keeps the server";

/** Where the server says that it goes on. */
function rangeStart(answer: Dispatcher.ResponseData, present: number, url: URL, what: string): number {
  const [, start] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headerOf(answer, "content-range") ?? "") ?? [];
  if (Number(start) !== present) {
    throw new InvalidImage(
      what,
      `${url} goes on at byte ${start ?? "?"} where byte ${present} was asked for`,
      "Its server doesn't know ranges: copy the repository to a folder",
    );
  }
  return present;
}

function refuseSize(total: number | undefined, expected: number | undefined, url: URL, what: string): void {
  if (expected !== undefined && total !== undefined && total !== expected) {
    throw new InvalidImage(
      what,
      `${url} has ${total} bytes, and ${expected} in its manifest`,
      "Ask who keeps the repository: one of the two is out of date",
    );
  }
  if (total !== undefined && total > MOST_UNPACKED && expected === undefined) {
    throw new InvalidImage(
      what,
      `${url} has ${total} bytes`,
      `Without a manifest.json that says so at most ${MOST_UNPACKED / 1024 ** 3} GiB are fetched`,
    );
  }
}

interface Reception {
  /** Bytes. */
  readonly most: number;
  readonly url: URL;
  readonly what: string;
  readonly has: (bytes: number) => void;
  readonly watch: AbortController;
  readonly limits: HttpLimits;
}

/** @returns how much of the file is there now */
async function receive(
  { body }: Dispatcher.ResponseData,
  into: string,
  from: number,
  { most, url, what, has, watch, limits }: Reception,
): Promise<number> {
  const room = new Room(into.slice(0, into.lastIndexOf("/")));
  const handle = await open(into, from > 0 ? "r+" : "w");
  let [reached, seen] = [from, from];
  // Whoever sends a byte from time to time stalls as well.
  const timer = setInterval(() => {
    if (reached - seen < LEAST) {
      watch.abort();
    }
    seen = reached;
  }, limits.window);
  try {
    has(reached);
    for await (const piece of body) {
      const chunk = piece as Buffer;
      if (reached + chunk.length > most) {
        throw new InvalidImage(what, `${url} sends more than ${most} bytes`, "Ask who keeps the repository");
      }
      await room.take(chunk.length);
      await handle.write(chunk, 0, chunk.length, reached);
      reached += chunk.length;
      has(reached);
    }
    return reached;
  } finally {
    clearInterval(timer);
    await handle.close();
  }
}

async function sizeOf(file: string): Promise<number> {
  return (await stat(file).catch(() => undefined))?.size ?? 0;
}

async function readState(file: string): Promise<State | undefined> {
  try {
    return JSON.parse(await readFile(`${file}.json`, "utf8")) as State;
  } catch {
    return undefined;
  }
}

async function writeState(file: string, state: State): Promise<void> {
  await writeFile(`${file}.json`, JSON.stringify(state));
}
