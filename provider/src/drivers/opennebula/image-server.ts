import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { SiteFailure } from "../errors";

/**
 * Serves one file over http for as long as the work takes, to whoever knows its address, which nobody can guess. An
 * OpenNebula front-end looks at it many times, in parts, and cuts off what it doesn't need any more.
 * @param address under which the front-end reaches this machine
 * @param use gets the file's address
 */
export async function servingFile<T>(file: string, address: string, use: (url: string) => Promise<T>): Promise<T> {
  const url = new URL(address);
  const port = Number(url.port || 80);
  const path = `/${randomBytes(16).toString("hex")}/disk.raw`;
  const { size } = await stat(file);
  const server = serverAt(port, address);
  server.files.set(path, { file, size });
  try {
    await server.listening;
    url.port = String((server.http.address() as AddressInfo).port);
    url.pathname = path;
    return await use(url.href);
  } finally {
    server.files.delete(path);
    if (server.files.size === 0) {
      servers.delete(port);
      server.http.closeAllConnections();
      await new Promise((resolve) => server.http.close(resolve));
    }
  }
}

interface ServedFile {
  readonly file: string;
  readonly size: number;
}

interface FileServer {
  readonly http: Server;
  /** By path. */
  readonly files: Map<string, ServedFile>;
  readonly listening: Promise<void>;
}

/** One on each port, whatever the number of files that are fetched at the same time. */
const servers = new Map<number, FileServer>();

function serverAt(port: number, address: string): FileServer {
  const present = servers.get(port);
  if (present) {
    return present;
  }
  const files = new Map<string, ServedFile>();
  const http = createServer((request, response) => serve(files.get(request.url ?? ""), request, response));
  // A part that takes long is no reason to end it.
  http.requestTimeout = 0;
  http.on("clientError", (_, socket) => socket.destroy());
  const listening = new Promise<void>((resolve, reject) => {
    http.once("error", (error) =>
      reject(
        new SiteFailure(
          `site.imageServer ${address}`,
          `no server can be started there: ${error.message}`,
          "See whether another program has that port",
        ),
      ),
    );
    http.listen(port, () => resolve());
  });
  const server = { http, files, listening };
  servers.set(port, server);
  return server;
}

function serve(served: ServedFile | undefined, request: IncomingMessage, response: ServerResponse): void {
  request.on("error", () => undefined);
  response.on("error", () => undefined);
  if (!served || !(request.method === "GET" || request.method === "HEAD")) {
    response.writeHead(served ? 405 : 404).end();
    return;
  }
  const { file, size } = served;
  const range = rangeIn(request.headers.range, size);
  if (range === "unsatisfiable") {
    response.writeHead(416, { "Content-Range": `bytes */${size}` }).end();
    return;
  }
  const { first, last } = range ?? { first: 0, last: size - 1 };
  response.writeHead(range ? 206 : 200, {
    "Content-Type": "application/octet-stream",
    "Content-Length": last - first + 1,
    "Accept-Ranges": "bytes",
    ...(range && { "Content-Range": `bytes ${first}-${last}/${size}` }),
  });
  if (request.method === "HEAD" || size === 0) {
    response.end();
    return;
  }
  const content = createReadStream(file, { start: first, end: last });
  content.on("error", () => response.destroy());
  response.on("close", () => content.destroy());
  content.pipe(response);
}

/** The one range of `bytes=`; undefined for none, and for several, which are answered with the whole (RFC 9110, 14.2). */
export function rangeIn(
  header: string | undefined,
  size: number,
): { readonly first: number; readonly last: number } | "unsatisfiable" | undefined {
  const [, from, to] = /^bytes=(\d*)-(\d*)$/.exec(header ?? "") ?? [];
  if (from === undefined || to === undefined || (from === "" && to === "")) {
    return undefined;
  }
  const first = from === "" ? Math.max(0, size - Number(to)) : Number(from);
  const last = from === "" || to === "" ? size - 1 : Math.min(Number(to), size - 1);
  if (from !== "" && to !== "" && Number(to) < Number(from)) {
    return undefined;
  }
  return first >= size || first > last ? "unsatisfiable" : { first, last };
}
