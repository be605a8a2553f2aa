import { accessSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Interpreter } from "./guest-machine";

const SHELLS: readonly (readonly string[])[] = [["dash"], ["bash"], ["mksh"], ["busybox", "sh"]];
const AWKS = ["mawk", "gawk", "original-awk", "busybox"] as const;

export const DEFAULT_INTERPRETER: [string, Interpreter] = ["sh and awk", { shell: ["sh"] }];

let folder: string | undefined;

function find(program: string): string | undefined {
  for (const place of (process.env.PATH ?? "").split(":")) {
    try {
      accessSync(join(place, program), 1);
      return join(place, program);
    } catch {
      // Not there.
    }
  }
  return undefined;
}

/** A folder whose `awk` is this program, and goes when this process ends. */
function pathWithAwk(awk: string, program: string): string {
  if (!folder) {
    const made = mkdtempSync(join(tmpdir(), "guest-awk-"));
    process.once("exit", () => rmSync(made, { recursive: true }));
    folder = made;
  }
  const path = mkdtempSync(join(folder, `${awk}-`));
  symlinkSync(program, join(path, "awk"));
  return path;
}

/**
 * Every shell of this machine with its usual awk, and every awk with its usual shell: what an image may bring along. A
 * busybox sh may prefer its own awk.
 */
export function interpreters(): [string, Interpreter][] {
  const shells = SHELLS.filter(([program = ""]) => find(program));
  const awks = AWKS.flatMap((awk) => {
    const program = find(awk);
    return program ? [{ awk, program }] : [];
  });
  return [
    ...shells.map((shell): [string, Interpreter] => [`${shell.join(" ")} and awk`, { shell }]),
    ...awks.map(({ awk, program }): [string, Interpreter] => [
      `sh and ${awk === "busybox" ? "busybox awk" : awk}`,
      { shell: ["sh"], path: pathWithAwk(awk, program) },
    ]),
  ];
}
