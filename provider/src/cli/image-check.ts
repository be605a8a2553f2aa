import { readFile, realpath, stat } from "node:fs/promises";
import { dirname, relative, resolve } from "node:path";
import type { Command } from "commander";
import { InvalidImage, NotFound } from "../drivers/errors";
import { findImage, namesIn } from "../images/repository";
import { checkImage, type Part, type Report, type Subject } from "../images/standard/check";
import type { Description } from "../images/standard/description";
import { parseVcIn } from "../images/vc-in";
import { repositoryHere } from "./image-list";
import { alignColumns } from "./table";
import { type Fail, printable, type Terminal } from "./terminal";

interface Options {
  readonly repository?: string;
  readonly frontend?: string;
  readonly compute?: string;
  readonly json?: true;
}

/** More than any vc-in.xml needs, bytes. */
const MOST_TEXT = 1024 * 1024;

const EXAMPLES = `
It exits with 0 when the image conforms, with warnings or without, and with 1 when it doesn't. Images are only read.

Examples:
  vc image check demo                                # of this folder's repository
  vc image check demo --repository /srv/images
  vc image check /srv/images/demo/vc-in.xml
  vc image check --frontend front.raw --compute node.raw
  vc image check demo --json | jq -r '.parts[].findings[] | select(.level == "error") | .found'`;

export function addImageCheck(image: Command, terminal: Terminal, fail: Fail): void {
  image
    .command("check")
    .summary("hold an image against the image standard")
    .description("Holds an image, or bare disks, against the rules of the virtual cluster image standard.")
    .argument("[image]", "a vc name, or the path of a vc-in.xml (with a slash in it)")
    .option(
      "--repository <repository>",
      "where the name is (default: that of this folder's stack, else the quickstart's)",
    )
    .option("--frontend <file>", "a disk, instead of an image")
    .option("--compute <file>", "another one for computes")
    .option("--json", "print it for programs")
    .addHelpText("after", EXAMPLES)
    .action(async (name: string | undefined, options: Options, command: Command) => {
      if ((name === undefined) === (options.frontend === undefined)) {
        command.error("error: name either an image or --frontend");
      }
      if (options.frontend === undefined && options.compute !== undefined) {
        command.error("error: --compute goes with --frontend");
      }
      if (name === undefined && options.repository !== undefined) {
        command.error("error: --repository goes with an image's name");
      }
      const report = await checkImage(await subjectOf(name, options));
      terminal.out(options.json ? JSON.stringify(report, undefined, 2) : printable(textOf(report)));
      if (!report.conformant) {
        fail();
      }
    });
}

async function subjectOf(name: string | undefined, options: Options): Promise<Subject> {
  if (name === undefined) {
    const { frontend, compute } = options;
    return { ...(frontend && { frontend: resolve(frontend) }), ...(compute && { compute: resolve(compute) }) };
  }
  return name.includes("/") ? described(resolve(name)) : named(options.repository ?? (await repositoryHere()), name);
}

/** An image of a repository; one whose vc-in.xml names no disks that could be looked at is that alone. */
async function named(repository: string, name: string): Promise<Subject> {
  const path = (await namesIn(repository)).get(name);
  const file = path === undefined ? undefined : resolve(repository, path);
  const description =
    file && !relative(resolve(repository), file).startsWith("..") ? await readDescription(file) : undefined;
  if (description && !disksOf(description)) {
    return { description };
  }
  const { frontendDisk, computeDisk } = await findImage(repository, name);
  return { ...(description && { description }), frontend: frontendDisk, compute: computeDisk };
}

/** A vc-in.xml with the disks beside or below it; one that names none is checked alone. */
async function described(file: string): Promise<Subject> {
  const description = await readDescription(file);
  const disks = disksOf(description);
  if (!disks) {
    return { description };
  }
  const folder = await realpath(dirname(file));
  const place = async (disk: string) => {
    const path = resolve(folder, disk);
    const target = await realpath(path).catch(() => path);
    if (relative(folder, target).startsWith("..")) {
      throw new InvalidImage(file, `its file ${JSON.stringify(disk)} lies outside the repository`, "Copy it there");
    }
    return target;
  };
  return { description, frontend: await place(disks.frontendDisk), compute: await place(disks.computeDisk) };
}

function disksOf({ text, file }: Description) {
  try {
    return parseVcIn(text, file);
  } catch (error) {
    if (error instanceof InvalidImage) {
      return undefined;
    }
    throw error;
  }
}

async function readDescription(file: string): Promise<Description> {
  const found = await stat(file).catch(() => undefined);
  if (!found?.isFile()) {
    throw new NotFound(`image ${file}`, `there is no file ${file}`, "Name a vc-in.xml, or a vc name without a slash");
  }
  if (found.size > MOST_TEXT) {
    throw new InvalidImage(`image ${file}`, `${file} has ${found.size} bytes`, `At most ${MOST_TEXT} are read`);
  }
  return { file, text: await readFile(file, "utf8") };
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
