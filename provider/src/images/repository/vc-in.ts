import type { Shape } from "../../drivers/driver";
import { InvalidImage } from "../../drivers/errors";
import { attribute, element, elements, parseXml, textOf, type XmlElement } from "../xml";

/** What a `vc-in.xml` says (PRAGMA's description of an image; the node parts are libvirt domains). */
export interface VcIn {
  readonly frontend: VcInNode;
  /** The frontend's where there is no compute part. */
  readonly compute: VcInNode;
  readonly hasCompute: boolean;
  /** The private network that the image's software expects. */
  readonly privateNetwork?: { readonly ipAddress: string; readonly netmask: string };
  /** The frontend's NIC to the outside, as the image calls it: `eth1`. */
  readonly publicInterface?: string;
}

export interface VcInNode {
  readonly disk: PackedDisk;
  /** The domain's NICs. */
  readonly nics: number;
  /** The machine that it asks for. 1 cpu and 512 MiB where it doesn't say. */
  readonly shape: Shape;
  /** How long computes are to wait after their frontend's start. Seconds; they always wait until it is ready. */
  readonly wait?: number;
}

/** How a disk is packed. Names are as written, relative to the vc-in.xml. */
export interface PackedDisk {
  /** The RAW disk's. */
  readonly name: string;
  /** What the repository holds: concatenated in this order, then unpacked. */
  readonly parts: readonly string[];
  readonly isGzip: boolean;
}

const DEFAULT_CPUS = 1;
const DEFAULT_MEMORY = 512;
/** More than any machine has. */
const MOST_CPUS = 4096;
/** By the unit of a libvirt memory element; KiB where none is written. */
const BYTES: Readonly<Record<string, number>> = {
  ...{ b: 1, bytes: 1, KB: 1e3, k: 1024, KiB: 1024, MB: 1e6, M: 1024 ** 2, MiB: 1024 ** 2 },
  ...{ GB: 1e9, G: 1024 ** 3, GiB: 1024 ** 3, TB: 1e12, T: 1024 ** 4, TiB: 1024 ** 4 },
};
/** The spelling is the format's. */
const PACKINGS = ["raw", "gzip", "splited", "splited_gzip"] as const;
type Packing = (typeof PACKINGS)[number];

/**
 * Reads a vc-in.xml.
 * @param origin where the text comes from, for messages
 * @throws InvalidImage that names the element
 */
export function parseVcIn(text: string, origin: string): VcIn {
  return new Reader(origin).read(text);
}

class Reader {
  constructor(private readonly origin: string) {}

  read(text: string): VcIn {
    const vc = this.single(this.parse(text), "vc");
    if (!vc) {
      throw this.invalid("has no <vc> element", "It must be a PRAGMA vc-in.xml");
    }
    this.checkMachine(this.single(vc, "virtualization"));
    const frontendPart = this.single(vc, "frontend");
    if (!frontendPart) {
      throw this.invalid("has no <frontend> element", "Computes alone are no cluster: describe the frontend too");
    }
    const computePart = this.single(vc, "compute");
    const files = filesBelow(this.single(vc, "files"));
    const frontend = this.node(frontendPart, "frontend", files);
    const compute = computePart ? this.node(computePart, "compute", files, frontend.disk) : frontend;
    return { frontend, compute, hasCompute: computePart !== undefined, ...this.networks(vc) };
  }

