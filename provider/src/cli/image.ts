import type { Command } from "commander";
import { addImageList } from "./image-list";
import type { Fail, Terminal } from "./terminal";

/** What is done with images, apart from clusters. */
export function addImage(program: Command, terminal: Terminal, _fail: Fail): void {
  const image = program
    .command("image")
    .summary("list, show and pack images")
    .description("Looks after images and the repositories that hold them.");
  addImageList(image, terminal);
}
