import { randomUUID } from "node:crypto";
import type { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ExecaError, execa } from "execa";
import pLimit from "p-limit";
import pRetry from "p-retry";
import { shellWord } from "../../shell-word";
import { Denied, NotFound, SiteFailure, Unreachable } from "../errors";
import type { RocksSettings } from "../settings";
import { RETRY, refusedKeyHint, SHARED_SSH, SharedConnection, SSHD_BUSY, unreachableHint } from "../ssh";

/** sshd lets ten sessions share a connection. */
const PARALLEL_CALLS = 6;
const SECONDS = 120;
/** Rocks opens a libvirt for each machine whose status is asked for, and waits two minutes for one that is silent. */
const LIST_SECONDS = 600;
/** Each change restarts services, and `remove cluster` the network of containers. */
const CHANGE_SECONDS = 1800;
/** Of listings at a time: each takes a Python about a second to begin. */
const PARALLEL_LISTS = 4;
/** How often a listing is asked for again that died of a machine which went meanwhile. */
const MORE_LISTINGS = 4;
/** With this a script of ours says that a container didn't let it in. */
const CONTAINER_UNREACHABLE = 97;

const TO_CONTAINER = ["-q", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15"];

/** What `rocks` runs through: Rocks' own way to become root takes the quotes off arguments and always exits with 0. */
const BY_SUDO = "by=(sudo -n)";
const BY_SUDO_UNLESS_ROOT = `by=(); [ "$(id -u)" = 0 ] || ${BY_SUDO}`;
const BY_ITSELF = "by=()";

/** With this a script of ours says that sudo refuses the account. */
const REFUSED = 98;

/**
 * Whether sudo lets the account run the program, whatever for, and whether it may write our folder, or where that is to be
 * made: says in a line what it may not. Arguments: program, folder.
 */
const HAS_RIGHTS = `export LC_ALL=C
[ "\${#by[@]}" = 0 ] || "\${by[@]}" -l "$1" >/dev/null || exit ${REFUSED}
there=$2
while [ ! -e "$there" ]; do there=$(dirname "$there"); done
[ -d "$there" ] && [ -w "$there" ] && [ -x "$there" ] || echo "$(id -un) may not write $there"
`;

/** How sudo refuses an account; with the other words it only warns. */
const SUDO_REFUSES = /^sudo: (?!unable to resolve host)|^Sorry, user | is not in the sudoers file/;
const SUDO_FINDS_NOTHING = /^sudo: \S+: command not found/;

/** How `rocks` says that it doesn't know a host; with the second words where DNS does. */
export const NO_HOST = /^cannot resolve host|^host "[^"]*" is not in cluster/;

/** A container's libvirt that didn't let Rocks in, or went while it was asked. */
const LIBVIRT_SILENT =
  /libvirtError: .*(unable to connect|[Cc]annot connect|No route|refused|timed out|resolve|reset by peer|End of file|closed|authentication|certificate|recv data)/;
/** Of a machine that stopped while Rocks looked at those of its container. */
const VANISHED = /libvirtError: Domain not found/;

/**
 * Locked while a command changes the tables, also when whoever asked for that has gone: the program itself, which is always
 * there. Argument: program.
 */
const WHILE_CHANGING = `[ ! -r "$1" ] || { exec 8<"$1" && flock -s 8; } || exit 1
`;
const UNTIL_UNCHANGING = `[ ! -r "$1" ] || { exec 8<"$1" && flock 8; }
`;

/** Runs a command and says on a line of its own how it ended and what it said on stderr. Nothing of ours is its input. */
const RUN = `export LC_ALL=C
run() {
  local said code
  { said=$("$@" 2>&1 >&3 3>&- 8<&- </dev/null); code=$?; } 3>&1
  [ -z "$said" ] || said=$(printf %s "$said" | base64 -w 0)
  printf '\\n%s %s %s\\n' "$mark" "$code" "$said"
  return "$code"
}
`;

export interface ScriptOptions {
  readonly input?: string | Buffer | Readable;
  readonly timeoutSeconds?: number;
}

