import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ExecaError, execa } from "execa";
import pLimit from "p-limit";
import pRetry from "p-retry";
import { inTemporaryFolder } from "../../temporary-folder";
import { Denied, NotFound, SiteFailure, Unreachable, VirtualClusterError } from "../errors";
import { RETRY, refusedKeyHint, SharedConnection, SSHD_BUSY, unreachableHint } from "../ssh";
import { connectionUri, goesOverSsh } from "./uri";

/** The object exists already: what an atomic reservation runs into. Known inside this driver only. */
export class AlreadyThere extends VirtualClusterError {}

export interface RunOptions {
  /** Whether it ends with this process, however that ends: a transfer that nobody waits for any more does harm. */
  readonly endsWithUs?: boolean;
  readonly timeoutSeconds?: number;
}

/** libvirtd's own limits are far higher; more than this at once only makes one wait for another. */
const PARALLEL_CALLS = 8;

/** Its socket is there meanwhile and refuses; an sshd may be too busy to let anybody in. */
function isNothingSent(stderr: string): boolean {
  return /Failed to connect socket to '.*': Connection refused/.test(stderr) || SSHD_BUSY.test(stderr);
}

/** Runs `virsh` against one libvirt. Arguments go as an array; only `batch`, which takes virsh's own syntax, quotes. */
export class Virsh {
  private readonly limit = pLimit(PARALLEL_CALLS);
  private readonly connection: string;
  private readonly shared = new SharedConnection();

  constructor(readonly uri: string) {
    this.connection = connectionUri(uri);
  }

  /**
   * One virsh command.
   * @returns what it printed
   * @throws Unreachable, Denied, NotFound, AlreadyThere, SiteFailure
   */
  async run(args: readonly string[], options: RunOptions = {}): Promise<string> {
    return this.limit(async () => {
      try {
        return (await this.spawn(args, options)).stdout;
      } catch (error) {
        throw translate(error, `virsh ${args.join(" ")}`, this.uri);
      }
    });
  }

  /** One command whose last argument is a file with this content. */
  async runWithFile(args: readonly string[], content: string): Promise<string> {
    return inTemporaryFolder(async (folder) => {
      const file = join(folder, "content");
      await writeFile(file, content, { mode: 0o600 });
      return this.run([...args, file]);
    });
  }

  /** Like `run`, but undefined where the object isn't there. */
  async runIfThere(args: readonly string[], options: RunOptions = {}): Promise<string | undefined> {
    return ifThere(this.run(args, options));
  }

  /**
   * Several commands in one process, for changing. virsh goes on after one that failed, so this is for commands of which
   * the later do no harm when the earlier have failed.
   * @throws what `run` throws, for the first that failed
   */
  async sequence(commands: ReadonlyArray<readonly string[]>): Promise<void> {
    if (commands.length === 0) {
      return;
    }
    const script = commands.map((command) => command.map(quote).join(" ")).join("; ");
    await this.limit(async () => {
      try {
        const { stderr } = await this.spawn([script], {});
        if (errorLines(stderr).length > 0) {
          throw errorOf(stderr, `virsh ${script}`, this.uri);
        }
      } catch (error) {
        throw translate(error, `virsh ${script}`, this.uri);
      }
    });
  }

  /**
   * Several commands in one process, for reading and removing: each one's output, empty where the object isn't there.
   * @param options `tolerant`: empty for any other failure of the object's as well
   * @throws Unreachable, Denied, SiteFailure: silence is never taken for absence
   */
  async batch(
    commands: ReadonlyArray<readonly string[]>,
    options: RunOptions & { readonly tolerant?: boolean } = {},
  ): Promise<string[]> {
    if (commands.length === 0) {
      return [];
    }
    // What guests and other users can write appears in the output, so the separator must not be guessable.
    const separator = randomUUID();
    const script = commands.map((command) => `${command.map(quote).join(" ")}; echo ${separator}`).join("; ");
    return this.limit(async () => {
      try {
        const { stdout, stderr } = await this.spawn([script], options);
        refuseFailures(stderr, this.uri, options.tolerant ?? false);
        return stdout.split(separator).slice(0, commands.length);
      } catch (error) {
        throw translate(error, `virsh ${commands[0]?.[0]} …`, this.uri);
      }
    });
  }

