import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { SiteFailure } from "../errors";

/**
 * Serves one file over http for as long as the work takes, to whoever knows its address, which nobody can guess. An
 * OpenNebula front-end looks at it many times, in parts, and cuts off what it doesn't need any more.
 * @param address under which the front-end reaches this machine
 * @param use gets the file's address
 */
export async function servingFile<T>(file: string, address: string, use: (url: string) => Promise<T>): Promise<T> {
  const base = new URL(address);
  const path = `/${randomBytes(16).toString("hex")}/disk.raw`;
  const { size } = await stat(file);
  const server = createServer((request, response) => serve(file, size, path, request, response));
  // A part that takes long is no reason to end it.
  server.requestTimeout = 0;
  server.on("clientError", (_, socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) =>
      reject(
        new SiteFailure(
          `site.imageServer ${address}`,
          `no server can be started there: ${error.message}`,
          "See whether another program has that port",
        ),
      ),
    );
    server.listen(base.port === "0" ? 0 : Number(base.port || 80), () => resolve());
  });
  try {
    base.port = String((server.address() as AddressInfo).port);
    base.pathname = path;
    return await use(base.href);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

function serve(file: string, size: number, path: string, request: IncomingMessage, response: ServerResponse): void {
  request.on("error", () => undefined);
  response.on("error", () => undefined);
  if (request.url !== path || !(request.method === "GET" || request.method === "HEAD")) {
    response.writeHead(request.url === path ? 405 : 404).end();
    return;
  }
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