export interface Answer {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * The Rocks frontend, on this machine or over ssh: `rocks` commands as root, by sudo where the account isn't, and scripts as
 * the account.
 */
export class RocksFrontend {
  private readonly limit = pLimit(PARALLEL_CALLS);
  private readonly shared = new SharedConnection();
  /** Comes before all that a script prints; before that comes what a log-in may. */
  private readonly mark = randomUUID();
  readonly program: string;

  constructor(private readonly settings: RocksSettings) {
    this.program = settings.rocks ?? "/opt/rocks/bin/rocks";
  }

  /** What it is called in messages. */
  get name(): string {
    return this.settings.ssh ? `Rocks at ${this.settings.ssh}` : "Rocks on this machine";
  }

  /**
   * Several commands in one go; what comes after one that failed isn't run.
   * @throws Unreachable, Denied, NotFound, SiteFailure
   */
  async sequence(commands: ReadonlyArray<readonly string[]>): Promise<void> {
    await this.inTurn(commands, "");
  }

  /**
   * The same for what changes Rocks' tables, under the site's lock: when that is lost, whoever has it next waits until the
   * commands have ended.
   */
  async change(commands: ReadonlyArray<readonly string[]>): Promise<void> {
    await this.inTurn(commands, WHILE_CHANGING);
  }

  /** Waits until what `change` has begun has ended: with a connection, the answer may have been lost alone. */
  async untilUnchanging(): Promise<void> {
    await this.script(UNTIL_UNCHANGING, [this.program], { timeoutSeconds: CHANGE_SECONDS });
  }

  /** One command for reading. @throws what `sequence` throws */
  async list(args: readonly string[]): Promise<string> {
    const [answer] = await this.lists([args]);
    return answer ? this.outputOf(answer, args) : "";
  }

  /** Several commands in one go, for reading, whether or not others fail. */
  async lists(commands: ReadonlyArray<readonly string[]>, more = MORE_LISTINGS): Promise<Answer[]> {
    const runs = this.runsOf(commands).map((run) => `<(${run})`);
    const lines = [...chunksOf(runs, PARALLEL_LISTS)].map((some) => `cat ${some.join(" ")}`);
    const answers = await this.answers(lines, { seconds: LIST_SECONDS });
    const died = answers.flatMap(({ stderr }, index) => (VANISHED.test(lastLine(stderr)) ? [index] : []));
    if (died.length === 0 || more === 0) {
      return answers;
    }
    const again = await this.lists(
      died.map((index) => commands[index] ?? []),
      more - 1,
    );
    return answers.map((answer, index) => again[died.indexOf(index)] ?? answer);
  }

  private async inTurn(commands: ReadonlyArray<readonly string[]>, before: string): Promise<void> {
    const lines = this.runsOf(commands).map((run) => `${run} || exit 0`);
    const answers = await this.answers(lines, { before, seconds: CHANGE_SECONDS });
    for (const [index, answer] of answers.entries()) {
      this.outputOf(answer, commands[index] ?? []);
    }
  }

  /** What a command printed. @throws what `sequence` throws */
  outputOf(answer: Answer, args: readonly string[]): string {
    const error = this.failureOf(answer, args);
    if (error) {
      throw error;
    }
    return answer.stdout;
  }

  /**
   * A script for bash.
   * @throws Unreachable, Denied, SiteFailure
   */
  async script(script: string, args: readonly string[] = [], options: ScriptOptions = {}): Promise<string> {
    const answer = await this.spawn(script, args, options);
    refuseFailure(`${this.name}: a step there failed`, answer);
    return answer.stdout;
  }

  /**
   * A script on a container, by ssh from the Rocks frontend; undefined: on the Rocks frontend itself.
   * @throws Unreachable naming the container
   */
  async scriptOn(
    container: string | undefined,
    script: string,
    args: readonly string[] = [],
    options: ScriptOptions = {},
  ): Promise<Answer> {
    if (container === undefined) {
      return this.spawn(script, args, options);
    }
    const answer = await this.spawn(ON_CONTAINER, [container, this.wordsOf(script, args)], options);
    if (answer.exitCode === CONTAINER_UNREACHABLE) {
      throw new ContainerUnreachable(
        `container ${container} can't be reached from the Rocks frontend`,
        lastWords(answer.stderr),
        `See whether \`ssh ${container} true\` works there without a question, as the account that site.ssh names`,
      );
    }
    return answer;
  }

