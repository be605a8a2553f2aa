import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { diagramOf } from "../diagram/diagram";
import { NotFound } from "../drivers/errors";
import { clustersOf } from "./stack";
import type { Terminal } from "./terminal";

interface Options {
  readonly output?: string;
}

const EXAMPLES = `
It is drawn from the stack's state: the plan that \`pulumi up\` has carried out. More than six computes become a pile.

Examples:
  vc diagram >cluster.svg
  vc diagram dev -o cluster.svg`;

export function addDiagram(program: Command, terminal: Terminal): void {
  program
    .command("diagram")
    .summary("draw a stack's clusters with their networks")
    .description("Draws the clusters of a stack as an SVG picture: nodes, networks and addresses.")
    .argument("[stack]", "the stack (default: the one that is selected in this folder)")
    .option("-o, --output <file>", "where it is written (default: the output)")
    .addHelpText("after", EXAMPLES)
    .action(async (stack: string | undefined, { output }: Options) => {
      const { clusters } = await clustersOf(stack);
      if (clusters.length === 0) {
        throw new NotFound("the stack", "it has no virtual cluster", "Run `pulumi up`, or name another one");
      }
      const svg = diagramOf(clusters.map(({ logicalName, plan }) => ({ title: logicalName, plan })));
      if (output === undefined) {
        terminal.out(svg.trimEnd());
      } else {
        await writeFile(output, svg);
      }
    });
}
