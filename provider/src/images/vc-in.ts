import { InvalidImage } from "../drivers/errors";
import { attribute, element, elements, parseXml, textOf, type XmlElement } from "./xml";

/**
 * What a deployer needs of a `vc-in.xml` (PRAGMA's description of an image; the node parts are libvirt domains). A
 * `boot_dependency` isn't asked for: computes always come after their frontend is ready.
 */
export interface VcIn {
  /** File names as written, relative to the vc-in.xml. */
  readonly frontendDisk: string;
  /** The frontend's disk where there is no compute part. */
  readonly computeDisk: string;
}

/**
 * Reads a vc-in.xml.
 * @param origin where the text comes from, for messages
 * @throws InvalidImage
 */
export function parseVcIn(text: string, origin: string): VcIn {
  const invalid = (detail: string, hint = "") => new InvalidImage(origin, detail, hint);
  let root: XmlElement;
  try {
    root = parseXml(text);
  } catch (error) {
    throw invalid((error as Error).message);
  }
  const vc = element(root, "vc");
  if (!vc) {
    throw invalid("has no <vc> element", "It must be a PRAGMA vc-in.xml");
  }
  const virtualization = element(vc, "virtualization");
  const arch = attribute(virtualization, "arch");
  if (arch !== "x86_64") {
    throw invalid(`virtualization/@arch is ${arch ? `"${arch}"` : "missing"}`, "Only x86_64 images can be run");
  }
  const engine = attribute(virtualization, "engine");
  if (engine !== "kvm") {
    throw invalid(`virtualization/@engine is ${engine ? `"${engine}"` : "missing"}`, "Only kvm images can be run");
  }
  const frontend = element(vc, "frontend");
  if (!frontend) {
    throw invalid("has no <frontend> element");
  }
  const compute = element(vc, "compute");
  const frontendDisk = diskOf(frontend, "frontend", invalid);
  return {
    frontendDisk,
    computeDisk: compute ? diskOf(compute, "compute", invalid) : frontendDisk,
  };
}

function diskOf(node: XmlElement, name: string, invalid: (detail: string, hint?: string) => InvalidImage): string {
  const disks = elements(element(node, "domain", "devices"), "disk").filter(
    (disk) => (attribute(disk, "device") ?? "disk") === "disk",
  );
  const [disk] = disks;
  if (!disk || disks.length !== 1) {
    throw invalid(`${name} has ${disks.length} disks`, "The standard wants exactly one");
  }
  const type = attribute(element(disk, "driver"), "type");
  if (type !== undefined && type !== "raw") {
    throw invalid(`${name}'s disk has type "${type}"`, "The standard wants raw");
  }
  const file = attribute(element(disk, "source"), "file") ?? textOf(element(disk, "source"));
  if (!file) {
    throw invalid(`${name}'s disk has no source file`);
  }
  return file;
}