  /** The output of one such script as the input of another. @throws Unreachable */
  async pipe(from: PlacedScript, to: PlacedScript, options: ScriptOptions): Promise<Answer> {
    return this.spawn(PIPE, [this.commandOf(from), this.commandOf(to), this.mark], options);
  }

  /** A line for a shell on the Rocks frontend. */
  private commandOf({ container, script, args }: PlacedScript): string {
    const command = this.wordsOf(script, args);
    return container === undefined ? command : ["ssh", ...TO_CONTAINER, container, command].map(shellWord).join(" ");
  }

  private wordsOf(script: string, args: readonly string[]): string {
    return ["/bin/bash", "-c", this.marked(script), "virtual-cluster", ...args].map(shellWord).join(" ");
  }

  private marked(script: string): string {
    return `printf '\\n%s\\n' ${this.mark}\n${script}`;
  }

  /** A script like that of `scriptOn`, whose output goes on as it comes. */
  async stream(placed: PlacedScript, output: Writable, timeoutSeconds: number): Promise<void> {
    const [program = "", ...rest] = this.commandLine(this.commandOf(placed), []);
    const running = execa(program, rest, {
      stdin: "ignore",
      env: { LC_ALL: "C" },
      timeout: timeoutSeconds * 1000,
      buffer: { stdout: false },
      reject: false,
    });
    // What ends early says so itself.
    const stripped = pipeline(running.stdout, (source) => after(this.mark, source), output);
    await Promise.all([stripped.catch(() => undefined), running]);
    refuseFailure(`${this.name}: a step there failed`, this.answerOf(await running, timeoutSeconds));
  }

  /** The words of a command line that runs a script there. */
  commandLine(script: string, args: readonly string[]): string[] {
    const { ssh } = this.settings;
    const words = ["-c", script, "virtual-cluster", ...args];
    if (ssh === undefined) {
      return ["bash", ...words];
    }
    return [
      SHARED_SSH,
      "-T",
      "-o",
      "BatchMode=yes",
      "-e",
      "none",
      ssh,
      ["/bin/bash", ...words].map(shellWord).join(" "),
    ];
  }

  /**
   * That the account may do what all else takes: run `rocks` as root, and write our folder.
   * @throws Denied
   */
  async refuseWithoutRights(folder: string): Promise<void> {
    const answer = await this.spawn(`${this.byWhom}\n${HAS_RIGHTS}`, [this.program, folder], {});
    if (answer.exitCode === REFUSED) {
      throw this.refusalOf(lastLine(answer.stderr));
    }
    refuseFailure(`${this.name}: what the account may do`, answer);
    const missing = answer.stdout.trim();
    if (missing !== "") {
      throw new Denied(`${this.name}: diskFolder ${folder}`, missing, FOLDER_HINT);
    }
  }

  private get byWhom(): string {
    const { sudo } = this.settings;
    return sudo === undefined ? BY_SUDO_UNLESS_ROOT : sudo ? BY_SUDO : BY_ITSELF;
  }

  private runsOf(commands: ReadonlyArray<readonly string[]>): string[] {
    return commands.map((args) => `run "\${by[@]}" ${[this.program, ...args].map(shellWord).join(" ")}`);
  }

  /** @param lines of a script, in which `run` runs commands */
  private async answers(
    lines: readonly string[],
    { before = "", seconds }: { before?: string; seconds: number },
  ): Promise<Answer[]> {
    if (lines.length === 0) {
      return [];
    }
    // What others can write appears in the output, so the separator must not be guessable.
    const mark = randomUUID();
    const script = `${this.byWhom}\nmark=${mark}\n${before}${RUN}${lines.join("\n")}\nexit 0\n`;
    const answer = await this.spawn(script, [this.program], { timeoutSeconds: seconds });
    const { stdout } = answer;
    refuseFailure(`${this.name}: rocks commands couldn't be run`, answer);
    const pieces = stdout.split(`\n${mark} `);
    return pieces.slice(1).map((ending, index) => {
      const [, code = "", said = ""] = /^(\d+) ([\w+/=]*)\n/.exec(ending) ?? [];
      const before = pieces[index] ?? "";
      return {
        exitCode: Number(code),
        stdout: index === 0 ? before : before.slice(before.indexOf("\n") + 1),
        stderr: Buffer.from(said, "base64").toString("utf8"),
      };
    });
  }

