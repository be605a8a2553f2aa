import { type ChildProcessByStdio, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import type { World } from "./world";

/** A shell on a frontend, in one ssh connection that lasts as long as the frontend runs. */
export class Shell {
  private readonly lines: AsyncIterator<string>;

  private constructor(private readonly ssh: ChildProcessByStdio<Writable, Readable, null>) {
    this.lines = createInterface({ input: ssh.stdout })[Symbol.asyncIterator]();
  }

  static open(world: World, sshArguments: readonly string[]): Shell {
    const options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=20"];
    const env = { ...process.env, ...world.env };
    return new Shell(spawn("ssh", [...options, ...sshArguments, "sh"], { env, stdio: ["pipe", "pipe", "ignore"] }));
  }

  /** @throws when the command fails or the connection has ended */
  async run(command: string): Promise<string> {
    const end = randomUUID();
    this.ssh.stdin.write(`{ ${command}\n} </dev/null 2>&1; echo "${end} $?"\n`);
    const said: string[] = [];
    for (;;) {
      const { value: line, done } = await this.lines.next();
      if (done) {
        throw new Error(`the connection to the frontend has ended before "${command}"`);
      }
      // The last line may come without its newline.
      const [before = "", status] = line.split(`${end} `);
      if (before || status === undefined) {
        said.push(before);
      }
      if (status !== undefined) {
        if (status !== "0") {
          throw new Error(`"${command}" ended with ${status}: ${said.join("\n")}`);
        }
        return said.join("\n");
      }
    }
  }

  /**
   * Runs a command, which has no single quotes, on the frontend and on computes at the same time.
   * @returns what each said, by node
   */
  async runOnAll(computes: readonly string[], command: string): Promise<Record<string, string>> {
    const remote = computes.map((node) => `ssh -n ${node} '${command}' >/run/said-${node} 2>&1 &`);
    await this.run(`${remote.join("\n")}\nsh -c '${command}' >/run/said-frontend 2>&1; wait`);
    const said: Record<string, string> = {};
    for (const node of ["frontend", ...computes]) {
      said[node] = await this.run(`cat /run/said-${node}`);
    }
    return said;
  }

  async close(): Promise<void> {
    if (this.ssh.exitCode === null) {
      this.ssh.kill();
      await once(this.ssh, "exit");
    }
  }
}
