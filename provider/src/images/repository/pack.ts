import { stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Progress, Shape } from "../../drivers/driver";
import { NotFound } from "../../drivers/errors";
import { reporting } from "../../drivers/transfer";
import { DEFAULT_DIALECT } from "../../vc-out/vc-out";
import { isSameFile } from "../disk/bytes";
import { examineDisk } from "../examine";
import { FORMAT_VERSION } from "./manifest";
import { type PackedFiles, packDisk } from "./pack-disk";
import { addToRepository, type NewImage } from "./repository-folder";
import { vcInText } from "./vc-in-text";

export interface Packing extends NewImage {
  /** Files with RAW disks. */
  readonly frontend: string;
  /** The frontend's where it is left out. */
  readonly compute?: string;
  /** The most that a file may have, bytes. Left out: one file for each disk, whatever its size. */
  readonly split?: number;
  readonly shapes: { readonly frontend: Shape; readonly compute: Shape };
}

export interface PackedImage {
  /** The folder with its files. */
  readonly folder: string;
  /** Bytes of all of its files. */
  readonly packed: number;
  /** Bytes of its disks. */
  readonly unpacked: number;
}

/**
 * Puts an image into a repository, packed, with its vc-in.xml, its manifest.json and its line of vcdb.txt. The repository
 * has it when that line is there, and is as it was until then.
 * @throws InvalidImage for disks that can't be run and names that can't be, SiteFailure, Locked
 */
export async function packImage(packing: Packing, progress: Progress): Promise<PackedImage> {
  const { vcName } = packing;
  const { frontend, compute } = await examined(packing);
  let packed: readonly PackedFiles[] = [];
  const folder = await addToRepository(packing, progress, async (workspace) => {
    packed = await packDisks(packing, workspace, progress);
    const [frontendFiles, computeFiles] = [packed[0] as PackedFiles, packed.at(-1) as PackedFiles];
    const described = {
      frontend: { disk: frontendFiles.disk, shape: packing.shapes.frontend },
      compute: { disk: computeFiles.disk, shape: packing.shapes.compute },
    };
    // It is said of both disks.
    const isSame = frontend.reads === compute.reads && frontend.vcOutDialect === compute.vcOutDialect;
    const manifest = {
      formatVersion: FORMAT_VERSION,
      ...(isSame && frontend),
      disks: Object.fromEntries(packed.map(({ disk, content }) => [disk.name, content])),
      files: Object.assign({}, ...packed.map((one) => one.files)),
    };
    await writeFile(join(workspace, "vc-in.xml"), vcInText(vcName, described.frontend, described.compute));
    await writeFile(join(workspace, "manifest.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  });
  const sizes = (contents: readonly { size: number }[]) => contents.reduce((sum, { size }) => sum + size, 0);
  return {
    folder,
    packed: sizes(packed.flatMap((one) => Object.values(one.files))),
    unpacked: sizes(packed.map(({ content }) => content)),
  };
}

/** What reads the network inside the disks. @throws InvalidImage for disks that can't be run */
async function examined({ frontend, compute = frontend }: Packing) {
  const told = async (file: string) => {
    await stat(file).catch((error: NodeJS.ErrnoException) => {
      throw new NotFound(`disk ${file}`, `can't be read (${error.code})`, "Name a RAW disk's file");
    });
    const { reads = "vc-out.xml", vcOutDialect = DEFAULT_DIALECT } = await examineDisk(resolve(file));
    return { reads, ...(reads === "vc-out.xml" && { vcOutDialect }) };
  };
  return { frontend: await told(frontend), compute: await told(compute) };
}

/** @returns those of the frontend, then those of the compute where that has another disk */
async function packDisks(
  { vcName, frontend, compute = frontend, split }: Packing,
  workspace: string,
  progress: Progress,
): Promise<PackedFiles[]> {
  const disks = (await isSameFile(frontend, compute))
    ? [{ name: "frontend.raw", file: frontend }]
    : [
        { name: "frontend.raw", file: frontend },
        { name: "compute.raw", file: compute },
      ];
  const packed: PackedFiles[] = [];
  for (const { name, file } of disks) {
    const { size } = await stat(file);
    let done = 0;
    const what = `image ${vcName}: packing ${name}`;
    packed.push(
      await reporting({ what, bytes: size, arrived: async () => done }, progress, () =>
        packDisk(resolve(file), { name, into: workspace, split }, (bytes) => {
          done = bytes;
        }),
      ),
    );
  }
  return packed;
}