  /**
   * A failure is an exit code, or an error line on stdout, or a traceback on stderr: each of them comes without the others.
   */
  private failureOf({ exitCode, stdout, stderr }: Answer, args: readonly string[]): Error | undefined {
    const said = errorIn(stdout);
    const traceback = /^Traceback \(most recent call last\)/m.test(stderr);
    if (exitCode === 0 && said === undefined && !traceback) {
      return undefined;
    }
    const what = `rocks ${args.join(" ")}`;
    const words = said ?? (lastLine(stderr) || lastLine(stdout) || `exit code ${exitCode}`);
    if (exitCode === 126 || exitCode === 127) {
      return this.notRun(words);
    }
    if (said === undefined && SUDO_REFUSES.test(words)) {
      return this.refusalOf(words);
    }
    if (/Dabase error|OperationalError/.test(words)) {
      return new Unreachable(`${this.name}: its database doesn't answer`, words, "See whether its MySQL runs");
    }
    if (traceback && LIBVIRT_SILENT.test(words)) {
      return new Unreachable(
        `${this.name}: a container's libvirt doesn't answer`,
        words,
        "See whether that container runs",
      );
    }
    return NO_HOST.test(words) ? new NotFound(what, words) : new SiteFailure(what, words);
  }

  /** @param said sudo's words */
  private refusalOf(said: string): Error {
    return SUDO_FINDS_NOTHING.test(said)
      ? this.notRun(said)
      : new Denied(
          `${this.name}: sudo refuses this account`,
          said || `it may not run ${this.program}`,
          `Its line for sudoers is: account ALL=(root) NOPASSWD: ${this.program}`,
        );
  }

  private notRun(said: string): Unreachable {
    return new Unreachable(
      `${this.name}: ${this.program} can't be run`,
      said,
      "See whether site.ssh names a Rocks frontend; site.rocks says where the program is",
    );
  }

  private async spawn(script: string, args: readonly string[], options: ScriptOptions): Promise<Answer> {
    const run = () =>
      pRetry(() => this.execute(script, args, options), {
        ...RETRY,
        // A stream can be sent only once.
        shouldRetry: ({ error }) => error instanceof SshdBusy && !isStream(options.input),
      });
    return this.limit(async () => {
      try {
        return await (this.settings.ssh === undefined ? run() : this.shared.run(run));
      } catch (error) {
        throw error instanceof SshdBusy ? this.unreachable(error.message) : error;
      }
    });
  }

  private async execute(script: string, args: readonly string[], options: ScriptOptions): Promise<Answer> {
    const [program = "", ...rest] = this.commandLine(this.marked(script), args);
    const seconds = options.timeoutSeconds ?? SECONDS;
    const result = await execa(program, rest, {
      input: options.input ?? "",
      env: { LC_ALL: "C" },
      timeout: seconds * 1000,
      stripFinalNewline: false,
      maxBuffer: 256 * 1024 * 1024,
      reject: false,
    });
    const answer = this.answerOf(result, seconds);
    const mark = `\n${this.mark}\n`;
    const at = answer.stdout.lastIndexOf(mark);
    if (at < 0) {
      throw new Unreachable(
        `${this.name}: the account's shell runs no script`,
        lastWords(answer.stderr) || lastWords(answer.stdout) || `exit code ${answer.exitCode}`,
        "It must be a Bourne shell, and there must be /bin/bash",
      );
    }
    return { ...answer, stdout: answer.stdout.slice(at + mark.length) };
  }

