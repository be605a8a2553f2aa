import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer, type ServerOptions } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

/** Answers in the server's place. @returns whether it did */
export type Answer = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
}

/** An http server on loopback with the files of a folder: it knows ETags and ranges, as the usual ones do. */
export class FileServer implements AsyncDisposable {
  readonly asked: Asked[] = [];
  /** What isn't answered as usual. */
  odd: Answer = () => false;
  ranges = true;

  private constructor(
    private readonly server: Server,
    private readonly folder: string,
    private readonly scheme: "http" | "https",
  ) {}

  /** @param tls its key and certificate, where it is an https server */
  static async of(folder: string, tls?: ServerOptions): Promise<FileServer> {
    const server = tls ? createTlsServer(tls) : createServer();
    const files = new FileServer(server, folder, tls ? "https" : "http");
    server.on("request", (request, response) => void files.serve(request, response));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return files;
  }

  get url(): string {
    return `${this.scheme}://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Paths that were read, heads left out. */
  get got(): string[] {
    return this.asked.filter(({ method }) => method === "GET").map(({ path }) => path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", headers } = request;
    this.asked.push({ method, path: request.url ?? "", range: headers.range });
    response.on("error", () => undefined);
    if (this.odd(request, response)) {
      return;
    }
    const file = join(this.folder, decodeURIComponent(request.url ?? ""));
    const found = await stat(file).catch(() => undefined);
    if (!found?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    const etag = `"${found.mtimeMs}-${found.size}"`;
    const [, first] = (this.ranges && /^bytes=(\d+)-$/.exec(headers.range ?? "")) || [];
    const start = first !== undefined && headers["if-range"] === etag ? Number(first) : 0;
    if (start > found.size) {
      response.writeHead(416).end();
      return;
    }
    response.writeHead(start > 0 ? 206 : 200, {
      etag,
      "content-length": found.size - start,
      ...(start > 0 && { "content-range": `bytes ${start}-${found.size - 1}/${found.size}` }),
    });
    if (method === "HEAD") {
      response.end();
    } else {
      createReadStream(file, { start })
        .on("error", () => response.destroy())
        .pipe(response);
    }
  }
}
