import type { Command } from "commander";
import { packImage } from "../images/repository/pack";
import { parsePath } from "./path-option";
import { mebibytes, parseCount, parseSize } from "./sizes";
import type { Terminal } from "./terminal";

interface Options {
  readonly frontend: string;
  readonly compute?: string;
  readonly into: string;
  readonly split?: number;
  readonly cpus: number;
  readonly memory: number;
  readonly frontendCpus: number;
  readonly frontendMemory: number;
  readonly replace?: true;
}

const EXAMPLES = `
The repository gets a folder with the packed disks, vc-in.xml and manifest.json, and a line in its vcdb.txt. It can be copied
to a web server as it is. The disks stay as they are; the same disks give the same files.

Examples:
  vc image pack docking --frontend frontend.raw --compute compute.raw --into /srv/images
  vc image pack docking --frontend both.raw --into /srv/images --split 1G --replace`;

export function addImagePack(image: Command, { out, err }: Terminal): void {
  image
    .command("pack")
    .summary("put an image into a repository, packed")
    .description("Packs the RAW disks of an image into a repository, from which other sites can take it.")
    .argument("<name>", "its vc name")
    .requiredOption("--frontend <file>", "the frontend's disk", parsePath)
    .option("--compute <file>", "the computes' disk (default: the frontend's)", parsePath)
    .requiredOption("--into <folder>", "the repository; it is made where there is none", parsePath)
    .option("--split <size>", "the most that a file may have, such as 1G (default: a file for each disk)", parseSize)
    .option("--cpus <number>", "cpus that a compute asks for", parseCount, 1)
    .option("--memory <MiB>", "memory that a compute asks for", parseCount, 512)
    .option("--frontend-cpus <number>", "cpus that the frontend asks for", parseCount, 1)
    .option("--frontend-memory <MiB>", "memory that the frontend asks for", parseCount, 512)
    .option("--replace", "take the place of an image of that name")
    .addHelpText("after", EXAMPLES)
    .action(async (vcName: string, options: Options) => {
      const { frontend, compute, into, split, cpus, memory, frontendCpus, frontendMemory, replace } = options;
      const { folder, packed, unpacked } = await packImage(
        {
          vcName,
          frontend,
          ...(compute !== undefined && { compute }),
          into,
          ...(split !== undefined && { split }),
          shapes: { frontend: { cpus: frontendCpus, memory: frontendMemory }, compute: { cpus, memory } },
          isReplacing: replace ?? false,
        },
        err,
      );
      out(`${vcName}: ${mebibytes(unpacked)} of disks packed into ${mebibytes(packed)} in ${folder}`);
    });
}
