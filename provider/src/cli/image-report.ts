import type { Part, Report } from "../images/standard/check";
import { alignColumns } from "./table";
import { printable } from "./terminal";

/** What a check of an image has found, for people. */
export function reportText(report: Report): string {
  return printable(textOf(report));
}

function textOf({ conformant, parts }: Report): string {
  const findings = parts.flatMap((part) => part.findings);
  const counts = (["error", "warning", "info"] as const)
    .map((level) => [level, findings.filter((found) => found.level === level).length] as const)
    .filter(([, count]) => count > 0)
    .map(([level, count]) => (level === "info" ? `${count} to know` : `${count} ${level}${count === 1 ? "" : "s"}`));
  const verdict = `${conformant ? "Conforms" : "Doesn't conform"} to the image standard${counts.length > 0 ? `: ${counts.join(", ")}` : ""}.`;
  return [...parts.map(partText), verdict].join("\n\n");
}

function partText({ about, file, facts, findings, holds, notLookedAt }: Part): string {
  const rows = alignColumns(findings.map(({ level, rule, found }) => [level, rule, found])).split("\n");
  const widest = (texts: readonly string[]) => Math.max(0, ...texts.map(({ length }) => length));
  const indent = " ".repeat(6 + widest(findings.map(({ level }) => level)) + widest(findings.map(({ rule }) => rule)));
  const lines = findings.flatMap(({ where, fix }, index) => [
    `  ${rows[index]}`,
    ...(where ? [`${indent}in ${where}`] : []),
    ...(fix ? [`${indent}→ ${fix}`] : []),
  ]);
  return [
    `${about}: ${file}`,
    ...(facts.length > 0 ? [`  ${facts.join("; ")}`] : []),
    ...lines,
    `  ${holds.length} rules hold${notLookedAt.length > 0 ? `; not looked at: ${inShort(notLookedAt)}` : ""}`,
  ].join("\n");
}

function inShort(names: readonly string[]): string {
  return names.length > 8 ? `${names.length} more` : names.join(", ");
}
