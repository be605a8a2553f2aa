import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { deserialize } from "node:v8";
import type { LifeCycles } from "../unit/stack";
import type { Answer, Life, Request } from "./host-process";
import { HostClient, type ShimTexts } from "./provider-client";
import type { SiteContent } from "./site-content";

const PROGRAM = join(__dirname, "..", "..", "examples", "quickstart");

export interface Remains {
  readonly site: SiteContent;
  /** Whether the host died before the work's end. */
  readonly died: boolean;
  /** Changes of the site that the host came to. */
  readonly steps: number;
}

/** Pulumi's dynamic-provider host in a process of its own; each piece of work gets a life of it. */
export class Host {
  private process: ChildProcess | undefined;
  private said = "";

  constructor(
    private readonly shims: ShimTexts,
    /** Where a host that is killed leaves what the site held. */
    private readonly legacy: string,
  ) {}

  /**
   * Does the work with a host that begins with this site, and says what its death or its end left.
   * @throws what the work threw, when the host didn't die
   */
  async live(
    life: Omit<Life, "legacy"> & { readonly config: Readonly<Record<string, string>>; readonly killed?: boolean },
    work: (lifeCycles: LifeCycles) => Promise<unknown>,
  ): Promise<Remains> {
    const { config, killed, ...rest } = life;
    const begun = await this.ask({ begin: { ...rest, legacy: killed ? this.legacy : undefined } });
    if (!begun || !("port" in begun)) {
      throw new Error(`the host didn't start:\n${this.said}`);
    }
    using client = new HostClient(begun.port);
    const outcome = await client
      .configure(config)
      .then(() => work(this.lifeCyclesOf(client)))
      .then(
        () => ({}),
        (error: Error) => ({ error }),
      );
    const remains = await this.end();
    if ("error" in outcome && !remains.died) {
      throw outcome.error;
    }
    return remains;
  }

  async stop(): Promise<void> {
    const { process } = this;
    if (process?.connected) {
      process.disconnect();
      process.kill();
      await once(process, "exit");
    }
  }

  private lifeCyclesOf(client: HostClient): LifeCycles {
    return {
      claim: client.lifeCycle(this.shims.claim),
      cluster: client.lifeCycle(this.shims.cluster),
      frontend: client.lifeCycle(this.shims.frontend),
      compute: client.lifeCycle(this.shims.compute),
    };
  }

  private async end(): Promise<Remains> {
    const ended = await this.ask("end");
    if (ended && "site" in ended) {
      return ended;
    }
    if (ended || this.process?.signalCode !== "SIGKILL") {
      throw new Error(`the host broke down:\n${this.said}`);
    }
    const site: SiteContent = deserialize(await readFile(this.legacy));
    await rm(this.legacy);
    return { site, died: true, steps: Number.NaN };
  }

  /** Undefined when the process ends instead. */
  private async ask(request: Request): Promise<Answer | undefined> {
    if (request !== "end" && !(this.process?.connected && this.process.exitCode === null)) {
      this.process = this.start();
    }
    const process = this.process as ChildProcess;
    if (process.exitCode !== null || process.signalCode !== null) {
      return undefined;
    }
    const over = new AbortController();
    const answered = once(process, "message", { signal: over.signal }).then(([answer]: Answer[]) => answer);
    const exited = once(process, "exit", { signal: over.signal }).then(() => undefined);
    process.send(request, () => undefined);
    try {
      return await Promise.race([answered, exited]);
    } finally {
      over.abort();
      await Promise.allSettled([answered, exited]);
    }
  }

  private start(): ChildProcess {
    // Its argument is where an engine would listen.
    const child = fork(join(__dirname, "host-process.ts"), ["127.0.0.1:0"], {
      cwd: PROGRAM,
      execArgv: ["--require", join(__dirname, "..", "register.cjs")],
      serialization: "advanced",
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        this.said = `${this.said}${chunk}`.slice(-4000);
      });
    }
    return child;
  }
}
