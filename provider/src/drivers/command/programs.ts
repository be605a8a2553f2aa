import { spawn } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { setTimeout } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import pLimit from "p-limit";
import { NotFound, SiteFailure, VirtualClusterError } from "../errors";

const REQUIRED = ["fix_images", "allocate", "boot"] as const;
export type Program = (typeof REQUIRED)[number] | "status" | "shutdown" | "remove" | "reconfigure";

/** How long each may take, seconds. */
export const TIME_LIMITS: Readonly<Record<Program, number>> = {
  fix_images: 6 * 3600,
  allocate: 3600,
  boot: 3600,
  status: 60,
  shutdown: 3600,
  remove: 3600,
  reconfigure: 3600,
};
/** Between the wish to end and the end. */
const GRACE_MS = 5000;
/** How long the output of a program that has ended may still be on its way; its children may keep it open. */
const DRAIN_MS = 500;
const LONGEST_LINE = 2000;
const LINES_IN_ERRORS = 3;
/** From this exit code on the program itself said nothing: it couldn't be started, its interpreter is missing say. */
const NOT_STARTED = 126;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\x00-\x1f\x7f]/g;

/** A program ended with something else than success, or didn't end. Its detail says how, and what it printed last. */
export class ProgramFailed extends VirtualClusterError {
  /** @param hasEnded whether it ended by itself, with an exit code of its own */
  constructor(
    program: Program,
    detail: string,
    readonly hasEnded: boolean,
  ) {
    super(`the site's program ${program}`, detail);
  }
}

/** The programs of a site, in one folder. One runs at a time; only `status`, which changes nothing, waits for none. */
export class Programs {
  private readonly turn = pLimit(1);

  constructor(
    readonly folder: string,
    private readonly environment: Readonly<Record<string, string>> = {},
    private readonly limits: Readonly<Record<Program, number>> = TIME_LIMITS,
  ) {}

  has(program: Program): boolean {
    return this.whatIsWrong(program) === undefined;
  }

  /** @throws NotFound where one of those is missing that every site has */
  refuseIncomplete(): void {
    for (const program of REQUIRED) {
      const wrong = this.whatIsWrong(program);
      if (wrong !== undefined) {
        throw new NotFound(
          "the site's programs",
          `${join(this.folder, program)} ${wrong}`,
          "Name the folder that holds fix_images, allocate and boot in site.folder, each with its run bit (chmod +x)",
        ).about("site");
      }
    }
  }

  /**
   * Runs one to its end. Its children end with it where the time is up.
   * @param line gets each line that it prints, plain text
   * @returns the last line on its standard output that isn't empty
   * @throws ProgramFailed
   */
  run(program: Program, args: readonly string[], cwd: string, line: (text: string) => void): Promise<string> {
    const run = () => this.execute(program, args, cwd, line);
    return program === "status" ? run() : this.turn(run);
  }

  private async execute(program: Program, args: readonly string[], cwd: string, say: (text: string) => void) {
    const file = join(this.folder, program);
    const said: string[] = [];
    let last = "";
    const hear = (text: string) => {
      said.push(text);
      said.splice(0, said.length - LINES_IN_ERRORS);
      say(text);
    };
    // A group of its own: Ctrl-C lets what is under way finish, and its children can be ended with it.
    const child = spawn("setpriv", ["--pdeathsig", "TERM", file, ...args], {
      cwd,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...this.environment },
    });
    const heard = Promise.all([
      linesOf(child.stdout, (text) => {
        last = text;
        hear(text);
      }),
      linesOf(child.stderr, hear),
    ]);
    const ended = new Promise<{ code: number | null; signal: string | null }>((resolve, reject) => {
      child.once("error", ({ message }) =>
        reject(
          new SiteFailure(
            `the site's program ${program} can't be started`,
            message,
            "See whether setpriv (util-linux) is installed",
          ),
        ),
      );
      child.once("exit", (code, signal) => resolve({ code, signal }));
    });
    const seconds = this.limits[program];
    const inTime = new AbortController();
    const late = setTimeout(seconds * 1000, true, { signal: inTime.signal }).catch(() => false);
    const isLate = await Promise.race([ended.then(() => false), late]);
    inTime.abort();
    if (isLate) {
      await endGroup(child.pid, ended);
    }
    const { code, signal } = await ended;
    await Promise.race([heard, setTimeout(DRAIN_MS, undefined, { ref: false })]);
    child.stdout.destroy();
    child.stderr.destroy();
    if (isLate || signal !== null || code !== 0) {
      const how = isLate
        ? `didn't end within ${seconds} s, and was ended`
        : signal !== null
          ? `was ended by ${signal}`
          : `ended with exit code ${code}`;
      const words = said.length > 0 ? ` (${said.join("; ")})` : "";
      const hasEnded = !isLate && code !== null && code < NOT_STARTED;
      throw new ProgramFailed(program, `${how}${words}`, hasEnded);
    }
    return last;
  }

  private whatIsWrong(program: Program): string | undefined {
    const file = join(this.folder, program);
    try {
      if (!statSync(file).isFile()) {
        return "is no file";
      }
    } catch {
      return "is missing";
    }
    try {
      accessSync(file, constants.X_OK);
      return undefined;
    } catch {
      return "isn't executable";
    }
  }
}

async function endGroup(pid: number | undefined, ended: Promise<unknown>): Promise<void> {
  const kill = (signal: NodeJS.Signals) => {
    try {
      process.kill(-(pid ?? Number.NaN), signal);
    } catch {
      // All have ended.
    }
  };
  kill("SIGTERM");
  await Promise.race([ended, setTimeout(GRACE_MS)]);
  // Whoever didn't listen, a child of it perhaps.
  kill("SIGKILL");
}

/** Hands over each line that isn't empty, cut where it is too long, without what a terminal would act on. */
async function linesOf(stream: Readable, line: (text: string) => void): Promise<void> {
  const decoder = new StringDecoder("utf8");
  const say = (text: string) => {
    const plain = stripVTControlCharacters(text).replace(CONTROL, " ").trim();
    if (plain) {
      line(plain);
    }
  };
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.write(chunk as Buffer)).split("\n");
    rest = (lines.pop() ?? "").slice(0, LONGEST_LINE);
    for (const text of lines) {
      say(text.slice(0, LONGEST_LINE));
    }
  }
  say(rest + decoder.end());
}
