import { copyFile, link, stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Progress, Shape } from "../../drivers/driver";
import { NotFound } from "../../drivers/errors";
import { reporting } from "../../drivers/transfer";
import { DEFAULT_DIALECT } from "../../vc-out/vc-out";
import { isSameFile } from "../disk/bytes";
import { refuseInUse } from "../disk/in-use";
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
    const [frontendFiles] = packed as [PackedFiles];
    const computeFiles = packed[1] ?? (await linkedAs(diskName(vcName, "compute"), frontendFiles, workspace));
    const all = [frontendFiles, computeFiles];
    const described = {
      frontend: { disk: frontendFiles.disk, shape: packing.shapes.frontend },
      compute: { disk: computeFiles.disk, shape: packing.shapes.compute },
    };
    // It is said of both disks.
    const isSame = frontend.reads === compute.reads && frontend.vcOutDialect === compute.vcOutDialect;
    const manifest = {
      formatVersion: FORMAT_VERSION,
      ...(isSame && frontend),
      disks: Object.fromEntries(all.map(({ disk, content }) => [disk.name, content])),
      files: Object.assign({}, ...all.map((one) => one.files)),
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
    await refuseInUse(file);
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
  const disks = [{ name: diskName(vcName, "frontend"), file: frontend }];
  if (!(await isSameFile(frontend, compute))) {
    disks.push({ name: diskName(vcName, "compute"), file: compute });
  }
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

/** PRAGMA's tools have one folder for the disks of all images that they start. */
function diskName(vcName: string, node: "frontend" | "compute"): string {
  return `${vcName}-${node}.raw`;
}

/**
 * The same files under names of another disk: PRAGMA's tools unpack each node type's own, and take what was packed away.
 * They share their bytes where the repository's file system can.
 */
async function linkedAs(name: string, { disk, content, files }: PackedFiles, workspace: string): Promise<PackedFiles> {
  const renamed = (part: string) => part.replace(disk.name, () => name);
  for (const part of disk.parts) {
    const [from, to] = [join(workspace, part), join(workspace, renamed(part))];
    await link(from, to).catch(() => copyFile(from, to));
  }
  return {
    disk: { ...disk, name, parts: disk.parts.map(renamed) },
    content,
    files: Object.fromEntries(Object.entries(files).map(([part, of]) => [renamed(part), of])),
  };
}
