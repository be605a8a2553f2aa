// A process that runs Pulumi's own dynamic-provider host, as the engine starts it in a program's folder. Starting one takes
// a second, so a life of the host may also end by being thrown away inside this process: from its death on it works on a
// site that nobody will see, nothing that it says is heard, and the next life loads all of the provider anew.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, sep } from "node:path";
import { kill, pid } from "node:process";
import { serialize } from "node:v8";
import type { Server, ServerCredentials, sendUnaryData } from "@grpc/grpc-js";
import { contentOf, type SiteContent } from "./site-content";

/** One life of the host. */
export interface Life {
  readonly siteName: string;
  readonly site: SiteContent;
  /** Before which of its changes of the site it dies, from 0. */
  readonly diesAt?: number | undefined;
  /** A file for what the site then holds, when this process dies by SIGKILL; else the life is thrown away. */
  readonly legacy?: string | undefined;
}

export type Request = { readonly begin: Life } | "end";

export type Answer =
  | { readonly port: number }
  | { readonly site: SiteContent; readonly steps: number; readonly died: boolean }
  | { readonly failure: string };

const program = createRequire(join(process.cwd(), "index.js"));
const hostModule = program.resolve("@pulumi/pulumi/cmd/dynamic-provider");
const provider = dirname(program.resolve("@virtual-cluster/provider")) + sep;
const siteModule = join(provider, "drivers", "memory", "site.js");
/** Watches the real parent of this process, which stays the same. */
const processWide = new Set([join(provider, "resources", "engine-watch.js")]);

const { Server: GrpcServer }: { Server: typeof Server } = createRequire(hostModule)("@grpc/grpc-js");
const bindAsync = GrpcServer.prototype.bindAsync;
let finish: () => Exclude<Answer, { port: number }> = () => ({ failure: "no life has begun" });

function begin({ siteName, site: content, diesAt, legacy }: Life): Promise<number> {
  forgetLastLife();
  const { memorySite }: typeof import("../../provider/src/drivers/memory/site") = require(siteModule);
  const site = Object.assign(memorySite(siteName), content);
  let steps = 0;
  let left: SiteContent | undefined;
  let server: Server | undefined;
  finish = () => {
    server?.forceShutdown();
    return { site: left ?? contentOf(site), steps, died: left !== undefined };
  };
  site.beforeStep = () => {
    if (!left && steps++ !== diesAt) {
      return;
    }
    left ??= contentOf(site);
    if (legacy) {
      writeFileSync(legacy, serialize(left));
      kill(pid, "SIGKILL");
    }
    server?.forceShutdown();
    throw new Error("it is dead");
  };
  return new Promise((resolve, reject) => {
    GrpcServer.prototype.bindAsync = function (
      this: Server,
      address: string,
      credentials: ServerCredentials,
      callback: sendUnaryData<number> & ((error: Error | null, port: number) => void),
    ) {
      server = this;
      bindAsync.call(this, address, credentials, (error, port) => {
        callback(error, port);
        error ? reject(error) : resolve(port);
      });
    };
    require(hostModule);
  });
}

function forgetLastLife(): void {
  for (const event of ["uncaughtException", "unhandledRejection", "exit"]) {
    process.removeAllListeners(event);
  }
  for (const file of Object.keys(require.cache)) {
    if (file === hostModule || (file.startsWith(provider) && !processWide.has(file))) {
      delete require.cache[file];
    }
  }
  module.children.length = 0;
}

process.on("message", async (request: Request) => {
  const answer: Answer = await (request === "end"
    ? Promise.resolve(finish())
    : begin(request.begin).then((port) => ({ port }))
  ).catch((error: Error) => ({ failure: error.stack ?? error.message }));
  process.send?.(answer);
});

process.on("disconnect", () => process.exit());
