import type { Command } from "commander";
import { addImageBuild } from "./image-build";
import { addImageCheck } from "./image-check";
import { addImageList } from "./image-list";
import { addImagePack } from "./image-pack";
import { addImageShow } from "./image-show";
import type { Fail, Terminal } from "./terminal";

/** What is done with images, apart from clusters. */
export function addImage(program: Command, terminal: Terminal, fail: Fail): void {
  const image = program
    .command("image")
    .summary("build, check, list, show and pack images")
    .description("Looks after images and the repositories that hold them.");
  addImageList(image, terminal);
  addImageShow(image, terminal);
  addImageBuild(image, terminal, fail);
  addImageCheck(image, terminal, fail);
  addImagePack(image, terminal);
}
