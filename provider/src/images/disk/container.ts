import { type Bytes, textIn } from "./bytes";

/** What a file is that isn't a RAW disk. */
export interface Container {
  readonly name: string;
  /** Another file that it would have read, as it names it. */
  readonly reads?: { readonly what: "backing file" | "data file"; readonly name: string };
  /** How a RAW disk is made of it. */
  readonly fix: string;
}

interface Magic {
  readonly name: string;
  /** Bytes from the start; from the end where negative. */
  readonly at: number;
  readonly magic: string;
  readonly fix: string;
}

const HEAD = 64 * 1024;
/** No honest path is longer. */
const MOST_NAME = 4096;

const convert = (format: string) => `Convert it with qemu-img convert -f ${format} -O raw`;
const unpack = (program: string) => `Unpack it with ${program}`;

/**
 * From the formats' own specifications (QEMU's docs/interop, VMware's Virtual Disk Format, Microsoft's VHD and VHDX,
 * RFC 1952, xz's and zstd's format documents, ECMA-119, POSIX' ustar, LUKS' on-disk formats).
 */
const MAGICS: readonly Magic[] = [
  { name: "qcow2", at: 0, magic: "QFI\xfb", fix: convert("qcow2") },
  { name: "QED", at: 0, magic: "QED\0", fix: convert("qed") },
  { name: "VMDK", at: 0, magic: "KDMV", fix: convert("vmdk") },
  { name: "VMDK", at: 0, magic: "COWD", fix: convert("vmdk") },
  { name: "VMDK", at: 0, magic: "# Disk DescriptorFile", fix: convert("vmdk") },
  { name: "VHDX", at: 0, magic: "vhdxfile", fix: convert("vhdx") },
  { name: "VHD", at: 0, magic: "conectix", fix: convert("vpc") },
  // A fixed one is a RAW disk with a footer.
  { name: "VHD", at: -512, magic: "conectix", fix: convert("vpc") },
  { name: "VDI", at: 64, magic: "\x7f\x10\xda\xbe", fix: convert("vdi") },
  { name: "Parallels", at: 0, magic: "WithoutFreeSpace", fix: convert("parallels") },
  { name: "Parallels", at: 0, magic: "WithouFreSpacExt", fix: convert("parallels") },
  { name: "DMG", at: -512, magic: "koly\0\0\0\x04", fix: convert("dmg") },
  { name: "gzip", at: 0, magic: "\x1f\x8b\x08", fix: unpack("gunzip") },
  { name: "xz", at: 0, magic: "\xfd7zXZ\0", fix: unpack("unxz") },
  { name: "zstd", at: 0, magic: "\x28\xb5\x2f\xfd", fix: unpack("unzstd") },
  { name: "lz4", at: 0, magic: "\x04\x22\x4d\x18", fix: unpack("lz4 -d") },
  { name: "LZO", at: 0, magic: "\x89LZO\0\r\n\x1a\n", fix: unpack("lzop -d") },
  { name: "zip", at: 0, magic: "PK\x03\x04", fix: unpack("unzip") },
  { name: "7z", at: 0, magic: "7z\xbc\xaf\x27\x1c", fix: unpack("7z x") },
  { name: "tar", at: 257, magic: "ustar", fix: unpack("tar -xf") },
  { name: "an ISO 9660 disc", at: 32_769, magic: "CD001", fix: "Install from it onto a RAW disk" },
  { name: "SquashFS", at: 0, magic: "hsqs", fix: "Unpack it into a file system on a RAW disk" },
  {
    name: "LUKS",
    at: 0,
    magic: "LUKS\xba\xbe",
    fix: "Copy what it encrypts to a RAW disk: nobody gives a node its passphrase",
  },
];

/** What a file is, by its content and never by its name; undefined: RAW, as far as anybody can tell. */
export async function containerOf(file: Bytes): Promise<Container | undefined> {
  const head = await file.read(0, HEAD);
  const tail = await file.read(Math.max(0, file.size - 512), 512);
  const found = MAGICS.find(({ at, magic }) => {
    const [where, offset] = at < 0 ? [tail, tail.length + at] : [head, at];
    return offset >= 0 && where.subarray(offset, offset + magic.length).equals(Buffer.from(magic, "latin1"));
  });
  if (found) {
    const reads = await READS[found.name]?.(file, head);
    return { name: found.name, fix: found.fix, ...(reads && { reads }) };
  }
  return /^BZh[1-9]1AY&SY/.test(head.toString("latin1", 0, 10)) ? { name: "bzip2", fix: unpack("bunzip2") } : undefined;
}

type Reads = (file: Bytes, head: Buffer) => Promise<Container["reads"]>;

/** Other files that a container names: read by a machine, they would be this host's own. */
const READS: Readonly<Record<string, Reads>> = {
  qcow2: async (file, head) => {
    const dataFile = qcow2DataFile(head);
    if (dataFile !== undefined) {
      return { what: "data file", name: dataFile };
    }
    const name = await nameAt(file, u64be(head, 8), u32be(head, 16));
    return name ? { what: "backing file", name } : undefined;
  },
  QED: async (file, head) => {
    const BACKING_FILE = 0x1;
    const name = (u32le(head, 16) & BACKING_FILE) !== 0 ? await nameAt(file, u32le(head, 56), u32le(head, 60)) : "";
    return name ? { what: "backing file", name } : undefined;
  },
};

/** The name in a header extension, empty where there is none; undefined for a disk that holds its data itself. */
function qcow2DataFile(head: Buffer): string | undefined {
  const [EXTERNAL_DATA, DATA_FILE_NAME] = [0x4, 0x44415441];
  const hasDataFile = u32be(head, 4) >= 3 && (u32be(head, 76) & EXTERNAL_DATA) !== 0;
  if (!hasDataFile) {
    return undefined;
  }
  let at = u32be(head, 100);
  while (at >= 104 && at + 8 <= head.length) {
    const [type, length] = [u32be(head, at), u32be(head, at + 4)];
    if (type === DATA_FILE_NAME) {
      return textIn(head.subarray(at + 8, at + 8 + Math.min(length, MOST_NAME)));
    }
    if (type === 0) {
      break;
    }
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return "";
}

async function nameAt(file: Bytes, offset: number, length: number): Promise<string> {
  return offset > 0 && length > 0 && length <= MOST_NAME ? textIn(await file.read(offset, length)) : "";
}

function u32be(buffer: Buffer, at: number): number {
  return at + 4 <= buffer.length ? buffer.readUInt32BE(at) : 0;
}

function u64be(buffer: Buffer, at: number): number {
  return at + 8 <= buffer.length ? Number(buffer.readBigUInt64BE(at)) : 0;
}

function u32le(buffer: Buffer, at: number): number {
  return at + 4 <= buffer.length ? buffer.readUInt32LE(at) : 0;
}
