import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CommanderError } from "commander";
import type { Terminal } from "./terminal";

export const FAILURE = 1;
export const USAGE = 2;

/** Says what ended a program. @returns its exit code */
export function exitCodeOf(error: unknown, program: string, terminal: Terminal): number {
  if (!(error instanceof CommanderError)) {
    terminal.err(`${program}: ${error instanceof Error ? error.message : error}`);
    return FAILURE;
  }
  if (error.exitCode === 0) {
    return 0; // Help or the version was asked for.
  }
  if (error.code !== "commander.help") {
    terminal.err(usageError(program, error));
  }
  return USAGE;
}

/** What was wrong with how a program was called, in one sentence, with the closest known name where there is one. */
function usageError(program: string, { message }: CommanderError): string {
  return `${program}: ${message
    .replace(/^error: /, "")
    .replace(/\n\(Did you mean (.*)\?\)$/, " (did you mean $1?)")
    .replace(/\. (?=\S)/, ": ")
    .replace(/\.$/, "")}; see \`${program} --help\`.`;
}

export function versionOfPackage(): string {
  const file = join(__dirname, "..", "..", "package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