  /** @throws Unreachable, Denied, SshdBusy: what has kept a script from being run at all */
  answerOf(result: ExecaResult, seconds: number): Answer {
    const stderr = String(result.stderr ?? "");
    if (result instanceof ExecaError && result.code === "ENOENT") {
      throw new Unreachable(this.name, "the program ssh is not installed", "Install openssh-client");
    }
    if (result.timedOut) {
      throw new Unreachable(this.name, `no answer within ${seconds} s`, "See whether it is overloaded");
    }
    if (this.settings.ssh !== undefined && result.exitCode === 255) {
      const said = lastWords(stderr);
      const refused = refusedKeyHint(said);
      if (refused) {
        throw new Denied(`${this.name} refuses us`, said, refused);
      }
      throw SSHD_BUSY.test(said) ? new SshdBusy(said) : this.unreachable(said);
    }
    if (result.exitCode === undefined) {
      throw this.unreachable(result.shortMessage ?? "it was ended");
    }
    return { exitCode: result.exitCode, stdout: String(result.stdout ?? ""), stderr };
  }

  private unreachable(said: string): Unreachable {
    return new Unreachable(`${this.name} can't be reached`, said, unreachableHint(said, "site.ssh", "rocks list host"));
  }
}

/** A container doesn't let the Rocks frontend in; the others may. */
export class ContainerUnreachable extends Unreachable {}

class SshdBusy extends Error {}

/** @param container undefined: the Rocks frontend itself */
export interface PlacedScript {
  readonly container: string | undefined;
  readonly script: string;
  readonly args: readonly string[];
}

interface ExecaResult {
  readonly exitCode?: number | undefined;
  readonly stdout?: unknown;
  readonly stderr?: unknown;
  readonly timedOut: boolean;
  readonly shortMessage?: string | undefined;
}

/** Its stdin is the inner script's. */
const ON_CONTAINER = `ssh ${TO_CONTAINER.join(" ")} "$1" "$2"
code=$?
if [ "$code" = 255 ]; then echo "ssh $1 failed" >&2; exit ${CONTAINER_UNREACHABLE}; fi
exit "$code"
`;

/** Bash reads a pipe byte by byte: what follows the mark is left to `cat`. Arguments: from, to, mark. */
const PIPE = `eval "$1" </dev/null | {
  while IFS= read -r line && [ "$line" != "$3" ]; do :; done
  exec cat
} | eval "$2"
`;

/** What follows a line. */
async function* after(line: string, source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const mark = `\n${line}\n`;
  let before: Buffer | undefined = Buffer.alloc(0);
  for await (const chunk of source) {
    if (before === undefined) {
      yield chunk;
      continue;
    }
    before = Buffer.concat([before, chunk]);
    const at = before.indexOf(mark);
    if (at >= 0) {
      yield before.subarray(at + mark.length);
      before = undefined;
    }
  }
}

/**
 * What a command says went wrong: from its error line on, without the usage line that ends it. Rocks 6.1 begins it
 * otherwise than later ones.
 */
export function errorIn(stdout: string): string | undefined {
  const lines = stdout.split("\n");
  const at = lines.findIndex((line) => /^(Error: |error - )/.test(line));
  if (at < 0) {
    return undefined;
  }
  const said = lines.slice(at).filter((line) => line.trim() !== "");
  const usage = said.findIndex((line, index) => index > 0 && /^[[{]/.test(line));
  return (usage < 0 ? said : said.slice(0, usage)).join(" ").replace(/^(Error: |error - )/, "");
}

const FOLDER_HINT = "Give that folder to the account that site.ssh names, as docs/sites/rocks.md has it";

/** @throws Denied for what the account may not touch, else SiteFailure, unless a script of ours has gone well */
export function refuseFailure(what: string, { exitCode, stderr }: Pick<Answer, "exitCode" | "stderr">): void {
  if (exitCode === 0) {
    return;
  }
  const said = lastWords(stderr) || `exit code ${exitCode}`;
  // Not ssh's own words for a log-in.
  throw /: Permission denied$/m.test(stderr) ? new Denied(what, said, FOLDER_HINT) : new SiteFailure(what, said);
}

function* chunksOf<T>(all: readonly T[], size: number): Generator<readonly T[]> {
  for (let at = 0; at < all.length; at += size) {
    yield all.slice(at, at + size);
  }
}

function isStream(input: ScriptOptions["input"]): input is Readable {
  return typeof input === "object" && !Buffer.isBuffer(input);
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1)?.trim() ?? "";
}

function lastWords(text: string): string {
  return text.trim().split("\n").slice(-3).join("; ");
}
