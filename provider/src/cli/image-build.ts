import type { Command } from "commander";
import { convertImage } from "../building/converted-image";
import { buildPackageImage } from "../building/package-image";
import { home } from "../home";
import { checkImage } from "../images/standard/check";
import { subjectIn } from "./image-check";
import { reportText } from "./image-report";
import { parsePath } from "./path-option";
import { parseCount, parseSize } from "./sizes";
import type { Fail, Terminal } from "./terminal";

interface Options {
  readonly from?: string;
  readonly packages?: readonly string[];
  readonly script?: string;
  readonly into: string;
  readonly size?: number;
  readonly cpus: number;
  readonly memory: number;
  readonly replace?: true;
}

const MIB = 1024 ** 2;
/** MiB; room for a Debian with some packages. */
const DEFAULT_SIZE = 2048;

const EXAMPLES = `
From packages it takes Debian, and root or sudo. An image of the same packages, script and size is left alone. The script is
any program; it runs as root inside the new system, which has its packages then and no service running.

A disk that is turned into an image is only read. Its copy gets the guest program that configures machines from vc-out.xml, loses
what only one machine may have (ssh host keys, machine id), and what would keep it from starting is put right.

In the end the image is held against the standard, as by \`vc image check\`.

Examples:
  vc image build docking --packages openmpi-bin,python3 --script ./set-up --size 4G
  vc image build docking --from docking.qcow2 --into /srv/images`;

export function addImageBuild(image: Command, terminal: Terminal, fail: Fail): void {
  image
    .command("build")
    .summary("make an image, of packages or of a virtual machine's disk")
    .description("Makes an image that follows the standard, of Debian's packages or of a virtual machine's disk.")
    .argument("<name>", "its vc name")
    .option("--packages <list>", "packages of Debian, with commas in between", (list) =>
      list.split(",").filter(Boolean),
    )
    .option("--script <file>", "a program to run inside, once they are installed", parsePath)
    .option("--from <file>", "a disk with an operating system, RAW or qcow2, instead of packages", parsePath)
    .option(
      "--into <folder>",
      "the repository; it is made where there is none (default: the quickstart's images)",
      parsePath,
    )
    .option("--size <size>", `the disk's, such as 4G (default: 2G, or that of the disk)`, parseSize)
    .option("--cpus <number>", "cpus that a node asks for, with --from", parseCount, 1)
    .option("--memory <MiB>", "memory that a node asks for, with --from", parseCount, 512)
    .option("--replace", "take the place of an image of that name, with --from")
    .addHelpText("after", EXAMPLES)
    .action(async (vcName: string, options: Options, command: Command) => {
      const { from, packages, script, into = home("images") } = options;
      if ((from === undefined) === (packages === undefined)) {
        command.error("error: name either --packages or --from");
      }
      if (from !== undefined && script !== undefined) {
        command.error("error: --script goes with --packages");
      }
      await build(vcName, { ...options, into }, terminal);
      const report = await checkImage(await subjectIn(into, vcName, terminal.err));
      terminal.out(reportText(report));
      if (!report.conformant) {
        fail();
      }
    });
}

async function build(vcName: string, options: Options, { err }: Terminal): Promise<void> {
  const { from, packages = [], script, into, size, cpus, memory, replace } = options;
  const diskSize = size && Math.ceil(size / MIB);
  if (from !== undefined) {
    const conversion = { vcName, from, into, shape: { cpus, memory }, isReplacing: replace ?? false };
    await convertImage({ ...conversion, ...(diskSize !== undefined && { diskSize }) }, err);
    return;
  }
  const recipe = { vcName, packages, diskSize: diskSize ?? DEFAULT_SIZE, ...(script !== undefined && { script }) };
  if (!(await buildPackageImage(recipe, { folder: into, progress: err }))) {
    err(`${vcName} is of these packages already.`);
  }
}