  private async spawn(args: readonly string[], options: RunOptions) {
    const run = () =>
      pRetry(() => this.execute(args, options), {
        ...RETRY,
        shouldRetry: ({ error }) => error instanceof ExecaError && isNothingSent(String(error.stderr)),
      });
    return goesOverSsh(this.uri) ? this.shared.run(run) : run();
  }

  private execute(args: readonly string[], options: RunOptions) {
    const virsh = ["virsh", "--quiet", "--connect", this.connection, ...args];
    const [program = "", ...all] = options.endsWithUs ? ["setpriv", "--pdeathsig", "TERM", ...virsh] : virsh;
    return execa(program, all, {
      stdin: "ignore",
      env: { LC_ALL: "C" },
      timeout: (options.timeoutSeconds ?? 120) * 1000,
      stripFinalNewline: false,
      maxBuffer: 256 * 1024 * 1024,
    });
  }
}

/** The value, or undefined where the promise failed because the object isn't there. */
export async function ifThere<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof NotFound) {
      return undefined;
    }
    throw error;
  }
}

/** virsh's own quoting: inside double quotes a backslash takes the next character as it is. */
function quote(word: string): string {
  return /^[\w.:/=-]+$/.test(word) ? word : `"${word.replaceAll(/["\\]/g, "\\$&")}"`;
}

const UNREACHABLE =
  /failed to connect|Failed to connect|Cannot recv data|End of file while reading|Connection (refused|reset)|client socket is closed|Broken pipe|Unable to resolve/i;
const DENIED = /Permission denied|access denied|authentication (failed|unavailable)|operation .* forbidden/i;
const NOT_FOUND = /not found|failed to get (domain|network|pool|vol)|no (domain|network|storage \w+) with matching/i;
const ALREADY_THERE = /already exists|exists already|already in use/i;

/** libvirt tells errors apart by number on the wire, but virsh prints only text; this is the one place that reads it. */
function translate(error: unknown, command: string, uri: string): Error {
  if (!(error instanceof ExecaError)) {
    return error as Error;
  }
  if (error.code === "ENOENT") {
    return new Unreachable("libvirt", "the program virsh is not installed", "Install libvirt-clients");
  }
  if (error.timedOut) {
    return new Unreachable(
      `libvirt at ${uri}`,
      `no answer to "${command}" in time`,
      "See whether libvirtd hangs there",
    );
  }
  return errorOf(String(error.stderr ?? "") || error.shortMessage, command, uri);
}

function errorOf(stderr: string, command: string, uri: string): Error {
  const said = lastWords(stderr);
  // What QEMU can't open is no question of who asks.
  if (DENIED.test(said) && !/could not open|cannot open/i.test(said)) {
    const hint =
      refusedKeyHint(said, " or with keyfile= in site.uri") ??
      "See whether this user may use that libvirt (group libvirt)";
    return new Denied(`libvirt at ${uri}`, said, hint);
  }
  if (UNREACHABLE.test(said)) {
    return unreachable(uri, said);
  }
  if (NOT_FOUND.test(said)) {
    return new NotFound(command, said);
  }
  return ALREADY_THERE.test(said) ? new AlreadyThere(command, said) : new SiteFailure(command, said);
}

/** virsh goes on after a command that failed; only stderr tells. */
function refuseFailures(stderr: string, uri: string, tolerant: boolean): void {
  for (const line of errorLines(stderr)) {
    // What a guest's agent says is the guest's own text.
    if (/agent/i.test(line) && tolerant) {
      continue;
    }
    if (UNREACHABLE.test(line)) {
      throw unreachable(uri, line);
    }
    if (!tolerant && !NOT_FOUND.test(line)) {
      throw new SiteFailure(`libvirt at ${uri}`, line);
    }
  }
}

function unreachable(uri: string, said: string): Unreachable {
  return new Unreachable(
    `libvirt at ${uri} can't be reached`,
    said,
    goesOverSsh(uri)
      ? unreachableHint(said, "site.uri", "virsh list")
      : "Start it (the default site with `npm run site:start`), or name another in site.uri",
  );
}

function lastWords(stderr: string): string {
  return errorLines(stderr).slice(-3).join("; ");
}

/** On a terminal virsh starts pkttyagent (polkit), which says this where no polkit runs, and nothing depends on it. */
const POLKIT_AGENT = /^Authorization not available\. Check if polkit service is running/;

function errorLines(stderr: string): string[] {
  return stderr
    .split("\n")
    .map((line) => line.replace(/^error: /, "").trim())
    .filter((line) => line !== "" && !POLKIT_AGENT.test(line));
}
