import type { Command } from "commander";
import { type FoundDisk, type FoundImage, findImage } from "../images/repository/repository";
import type { VcInNode } from "../images/repository/vc-in";
import { repositoryHere } from "./image-list";
import { parsePath } from "./path-option";
import { mebibytes } from "./sizes";
import { alignColumns } from "./table";
import { printable, type Terminal } from "./terminal";

interface Options {
  readonly repository?: string;
  readonly json?: true;
}

const EXAMPLES = `
It says what the repository says, and fetches no disk: sizes and digests that only unpacking tells are shown as -.

Examples:
  vc image show demo
  vc image show docking --repository https://images.example.org/pragma`;

export function addImageShow(image: Command, terminal: Terminal): void {
  image
    .command("show")
    .summary("show what a repository says of an image")
    .description("Shows an image's disks, how they are packed, and the machines that it asks for.")
    .argument("<name>", "its vc name")
    .option(
      "--repository <repository>",
      "a folder or URL (default: that of this folder's stack, else the quickstart's)",
      parsePath,
    )
    .option("--json", "print it for programs")
    .addHelpText("after", EXAMPLES)
    .action(async (name: string, { repository, json }: Options) => {
      const found = await findImage(repository ?? (await repositoryHere()), name);
      terminal.out(json ? JSON.stringify(documentOf(found), undefined, 2) : printable(textOf(found)));
    });
}

function documentOf({ vcName, vcIn, manifest, frontend, compute }: FoundImage) {
  const node = ({ nics, shape }: VcInNode, { name, isGzip, parts, size, digest }: FoundDisk) => ({
    nics,
    ...shape,
    disk: { name, isGzip, size, sha256: digest, parts: parts.map(({ name, at, size }) => ({ name, at, size })) },
  });
  const { reads, vcOutDialect } = manifest;
  const { privateNetwork, publicInterface } = vcIn;
  return {
    ...{ vcName, reads, vcOutDialect, privateNetwork, publicInterface },
    frontend: node(vcIn.frontend, frontend),
    compute: node(vcIn.compute, compute),
  };
}

function textOf({ vcName, vcIn, manifest, frontend, compute }: FoundImage): string {
  const row = (type: string, { nics, shape }: VcInNode, disk: FoundDisk) => [
    ...[type, String(shape.cpus), `${shape.memory} MiB`, String(nics), disk.name],
    ...[disk.size === undefined ? "-" : mebibytes(disk.size), packedSize(disk), packingOf(disk)],
    disk.digest ?? "-",
  ];
  const { privateNetwork, publicInterface } = vcIn;
  const { reads, vcOutDialect } = manifest;
  const dialect = vcOutDialect === undefined ? "" : `, dialect ${vcOutDialect}`;
  const network = privateNetwork && `${privateNetwork.ipAddress}, netmask ${privateNetwork.netmask}`;
  return [
    `Image ${vcName}`,
    `Reads: ${reads === undefined ? "what its disks show" : `${reads}${dialect}`}`,
    ...(network ? [`Made for: private network ${network}${publicInterface ? `, public ${publicInterface}` : ""}`] : []),
    "",
    alignColumns([
      ["NODE", "CPUS", "MEMORY", "NICS", "DISK", "SIZE", "PACKED", "AS", "SHA-256"],
      row("frontend", vcIn.frontend, frontend),
      row("compute", vcIn.compute, compute),
    ]),
  ].join("\n");
}

function packedSize({ parts }: FoundDisk): string {
  const sizes = parts.map(({ size }) => size);
  return sizes.includes(undefined) ? "-" : mebibytes(sizes.reduce<number>((sum, size = 0) => sum + size, 0));
}

function packingOf({ isGzip, parts }: FoundDisk): string {
  const packing = isGzip ? "gzip" : "raw";
  return parts.length > 1 ? `${packing}, ${parts.length} parts` : packing;
}
