import { Command } from "commander";
import { searchSystemFolders } from "../setup/search-path";
import { addCompletion } from "./completion";
import { addConsole } from "./console";
import { addCp } from "./cp";
import { addDiagram } from "./diagram";
import { addDoctor } from "./doctor";
import { addImage } from "./image";
import { addRun } from "./run";
import { addSite } from "./site";
import { addSsh } from "./ssh";
import { addStatus } from "./status";
import { addSweep } from "./sweep";
import { TERMINAL, type Terminal } from "./terminal";
import { exitCodeOf, FAILURE, versionOfPackage } from "./usage";

const EXAMPLES = `
Examples:
  vc doctor             # what is missing, and how to get it
  vc status             # the nodes of this folder's stack
  vc ssh                # a shell on the frontend of the cluster of this folder's stack
  vc run -- uptime      # on all computes
  vc sweep              # what nobody's stack knows any more
  vc sweep --help       # more of it`;

/**
 * `vc`, the person's tool beside Pulumi.
 * @returns its exit code: 0, 1 for a failure, 2 for wrong usage; that of ssh where a command ran on a node
 */
export async function main(args: readonly string[], terminal: Terminal = TERMINAL): Promise<number> {
  searchSystemFolders();
  let exitCode = 0;
  const fail = (code = FAILURE) => {
    exitCode = code;
  };
  const program = new Command("vc")
    .description("Looks after virtual clusters beside Pulumi.")
    .version(versionOfPackage())
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
      // Said below.
      outputError: () => undefined,
    });
  addDoctor(program, terminal, fail);
  addStatus(program, terminal, fail);
  addSsh(program, fail, args);
  addCp(program, fail);
  addRun(program, terminal, fail);
  addConsole(program, terminal);
  addDiagram(program, terminal);
  addSite(program, terminal);
  addSweep(program, terminal, fail);
  addImage(program, terminal, fail);
  addCompletion(program, terminal);
  program.addHelpText("after", EXAMPLES);

  try {
    await program.parseAsync(args, { from: "user" });
    return exitCode;
  } catch (error) {
    return exitCodeOf(error, "vc", terminal);
  }
}
