import { posix } from "node:path";
import pLimit from "p-limit";
import { InvalidImage, NotFound } from "../../drivers/errors";
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
import { checkName, MOST_TEXT, type Store, type StoredFile } from "./store";

/** A preview asks for the same text several times; what is older might be out of date. */
const KEPT_MS = 5_000;
/** At a time, to all repositories. */
const connections = pLimit(6);

const texts = new Map<string, { readonly at: number; readonly text: Promise<string | undefined> }>();

/** A repository behind a base URL. Nothing beside or above it is asked for. */
export class HttpStore implements Store {
  private constructor(
    private readonly base: URL,
    private readonly limits: HttpLimits,
  ) {}

  /** @throws InvalidImage for a URL that can't be a repository's */
  static at(repository: string, limits: HttpLimits = HTTP_LIMITS): HttpStore {
    const base = URL.canParse(repository) ? new URL(repository) : undefined;
    if (!base || base.search || base.hash || base.username || base.password) {
      throw new InvalidImage(
        `repository ${base ? `${base.origin}${base.pathname}` : repository}`,
        "its URL has a user, a password, a query or a fragment, or is none",
        "It would be written into the state: serve it without, or copy it to a folder and name that",
      );
    }
    base.pathname = base.pathname.replace(/\/*$/, "/");
    return new HttpStore(base, limits);
  }

  list(): Promise<string> {
    return this.text("vcdb.txt", `repository ${this.base}`);
  }

  async text(path: string, what: string): Promise<string> {
    const text = await this.textIfThere(path, what);
    if (text === undefined) {
      throw new NotFound(
        what,
        `the server has no ${this.urlOf(path, what)}`,
        "Look whether the repository's URL is right",
      );
    }
    return text;
  }

  textIfThere(path: string, what: string): Promise<string | undefined> {
    const url = this.urlOf(path, what);
    const known = texts.get(url.href);
    if (known && Date.now() - known.at < KEPT_MS) {
      return known.text;
    }
    const text = connections(() => this.fetchText(url, what));
    texts.set(url.href, { at: Date.now(), text });
    text.catch(() => texts.delete(url.href));
    return text;
  }

  async look(path: string, what: string): Promise<StoredFile> {
    const url = this.urlOf(path, what);
    const answer = await connections(() => ask({ method: "HEAD", url, limits: this.limits, what }));
    discard(answer);
    const name = posix.basename(path);
    if (answer.statusCode === 405 || answer.statusCode === 501) {
      return { name, at: url.href, isHere: false };
    }
    refuseFailure(answer, url, what);
    const [size, version] = [lengthOf(answer), versionOf(answer)];
    return {
      name,
      at: url.href,
      isHere: false,
      ...(size !== undefined && { size }),
      ...(version !== undefined && { version }),
    };
  }

  private async fetchText(url: URL, what: string): Promise<string | undefined> {
    const signal = AbortSignal.timeout(this.limits.text);
    const answer = await ask({ method: "GET", url, signal, limits: this.limits, what });
    if (answer.statusCode === 404) {
      discard(answer);
      return undefined;
    }
    try {
      refuseFailure(answer, url, what);
      const encoding = headerOf(answer, "content-encoding") ?? "identity";
      if (encoding !== "identity") {
        throw new InvalidImage(what, `${url} comes as ${encoding}`, "Its server should send files as they are");
      }
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of answer.body) {
        size += (chunk as Buffer).length;
        if (size > MOST_TEXT) {
          throw new InvalidImage(what, `${url} has more than ${MOST_TEXT} bytes`, "It is no list or description");
        }
        chunks.push(chunk as Buffer);
      }
      return Buffer.concat(chunks).toString("utf8");
    } catch (error) {
      throw broken(error, url, what);
    } finally {
      discard(answer);
    }
  }

  private urlOf(path: string, what: string): URL {
    checkName(path, what);
    const segments = path.split("/").filter((segment) => segment !== "" && segment !== ".");
    if (segments.includes("..") || /\\|%(2e|2f|5c)/i.test(path)) {
      throw new InvalidImage(
        what,
        `names ${JSON.stringify(path)}, which may lead out of the repository`,
        "Only files below its URL are read: put it there, and name it without .. and %",
      );
    }
    return new URL(segments.map(encodeURIComponent).join("/"), this.base);
  }
}
