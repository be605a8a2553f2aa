import type { Command } from "commander";
import { execa } from "execa";
import { sshArguments, sshTarget } from "../cluster-ssh";
import { type Chosen, chosenCluster, refuseUnknownNode, withStackAndCluster } from "./stack";
import type { Fail } from "./terminal";

interface Options extends Chosen {
  readonly tty?: true;
}

const EXAMPLES = `
Without a node it is the frontend. Computes are reached through it. No host key is trusted but the cluster's own.
One word after -- is a command line for the node's shell; several are a program and its arguments, passed on as they are.
It exits with what the command exits with, and with 255 when the node can't be reached.

Examples:
  vc ssh                              # a shell on the frontend
  vc ssh compute-1                    # … on a compute
  vc ssh -- 'uptime; free -m'         # a command line on the frontend
  vc ssh compute-0 -- cat '/data/my file'
  vc ssh --stack dev -t -- top        # with a terminal`;

export function addSsh(program: Command, fail: Fail, args: readonly string[]): void {
  withStackAndCluster(program.command("ssh"))
    .summary("log in to a node, or run a command there")
    .description("Logs in to a node of the stack's cluster as root, or runs a command there.")
    .usage("[options] [node] [-- command...]")
    .argument("[node]", "frontend (default), or compute-0 …")
    .argument("[command...]")
    .option("-t, --tty", "give the command a terminal")
    .passThroughOptions()
    .addHelpText("after", EXAMPLES)
    .action(async (first: string | undefined, rest: readonly string[], { tty, ...chosen }: Options) => {
      const { node, command } = spoken(first === undefined ? [] : [first, ...rest], args);
      const cluster = await chosenCluster(chosen);
      refuseUnknownNode(cluster, node);
      const login = sshArguments(sshTarget(cluster, node), command);
      const { exitCode } = await execa("ssh", [...(tty ? ["-t"] : []), ...login], { stdio: "inherit", reject: false });
      if (exitCode !== 0) {
        fail(exitCode);
      }
    });
}

/** What commander leaves out of what was said: whether a word stands before `--`. */
function spoken(words: readonly string[], args: readonly string[]): { node: string; command: readonly string[] } {
  const dashes = args.indexOf("--");
  const isCommandAlone = dashes >= 0 && args.length - dashes - 1 === words.length;
  const [node = "frontend", ...command] = isCommandAlone ? ["frontend", ...words] : words;
  return { node, command: command[0] === "--" ? command.slice(1) : command };
}
