import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, CommanderError } from "commander";
import { addSweep } from "./sweep";
import { TERMINAL, type Terminal } from "./terminal";

const FAILURE = 1;
const USAGE = 2;

/** `vc`, the person's tool beside Pulumi. @returns its exit code: 0, 1 for a failure, 2 for wrong usage */
export async function main(args: readonly string[], terminal: Terminal = TERMINAL): Promise<number> {
  let failed = false;
  const program = new Command("vc")
    .description("Looks after virtual clusters beside Pulumi.")
    .version(versionOfPackage())
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
      // Said below.
      outputError: () => undefined,
    });
  addSweep(program, terminal, () => {
    failed = true;
  });
  program.addHelpText(
    "after",
    `\nExamples:\n  vc sweep          # what nobody's stack knows any more\n  vc sweep --help   # more of it`,
  );

  try {
    await program.parseAsync(args, { from: "user" });
    return failed ? FAILURE : 0;
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      terminal.err(`vc: ${error instanceof Error ? error.message : error}`);
      return FAILURE;
    }
    if (error.exitCode === 0) {
      return 0; // Help or the version was asked for.
    }
    if (error.code !== "commander.help") {
      terminal.err(usageError(error));
    }
    return USAGE;
  }
}

/** One sentence, with the closest known name where there is one. */
function usageError({ message }: CommanderError): string {
  return `vc: ${message
    .replace(/^error: /, "")
    .replace(/\n\(Did you mean (.*)\?\)$/, " (did you mean $1?)")
    .replace(/\. (?=\S)/, ": ")
    .replace(/\.$/, "")}; see \`vc --help\`.`;
}

function versionOfPackage(): string {
  const file = join(__dirname, "..", "..", "package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
