import { readFile, realpath } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import type { Progress, Shape } from "../drivers/driver";
import { type PreparedImage, prepareImage } from "../images/prepare";
import { parseVcIn } from "../images/vc-in";
import { element, parseXml, textOf, type XmlElement } from "../images/xml";

/** The machines that a vc-in.xml asks for. */
export interface WantedShapes {
  readonly frontend: Shape;
  readonly compute: Shape;
}

const DEFAULT_MEMORY = 512;
/** By the unit of a libvirt memory element; KiB where none is written. */
const BYTES: Readonly<Record<string, number>> = {
  ...{ b: 1, bytes: 1, KB: 1e3, k: 1024, KiB: 1024, MB: 1e6, M: 1024 ** 2, MiB: 1024 ** 2 },
  ...{ GB: 1e9, G: 1024 ** 3, GiB: 1024 ** 3, TB: 1e12, T: 1024 ** 4, TiB: 1024 ** 4 },
};

/** @throws InvalidImage */
export async function readImage(vcInPath: string, progress: Progress): Promise<PreparedImage> {
  const { frontendDisk, computeDisk } = parseVcIn(await readFile(vcInPath, "utf8"), vcInPath);
  const disk = (file: string) => realpath(resolve(dirname(vcInPath), file));
  return prepareImage(
    {
      vcName: basename(dirname(vcInPath)),
      frontendDisk: await disk(frontendDisk),
      computeDisk: await disk(computeDisk),
      manifest: {},
    },
    progress,
  );
}

/** @throws RangeError for what is no XML */
export async function readShapes(vcInPath: string): Promise<WantedShapes> {
  const vc = element(parseXml(await readFile(vcInPath, "utf8")), "vc");
  const frontend = shapeOf(element(vc, "frontend", "domain"));
  const compute = element(vc, "compute", "domain");
  return { frontend, compute: compute ? shapeOf(compute) : frontend };
}

/** The cpus and memory that a domain asks for. */
function shapeOf(domain: XmlElement | undefined): Shape {
  const cpus = Number(textOf(element(domain, "vcpu"))) || 1;
  const memory = element(domain, "memory");
  const unit = typeof memory?.["@unit"] === "string" ? memory["@unit"] : "KiB";
  const mib = (Number(textOf(memory)) * (BYTES[unit] ?? Number.NaN)) / 1024 ** 2;
  return { cpus, memory: mib >= 1 ? Math.ceil(mib) : DEFAULT_MEMORY };
}
