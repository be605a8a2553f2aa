import { setTimeout } from "node:timers/promises";
import type { Command } from "commander";
import { openSite } from "../resources/context";
import { type Chosen, chosenCluster, refuseUnknownNode, withStackAndCluster } from "./stack";
import type { Terminal } from "./terminal";

interface Options extends Chosen {
  readonly follow?: true;
}

const EVERY_MS = 2000;

const EXAMPLES = `
It is asked of the site, so it also works where nobody can log in. It shows what \`pulumi up\` shows of a node that doesn't
get ready: the last lines of its console. It takes no input.

Examples:
  vc console compute-1
  vc console frontend --follow        # what comes after, too; ends with Ctrl-C`;

export function addConsole(program: Command, terminal: Terminal): void {
  withStackAndCluster(program.command("console"))
    .summary("show the end of a node's console")
    .description("Shows the last lines of a node's console, as its site keeps them.")
    .argument("<node>", "frontend, or compute-0 …")
    .option("-f, --follow", "go on with what it prints from now on")
    .addHelpText("after", EXAMPLES)
    .action(async (node: string, { follow, ...chosen }: Options) => {
      const cluster = await chosenCluster(chosen);
      refuseUnknownNode(cluster, node);
      const driver = await openSite(cluster.site, cluster.siteId);
      const tail = async () => (await driver.diagnose({ cluster, node })).split("\n").filter((line) => line !== "");
      let seen = await tail();
      if (seen.length === 0) {
        terminal.err(`vc: the site has nothing of ${node}'s console${follow ? " yet" : ""}.`);
      }
      seen.forEach(terminal.out);
      while (follow && !terminal.ended?.aborted) {
        await setTimeout(EVERY_MS, undefined, { signal: terminal.ended }).catch(() => undefined);
        const now = await tail();
        newLines(seen, now).forEach(terminal.out);
        seen = now;
      }
    });
}

/** What of a console's last lines wasn't among them before. Where none was, lines in between have gone by unseen. */
export function newLines(before: readonly string[], now: readonly string[]): readonly string[] {
  for (let known = Math.min(before.length, now.length); known > 0; known--) {
    if (now.slice(0, known).every((line, index) => line === before[before.length - known + index])) {
      return now.slice(known);
    }
  }
  return before.length > 0 && now.length > 0 ? ["…", ...now] : now;
}
