import { type Command, InvalidArgumentError } from "commander";
import { execa } from "execa";
import pLimit from "p-limit";
import { sshArguments, sshTarget } from "../cluster-ssh";
import { NotFound } from "../drivers/errors";
import type { StackCluster } from "../pulumi/stack-clusters";
import { type Chosen, chosenCluster, nodeNames, withStackAndCluster } from "./stack";
import { type Fail, printable, type Terminal } from "./terminal";

interface Options extends Chosen {
  readonly frontend?: true;
  readonly width: number;
  readonly json?: true;
}

/** What a command did on a node, as `--json` shows it. */
interface Outcome {
  readonly node: string;
  /** 255: the node can't be reached. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** An sshd lets so many log in at a time (MaxStartups) before it begins to turn some away. */
const WIDTH = 8;
const MOST_OUTPUT = 16 * 1024 * 1024;

const EXAMPLES = `
Each line of output begins with the node that it came from. It exits with 1 when the command failed anywhere.
One word is a command line for the nodes' shells; several are a program and its arguments, passed on as they are.

Examples:
  vc run -- uptime
  vc run -- 'df -h / | tail -n 1'      # a command line
  vc run --frontend --json -- cat /etc/hostname`;

export function addRun(program: Command, terminal: Terminal, fail: Fail): void {
  withStackAndCluster(program.command("run"))
    .summary("run a command on all computes")
    .description("Runs a command on all computes of the stack's cluster, many at a time.")
    .usage("[options] -- <command...>")
    .argument("<command...>")
    .option("--frontend", "on the frontend too")
    .option("--width <number>", "on how many nodes at a time", parseWidth, WIDTH)
    .option("--json", "print what it did on each node, for programs, when all are done")
    .passThroughOptions()
    .addHelpText("after", EXAMPLES)
    .action(async (command: readonly string[], { frontend, width, json, ...chosen }: Options) => {
      const cluster = await chosenCluster(chosen);
      const nodes = nodeNames(cluster).filter((node) => frontend || node !== "frontend");
      if (nodes.length === 0) {
        throw new NotFound(
          `cluster ${cluster.logicalName}`,
          "it has no computes",
          "With --frontend the command runs on the frontend",
        );
      }
      const quiet: Terminal = { out: () => undefined, err: () => undefined };
      const outcomes = await pLimit(width).map(nodes, (node) => runOn(cluster, node, command, json ? quiet : terminal));
      if (json) {
        terminal.out(JSON.stringify(outcomes, undefined, 2));
      }
      const failed = outcomes.filter(({ exitCode }) => exitCode !== 0);
      if (failed.length > 0) {
        terminal.err(`vc: it failed on ${failed.length} of ${nodes.length}: ${failed.map(reasonOf).join(", ")}.`);
        fail();
      }
    });
}

function parseWidth(text: string): number {
  const width = Number(text);
  if (!Number.isInteger(width) || width < 1) {
    throw new InvalidArgumentError("it must be a whole number from 1 on");
  }
  return width;
}

async function runOn(
  cluster: StackCluster,
  node: string,
  command: readonly string[],
  { out, err }: Terminal,
): Promise<Outcome> {
  const login = sshArguments(sshTarget(cluster, node, { batch: true }), command);
  const running = execa("ssh", login, { stdin: "ignore", reject: false, maxBuffer: MOST_OUTPUT });
  const pass = async (from: "stdout" | "stderr", say: (line: string) => void) => {
    for await (const line of running.iterable({ from })) {
      say(`${node}: ${printable(line)}`);
    }
  };
  const [result] = await Promise.all([running, pass("stdout", out), pass("stderr", err)]);
  return { node, exitCode: result.exitCode ?? 255, stdout: result.stdout, stderr: result.stderr };
}

function reasonOf({ node, exitCode }: Outcome): string {
  return exitCode === 255 ? `${node} (not reached)` : `${node} (exit code ${exitCode})`;
}
