import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { CommanderError } from "commander";

/** What was wrong with how a program was called, in one sentence, with the closest known name where there is one. */
export function usageError(program: string, { message }: CommanderError): string {
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