  private parse(text: string): XmlElement {
    // Messages quote what is in it.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    if (/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/.test(text)) {
      throw this.invalid("is not well-formed XML: it has control characters");
    }
    try {
      return parseXml(text);
    } catch (error) {
      throw this.invalid((error as Error).message);
    }
  }

  private checkMachine(virtualization: XmlElement | undefined): void {
    const arch = attribute(virtualization, "arch");
    if (arch !== "x86_64") {
      throw this.invalid(`virtualization/@arch is ${arch ? `"${arch}"` : "missing"}`, "Only x86_64 images can be run");
    }
    const engine = attribute(virtualization, "engine");
    if (engine !== "kvm") {
      throw this.invalid(
        `virtualization/@engine is ${engine ? `"${engine}"` : "missing"}`,
        "Only kvm images can be run",
      );
    }
  }

  /** @param shared the disk of another node type, whose packing holds for the same file here too */
  private node(part: XmlElement, where: string, files: readonly XmlElement[], shared?: PackedDisk): VcInNode {
    const domain = this.single(part, "domain", where);
    const devices = this.single(domain, "devices", where);
    const name = this.diskName(devices, where);
    const own = filesBelow(part);
    const described = [
      ...own.filter((file) => (attribute(file, "filename") ?? name) === name),
      ...files.filter((file) => subjectOf(file) === name),
    ];
    if (own.length > 0 && described.length === 0) {
      throw this.invalid(`<file> in ${where} is about another file than ${name}`, "Its filename must be the disk's");
    }
    const packings = described.map((file) => this.packing(file, name));
    const [packing] = packings;
    if (packings.some((other) => JSON.stringify(other) !== JSON.stringify(packing))) {
      throw this.invalid(`${name} is described twice, in two ways`, "Leave one <file> of it");
    }
    const wait = this.wait(part, where);
    return {
      disk: packing ?? (shared?.name === name ? shared : { name, parts: [name], isGzip: /\.gz$/i.test(name) }),
      nics: elements(devices, "interface").length,
      shape: this.shape(domain, where),
      ...(wait !== undefined && { wait }),
    };
  }

  private diskName(devices: XmlElement | undefined, where: string): string {
    const disks = elements(devices, "disk").filter((disk) => (attribute(disk, "device") ?? "disk") === "disk");
    const [disk] = disks;
    if (!disk || disks.length !== 1) {
      throw this.invalid(`${where} has ${disks.length} disks`, "The standard wants exactly one");
    }
    const type = attribute(this.single(disk, "driver", `${where}/disk`), "type");
    if (type !== undefined && type !== "raw") {
      throw this.invalid(`${where}'s disk has type "${type}"`, "The standard wants raw");
    }
    const source = this.single(disk, "source", `${where}/disk`);
    const volume = attribute(source, "volume");
    if (volume !== undefined) {
      throw this.invalid(
        `${where}'s disk is the ZFS volume "${volume}"`,
        "Only files can be read: copy the volume into a RAW file with dd, and name that in source/@file",
      );
    }
    const file = attribute(source, "file") ?? textOf(source);
    if (!file) {
      throw this.invalid(`${where}'s disk has no source file`, "Name it in source/@file, relative to the vc-in.xml");
    }
    return file;
  }

  private packing(file: XmlElement, name: string): PackedDisk {
    const type = attribute(file, "type") ?? "raw";
    if (!isPacking(type)) {
      throw this.invalid(`<file> of ${name} has type "${type}"`, `It is one of ${PACKINGS.join(", ")}`);
    }
    const named = elements(file, "part").map(textOf);
    if (named.includes("")) {
      throw this.invalid(`<file> of ${name} has an empty <part>`, "Each names one file");
    }
    const parts = named.length > 0 ? named : [name];
    if (new Set(parts).size !== parts.length) {
      throw this.invalid(`<file> of ${name} names a <part> twice`, "Each comes once, in the order of the disk");
    }
    const isSplit = type === "splited" || type === "splited_gzip";
    if (!isSplit && parts.length > 1) {
      throw this.invalid(
        `<file> of ${name} has ${parts.length} parts and type "${type}"`,
        `Write splited_gzip or splited`,
      );
    }
    if (named.length === 0 && (isSplit || (type === "gzip" && !/\.gz$/i.test(name)))) {
      throw this.invalid(`<file> of ${name} has no <part>`, "Name there what the repository holds, in order");
    }
    return { name, parts, isGzip: type === "gzip" || type === "splited_gzip" };
  }

  private shape(domain: XmlElement | undefined, where: string): Shape {
    const vcpu = this.single(domain, "vcpu", where);
    const cpus = vcpu ? Number(textOf(vcpu)) : DEFAULT_CPUS;
    if (!Number.isInteger(cpus) || cpus < 1 || cpus > MOST_CPUS) {
      throw this.invalid(`${where}'s <vcpu> is "${textOf(vcpu)}"`, `It is a whole number from 1 to ${MOST_CPUS}`);
    }
    const memory = this.single(domain, "memory", where);
    if (!memory) {
      return { cpus, memory: DEFAULT_MEMORY };
    }
    const unit = attribute(memory, "unit") ?? "KiB";
    const mebibytes = (Number(textOf(memory) || Number.NaN) * (BYTES[unit] ?? Number.NaN)) / 1024 ** 2;
    if (!(mebibytes > 0 && mebibytes < Number.MAX_SAFE_INTEGER)) {
      throw this.invalid(
        `${where}'s <memory> is "${textOf(memory)}" in "${unit}"`,
        "It is a number, in KiB where no unit is written; units are libvirt's",
      );
    }
    // Less than 1 MiB is nobody's machine.
    return { cpus, memory: mebibytes >= 1 ? Math.ceil(mebibytes) : DEFAULT_MEMORY };
  }

  private wait(part: XmlElement, where: string): number | undefined {
    const wait = this.single(this.single(part, "boot_dependency", where), "wait", `${where}/boot_dependency`);
    if (!wait) {
      return undefined;
    }
    const seconds = Number(attribute(wait, "value") || Number.NaN);
    if ((attribute(wait, "type") ?? "clock") !== "clock" || !Number.isInteger(seconds) || seconds < 0) {
      throw this.invalid(
        `${where}'s boot_dependency/wait is "${attribute(wait, "value") ?? ""}" of type "${attribute(wait, "type") ?? ""}"`,
        "It is whole seconds, of type clock",
      );
    }
    return seconds;
  }

  private networks(vc: XmlElement): Pick<VcIn, "privateNetwork" | "publicInterface"> {
    const networks = this.single(vc, "networks");
    const privates = elements(networks, "network").filter((network) => attribute(network, "name") === "private");
    if (privates.length > 1) {
      throw this.invalid("has 2 private networks in <networks>", "Leave one");
    }
    const [network] = privates;
    const publicInterface = textOf(element(networks, "frontend", "public"));
    const told = (name: string) => textOf(this.single(network, name, "networks/network"));
    return {
      ...(network && { privateNetwork: { ipAddress: told("ipaddress"), netmask: told("netmask") } }),
      ...(publicInterface && { publicInterface }),
    };
  }

  /** The one child element of a name, undefined where there is none. */
  private single(parent: XmlElement | undefined, name: string, where = ""): XmlElement | undefined {
    const found = elements(parent, name);
    if (found.length > 1) {
      throw this.invalid(
        `has ${found.length} <${name}> elements${where && ` in ${where}`}`,
        "Leave the one that holds",
      );
    }
    return found[0];
  }

  private invalid(detail: string, hint = ""): InvalidImage {
    return new InvalidImage(this.origin, detail, hint);
  }
}

function isPacking(type: string): type is Packing {
  return (PACKINGS as readonly string[]).includes(type);
}

/** What a `<file>` of `<files>` makes, which need be no disk: what it says, else what its one part unpacks to. */
function subjectOf(file: XmlElement): string | undefined {
  const part = textOf(element(file, "part"));
  return attribute(file, "filename") ?? (attribute(file, "type") === "gzip" ? part.replace(/\.gz$/i, "") : part);
}

/** All `<file>` elements below one, at any depth: tools of different years wrote them in different places. */
function filesBelow(parent: XmlElement | undefined): readonly XmlElement[] {
  return Object.keys(parent ?? {})
    .filter((name) => !/^[@#]/.test(name))
    .flatMap((name) => elements(parent, name).flatMap((child) => (name === "file" ? [child] : filesBelow(child))));
}
