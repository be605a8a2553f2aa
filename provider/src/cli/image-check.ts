import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import type { Progress } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { fetchImage } from "../images/repository/fetch";
import {
  type Description,
  describe,
  describeAt,
  type FoundImage,
  findImage,
  findImageAt,
} from "../images/repository/repository";
import { MOST_TEXT } from "../images/repository/store";
import { parseVcIn } from "../images/repository/vc-in";
import { checkImage, type Subject } from "../images/standard/check";
import { repositoryHere } from "./image-list";
import { reportText } from "./image-report";
import { parsePath } from "./path-option";
import type { Fail, Terminal } from "./terminal";

interface Options {
  readonly repository?: string;
  readonly frontend?: string;
  readonly compute?: string;
  readonly json?: true;
}

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
    .argument("[image]", "a vc name, or the path of a vc-in.xml or its folder (with a slash in it)", parsePath)
    .option(
      "--repository <repository>",
      "where the name is (default: that of this folder's stack, else the quickstart's)",
      parsePath,
    )
    .option("--frontend <file>", "a disk, instead of an image", parsePath)
    .option("--compute <file>", "another one for computes", parsePath)
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
      const subject = await subjectOf(name, options, terminal.err).catch(async (error: unknown) => {
        if (name !== undefined && (await isTooLarge(name))) {
          command.error(`error: ${name} is too large for a vc-in.xml: name a disk with --frontend`);
        }
        throw error;
      });
      const report = await checkImage(subject);
      terminal.out(options.json ? JSON.stringify(report, undefined, 2) : reportText(report));
      if (!report.conformant) {
        fail();
      }
    });
}

async function subjectOf(name: string | undefined, options: Options, progress: Progress): Promise<Subject> {
  if (name === undefined) {
    const { frontend, compute } = options;
    return {
      ...(frontend !== undefined && { frontend: resolve(frontend) }),
      ...(compute !== undefined && { compute: resolve(compute) }),
    };
  }
  if (name.includes("/")) {
    const file = (await stat(name).catch(() => undefined))?.isDirectory() ? join(name, "vc-in.xml") : name;
    return subjectAt(await describeAt(file), () => findImageAt(file), progress);
  }
  return subjectIn(options.repository ?? (await repositoryHere()), name, progress);
}

async function isTooLarge(file: string): Promise<boolean> {
  const found = await stat(file).catch(() => undefined);
  return found?.isFile() === true && found.size > MOST_TEXT;
}

/** An image of a repository. */
export async function subjectIn(repository: string, name: string, progress: Progress): Promise<Subject> {
  return subjectAt(await describe(repository, name), () => findImage(repository, name), progress);
}

/** A vc-in.xml that names no disks that could be looked at is held against the standard alone. */
async function subjectAt(
  description: Description,
  find: () => Promise<FoundImage>,
  progress: Progress,
): Promise<Subject> {
  if (!namesDisks(description)) {
    return { description };
  }
  const { frontendDisk, computeDisk, names } = await fetchImage(await find(), progress);
  return { description, frontend: frontendDisk, compute: computeDisk, names };
}

function namesDisks({ text, origin }: Description): boolean {
  try {
    parseVcIn(text, origin);
    return true;
  } catch (error) {
    if (error instanceof InvalidImage) {
      return false;
    }
    throw error;
  }
}
