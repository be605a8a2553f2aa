import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { execa } from "execa";
import { onPath } from "../../setup/programs";
import type { GuestFileSystem } from "../root/file-system";
import { bounded } from "./bounded";

/** Of what an initramfs unpacks to, bytes: many times an honest one. */
const MOST_UNPACKED = 1024 * 1024 * 1024;
/** Of one as it lies in a guest, bytes. */
const MOST_PACKED = 256 * 1024 * 1024;
const MOST_ENTRIES = 100_000;
const MOST_NAME = 4096;
const TIME_LIMIT_MS = 60_000;

/** What can be seen of an initramfs. */
export interface Initramfs {
  /** Names of kernel modules in it, as modprobe knows them: `virtio_blk`. */
  readonly modules: ReadonlySet<string>;
  /** Versions of the kernels that they are for. */
  readonly kernels: ReadonlySet<string>;
  /** Why not all of it could be seen. */
  readonly problem?: string;
}

interface Compression {
  readonly name: string;
  /** Hex digits. */
  readonly magic: string;
  readonly unpack: (packed: Buffer) => Unpacking;
}

interface Unpacking {
  readonly chunks: AsyncIterable<Buffer>;
  readonly end: () => void;
}

/** As the kernel's own lib/decompress.c tells them apart. */
const COMPRESSIONS: readonly Compression[] = [
  { name: "gzip", magic: "1f8b", unpack: gunzip },
  { name: "xz", magic: "fd377a585a00", unpack: byProgram("xz", "-dc") },
  { name: "lzma", magic: "5d0000", unpack: byProgram("xz", "-dc", "--format=lzma") },
  { name: "zstd", magic: "28b52ffd", unpack: byProgram("zstd", "-dcq", "--memory=512MB") },
  { name: "lz4", magic: "02214c18", unpack: byProgram("lz4", "-dcq") },
  { name: "lz4", magic: "04224d18", unpack: byProgram("lz4", "-dcq") },
  { name: "bzip2", magic: "425a68", unpack: byProgram("bzip2", "-dc") },
];

/**
 * Lists the modules in an initramfs (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst): cpio
 * archives one after the other, of which the last may be compressed. Files' contents are passed over; nothing is written.
 */
export async function readInitramfs(image: Buffer): Promise<Initramfs> {
  const found = { modules: new Set<string>(), kernels: new Set<string>() };
  const bare = new ByteStream(Readable.from(pieces(image)) as AsyncIterable<Buffer>);
  const rest = await readArchives(bare, found);
  if (rest === undefined) {
    return found;
  }
  const packed = image.subarray(rest);
  const compression = COMPRESSIONS.find(({ magic }) => packed.toString("hex", 0, magic.length / 2) === magic);
  if (!compression) {
    return { ...found, problem: "it is compressed in a way that isn't known here, or isn't whole" };
  }
  const { name, unpack } = compression;
  if (name !== "gzip" && onPath(name === "lzma" ? "xz" : name).length === 0) {
    return { ...found, problem: `it is compressed, and ${name} isn't installed here` };
  }
  const unpacking = unpack(packed);
  const timer = setTimeout(unpacking.end, TIME_LIMIT_MS);
  try {
    const stopped = await readArchives(new ByteStream(unpacking.chunks), found);
    return stopped === undefined ? found : { ...found, problem: "what is packed in it isn't whole" };
  } catch {
    return { ...found, problem: `${name} can't unpack all of it` };
  } finally {
    clearTimeout(timer);
    unpacking.end();
  }
}

/**
 * @returns where something begins that is no archive; undefined at the end of all
 * @throws when the stream does
 */
async function readArchives(
  stream: ByteStream,
  found: { readonly modules: Set<string>; readonly kernels: Set<string> },
): Promise<number | undefined> {
  for (let entries = 0; entries < MOST_ENTRIES; entries++) {
    await stream.skipZeros();
    const at = stream.position;
    const header = await stream.take(110);
    if (header.length === 0) {
      return undefined;
    }
    const [size, nameSize] = [54, 94].map((field) => Number.parseInt(header.toString("latin1", field, field + 8), 16));
    const isHeader = /^07070[12][\da-f]{104}$/i.test(header.toString("latin1"));
    if (!isHeader || size === undefined || nameSize === undefined || nameSize > MOST_NAME) {
      return at;
    }
    const name = (await stream.take(nameSize)).toString("latin1").replace(/\0.*$/s, "");
    const [, kernel, module] = /(?:^|\/)lib\/modules\/([^/]+)\/(?:.*\/)?([^/]+)\.ko(?:\.\w+)?$/.exec(name) ?? [];
    if (kernel !== undefined && module !== undefined) {
      found.kernels.add(kernel);
      found.modules.add(module.replaceAll("-", "_"));
    }
    await stream.skip(padding(110 + nameSize) + size + padding(size));
  }
  return stream.position;
}

/** To the next multiple of four. */
function padding(length: number): number {
  return (4 - (length % 4)) % 4;
}

/** Reads from chunks without keeping what was passed over. */
class ByteStream {
  position = 0;
  private pending: Buffer = Buffer.alloc(0);
  private readonly chunks: AsyncIterator<Buffer>;

  constructor(chunks: AsyncIterable<Buffer>) {
    this.chunks = chunks[Symbol.asyncIterator]();
  }

  /** Fewer at the end. */
  async take(length: number): Promise<Buffer> {
    while (this.pending.length < length && (await this.more())) {
      // Until there is enough.
    }
    const taken = this.pending.subarray(0, length);
    this.advance(taken.length);
    return taken;
  }

  async skip(length: number): Promise<void> {
    let left = length;
    do {
      const count = Math.min(left, this.pending.length);
      this.advance(count);
      left -= count;
    } while (left > 0 && (await this.more()));
  }

  async skipZeros(): Promise<void> {
    do {
      const count = this.pending.findIndex((byte) => byte !== 0);
      this.advance(count === -1 ? this.pending.length : count);
    } while (this.pending.length === 0 && (await this.more()));
  }

  private advance(count: number): void {
    this.pending = this.pending.subarray(count);
    this.position += count;
  }

  private async more(): Promise<boolean> {
    const { done, value } = await this.chunks.next();
    if (done) {
      return false;
    }
    if (this.position > MOST_UNPACKED) {
      throw new RangeError("unpacks to more than any initramfs has");
    }
    this.pending = this.pending.length === 0 ? value : Buffer.concat([this.pending, value]);
    return true;
  }
}

function* pieces(buffer: Buffer): Generator<Buffer> {
  for (let at = 0; at < buffer.length; at += 65_536) {
    yield buffer.subarray(at, at + 65_536);
  }
}

function gunzip(packed: Buffer): Unpacking {
  const unzip = createGunzip();
  unzip.end(packed);
  return { chunks: unzip, end: () => unzip.destroy() };
}

function byProgram(program: string, ...args: string[]): (packed: Buffer) => Unpacking {
  return (packed) => {
    const child = execa(...bounded(program, args), { input: packed, buffer: false, stderr: "ignore", reject: false });
    return { chunks: child.stdout as unknown as AsyncIterable<Buffer>, end: () => void child.kill("SIGKILL") };
  };
}

/** One in a guest, as far as its first 256 MiB; an empty or missing one has a problem. */
export async function initramfsAt(root: GuestFileSystem, path: string): Promise<Initramfs> {
  const image = await root.readBytes(path, MOST_PACKED);
  return image.length > 0
    ? readInitramfs(image)
    : { modules: new Set(), kernels: new Set(), problem: "it isn't there, or is empty" };
}
