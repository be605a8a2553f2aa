import { type Dispatcher, EnvHttpProxyAgent, request } from "undici";
import { Denied, InvalidImage, NotFound, Unreachable, VirtualClusterError } from "../../drivers/errors";

const MOST_REDIRECTS = 5;

/** How long a server may take for what, milliseconds. */
export interface HttpLimits {
  /** To take a connection, and then to begin an answer. */
  readonly answer: number;
  /** For a text as a whole. */
  readonly text: number;
  /** For the least that has to arrive of a disk. */
  readonly window: number;
  /** Before a broken connection is made anew; twice as long each time. */
  readonly pause: number;
}

export const HTTP_LIMITS: HttpLimits = { answer: 10_000, text: 30_000, window: 30_000, pause: 1_000 };

const dispatchers = new Map<number, Dispatcher>();

/** Proxies as the environment says: HTTPS_PROXY, HTTP_PROXY, NO_PROXY. */
function dispatcherFor({ answer }: HttpLimits): Dispatcher {
  const known = dispatchers.get(answer);
  if (known) {
    return known;
  }
  const made = new EnvHttpProxyAgent({
    connect: { timeout: answer },
    headersTimeout: answer,
    // Bodies have limits of their own.
    bodyTimeout: 0,
    // Most proxies refuse tunnels to port 80; https takes one anyway.
    proxyTunnel: false,
  });
  dispatchers.set(answer, made);
  return made;
}

export interface HttpRequest {
  readonly method: "GET" | "HEAD";
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  readonly limits: HttpLimits;
  /** Whose it is, for messages. */
  readonly what: string;
}

/**
 * Asks a server, and follows its redirects: a few, to another host by https only, and never from https to http.
 * @returns an answer of any status but a redirect's
 * @throws Unreachable, InvalidImage
 */
export async function ask(asked: HttpRequest): Promise<Dispatcher.ResponseData> {
  let { url } = asked;
  for (let redirects = 0; ; redirects++) {
    const answer = await askOnce({ ...asked, url });
    const location = headerOf(answer, "location");
    if (answer.statusCode < 300 || answer.statusCode > 399 || location === undefined) {
      return answer;
    }
    discard(answer);
    if (redirects === MOST_REDIRECTS) {
      throw new InvalidImage(
        asked.what,
        `${asked.url} is redirected more than ${MOST_REDIRECTS} times`,
        "Name the URL at which its files are",
      );
    }
    url = redirected(url, location, asked.what);
  }
}

/** @throws InvalidImage for a redirect that isn't followed */
export function redirected(from: URL, location: string, what: string): URL {
  const to = URL.canParse(location, from.href) ? new URL(location, from) : undefined;
  if (!to || !(to.protocol === "https:" || (from.protocol === "http:" && to.origin === from.origin))) {
    throw new InvalidImage(
      what,
      `${from} is redirected to ${JSON.stringify(location)}`,
      "Another host is followed to by https only: name the URL at which its files are",
    );
  }
  return to;
}

async function askOnce(asked: HttpRequest, isAgain = false): Promise<Dispatcher.ResponseData> {
  const { method, url, headers, signal, limits, what } = asked;
  try {
    return await request(url, {
      method,
      // What is at the server, byte by byte.
      headers: { ...headers, "accept-encoding": "identity" },
      dispatcher: dispatcherFor(limits),
      ...(signal && { signal }),
    });
  } catch (error) {
    // A server may close a connection that has been idle just when it is used again.
    if (!isAgain && CLOSED.includes((error as NodeJS.ErrnoException).code ?? "")) {
      return askOnce(asked, true);
    }
    throw broken(error, url, what);
  }
}

const CLOSED = ["UND_ERR_SOCKET", "ECONNRESET", "EPIPE"];

/** What this machine's own disk fails with. */
const OWN_FAILURES = ["ENOSPC", "EDQUOT", "EACCES", "EROFS", "EIO"];

/** Codes of Node.js for certificates. */
const UNTRUSTED = /CERT|SIGNATURE|^INVALID_(CA|PURPOSE)$|^HOSTNAME_MISMATCH$/;

/** A connection that failed, in words. Other failures stay what they are. */
export function broken(error: unknown, url: URL, what: string): unknown {
  const { name, code = "", message, cause } = error as NodeJS.ErrnoException & { readonly cause?: unknown };
  if (error instanceof VirtualClusterError || OWN_FAILURES.includes(code)) {
    return error;
  }
  if (UNTRUSTED.test(code)) {
    return new Denied(
      what,
      `${url.origin} shows a certificate that isn't trusted here (${message})`,
      "Set NODE_EXTRA_CA_CERTS to a file with its authority's certificate, or name a repository whose certificate is known",
    );
  }
  const reason =
    name === "AbortError" || name === "TimeoutError" ? "it takes too long" : message || code || String(cause);
  return new Unreachable(
    what,
    `${url.origin} doesn't answer as it should (${reason})`,
    "Look whether it runs and can be reached from here, through a proxy (HTTPS_PROXY) perhaps; then run the same command again",
  );
}

/** @throws for an answer that isn't what was asked for */
export function refuseFailure({ statusCode }: Dispatcher.ResponseData, url: URL, what: string): void {
  if (statusCode === 404 || statusCode === 410) {
    throw new NotFound(
      what,
      `the server has no ${url}`,
      "Look whether the repository's URL and its vcdb.txt are right",
    );
  }
  if (statusCode === 401 || statusCode === 403) {
    throw new Denied(what, `${url} may not be read (${statusCode})`, "Only public repositories are read over http");
  }
  if (statusCode !== 200 && statusCode !== 206) {
    throw new Unreachable(what, `${url} answers with ${statusCode}`, "Try again later, or ask who keeps the server");
  }
}

export function headerOf({ headers }: Dispatcher.ResponseData, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Bytes that the answer says it has. */
export function lengthOf(answer: Dispatcher.ResponseData): number | undefined {
  const text = headerOf(answer, "content-length");
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** What changes when the content does, as If-Range takes it: a weak ETag doesn't do. */
export function versionOf(answer: Dispatcher.ResponseData): string | undefined {
  const tag = headerOf(answer, "etag");
  return tag?.startsWith('"') ? tag : headerOf(answer, "last-modified");
}

/** Lets go of an answer whose content nobody wants. */
export function discard({ body }: Dispatcher.ResponseData): void {
  body.on("error", () => undefined).destroy();
}
