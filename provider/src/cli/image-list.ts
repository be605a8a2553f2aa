import type { Command } from "commander";
import { home } from "../home";
import { namesIn } from "../images/repository/repository";
import { parsePath } from "./path-option";
import { backendsHere, configurationHere } from "./site-option";
import { alignColumns } from "./table";
import { printable, type Terminal } from "./terminal";

interface Options {
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  vc image list
  vc image list /srv/images`;

export function addImageList(image: Command, terminal: Terminal): void {
  image
    .command("list")
    .summary("list the images of a repository")
    .description("Lists the images of a repository by their vc names, each with where its vc-in.xml lies there.")
    .argument("[repository]", "default: that of this folder's stack, else the quickstart's images", parsePath)
    .option("--json", "print it for programs")
    .addHelpText("after", EXAMPLES)
    .action((repository: string | undefined, options: Options) => list(repository, options, terminal));
}

async function list(given: string | undefined, { json }: Options, { out }: Terminal): Promise<void> {
  const repository = given ?? (await repositoryHere());
  const images = [...(await namesIn(repository))].sort(([one], [other]) => (one < other ? -1 : 1));
  if (json) {
    out(JSON.stringify({ repository, images: images.map(([name, path]) => ({ name, path })) }, undefined, 2));
    return;
  }
  out(
    images.length > 0 ? printable(alignColumns([["NAME", "PATH"], ...images])) : `There is no image in ${repository}.`,
  );
}

/** As the programs of this folder have it. */
export async function repositoryHere(): Promise<string> {
  return (await configurationHere(await backendsHere())).config("repository") ?? home("images");
}
