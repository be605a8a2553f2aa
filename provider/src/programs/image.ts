import type { Progress, Shape } from "../drivers/driver";
import { type PreparedImage, prepareImage } from "../images/prepare";
import { fetchImage } from "../images/repository/fetch";
import { findImageAt, readVcIn } from "../images/repository/repository";

/** The machines that a vc-in.xml asks for. */
export interface WantedShapes {
  readonly frontend: Shape;
  readonly compute: Shape;
}

/** @throws NotFound, InvalidImage, NoCapacity */
export async function readImage(vcInPath: string, progress: Progress): Promise<PreparedImage> {
  return prepareImage(await fetchImage(await findImageAt(vcInPath), progress), progress);
}

/** @throws NotFound, InvalidImage */
export async function readShapes(vcInPath: string): Promise<WantedShapes> {
  const { frontend, compute } = await readVcIn(vcInPath);
  return { frontend: frontend.shape, compute: compute.shape };
}
