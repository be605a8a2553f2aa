import { type Command, InvalidArgumentError } from "commander";
import { execa } from "execa";
import pLimit from "p-limit";
import { sshArguments, sshTarget } from "../cluster-ssh";
import { NotFound } from "../drivers/errors";
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
  /** At most 16 Mi characters each: a command that prints more is ended. */
  readonly stdout?: string;
  readonly stderr?: string;
}

/** An sshd lets so many log in at a time (MaxStartups) before it begins to turn some away. */
const WIDTH = 8;
/** What ssh exits with when it fails itself. */
const NOT_REACHED = 255;
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
      const outcomes = await pLimit(width).map(nodes, (node) => {
        const login = sshArguments(sshTarget(cluster, node, { batch: true }), command);
        return json ? outcomeOf(node, login) : passOn(node, login, terminal);
      });
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

const QUIETLY = { stdin: "ignore", reject: false } as const;

async function outcomeOf(node: string, login: readonly string[]): Promise<Outcome> {
  const { exitCode, stdout, stderr } = await execa("ssh", login, { ...QUIETLY, maxBuffer: MOST_OUTPUT });
  return { node, exitCode: exitCode ?? NOT_REACHED, stdout, stderr };
}

/** Says each line when it comes, and keeps none. */
async function passOn(node: string, login: readonly string[], { out, err }: Terminal): Promise<Outcome> {
  const running = execa("ssh", login, { ...QUIETLY, buffer: false });
  const pass = async (from: "stdout" | "stderr", say: (line: string) => void) => {
    for await (const line of running.iterable({ from })) {
      say(`${node}: ${printable(line)}`);
    }
  };
  const [{ exitCode }] = await Promise.all([running, pass("stdout", out), pass("stderr", err)]);
  return { node, exitCode: exitCode ?? NOT_REACHED };
}

function reasonOf({ node, exitCode }: Outcome): string {
  return exitCode === NOT_REACHED ? `${node} (not reached)` : `${node} (exit code ${exitCode})`;
}
