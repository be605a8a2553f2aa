import { chmod, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Server } from "node:net";
import { runRocks } from "./commands";
import type { StandInState } from "./site";

/**
 * A `rocks` program that asks this process, which holds the site's state: a hundred runs cost what two of Node's would.
 * It takes words without newlines.
 */
export class RocksServer implements AsyncDisposable {
  /** Every command so far. */
  readonly commands: string[][] = [];
  private constructor(
    private readonly server: Server,
    readonly state: StandInState,
  ) {}

  /** @param program where the program is to be */
  static async start(program: string, state: StandInState): Promise<RocksServer> {
    const server = createServer({ allowHalfOpen: true });
    const rocks = new RocksServer(server, state);
    server.on("connection", (socket) => {
      let text = "";
      socket.on("error", () => undefined);
      socket.on("data", (data) => {
        text += data.toString("utf8");
        if (text.endsWith("\n.\n") || text === ".\n") {
          const words = text
            .split("\n")
            .slice(0, -2)
            .map((line) => line.slice(1));
          socket.end(rocks.answer(words));
        }
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    await writeFile(
      program,
      `#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/${port} || exit 1
{ [ $# = 0 ] || printf '>%s\\n' "$@"; echo .; } >&3
read -r code said <&3
[ "$code$said" != 0 ] || exec cat <&3
cat <&3
[ -z "$said" ] || base64 -d <<<"$said" >&2
exit "$code"
`,
    );
    await chmod(program, 0o755);
    return rocks;
  }

  /** Runs a command as if somebody else had. */
  run(...words: string[]): string {
    const { exitCode, stdout, stderr } = runRocks(this.state, words);
    if (exitCode !== 0) {
      throw new Error(`rocks ${words.join(" ")}: ${stdout}${stderr}`);
    }
    return stdout;
  }

  /** Called before every command; what it throws is what the command says. */
  before: (words: readonly string[]) => void = () => undefined;

  private answer(words: string[]): string {
    this.commands.push(words);
    this.before(words);
    const { exitCode, stdout, stderr } = runRocks(this.state, words);
    return `${exitCode} ${Buffer.from(stderr).toString("base64")}\n${stdout}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise((resolve) => this.server.close(resolve));
  }
}
