import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Oned } from "./oned";
import { IMG } from "./world";

/** Has a stand-in fetch what is registered under a URL, as a front-end does, into a folder: there each lies under its name. */
export function fetchImages(oned: Oned, folder: string): void {
  const finish = oned.finishImage.bind(oned);
  oned.finishImage = (image) => {
    if (!image.path.startsWith("http")) {
      finish(image);
      return;
    }
    fetch(image.path)
      .then(async (response) => {
        await writeFile(join(folder, image.name), Buffer.from(await response.arrayBuffer()));
        finish(image);
      })
      .catch((error) => {
        image.state = IMG.ERROR;
        image.template.set("ERROR", [`Error copying image: ${error}`]);
      });
  };
}
