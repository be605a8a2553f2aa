import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32, gzipSync } from "node:zlib";
import fc from "fast-check";
import { InvalidImage } from "../../provider/src/drivers/errors";
import { type Bytes, bytesIn } from "../../provider/src/images/disk/bytes";
import { containerOf } from "../../provider/src/images/disk/container";
import { readInitramfs } from "../../provider/src/images/disk/initramfs";
import { layoutOf } from "../../provider/src/images/disk/layout";
import { endOf, readPartitions } from "../../provider/src/images/disk/partitions";
import { signaturesOf } from "../../provider/src/images/disk/signatures";
import { parseManifest } from "../../provider/src/images/repository/manifest";
import { parseVcdb } from "../../provider/src/images/repository/repository";
import { parseVcIn } from "../../provider/src/images/repository/vc-in";
import { parseXml } from "../../provider/src/images/xml";
import { initramfs, MIB, partition, ROOT_UUID, run, sparse } from "./disk-corpus";

/** What good inputs are made into, and what must hold for whatever comes of it. */
export interface Target {
  readonly inputs: readonly Buffer[];
  /** Makes checksums right again, so that what lies behind them is reached. */
  readonly repair?: (input: Buffer) => void;
  /** Places where something is decided. */
  readonly places: readonly number[];
  /** @throws what must not happen */
  readonly holds: (input: Buffer) => Promise<void> | void;
  /** How long one input may keep a processor busy, ms. */
  readonly limit: number;
  /** How often it is tried in npm test; with that many it takes a second or two. */
  readonly runs: number;
}

type Mutation =
  | {
      readonly kind: "byte" | "u16" | "u32" | "u64";
      readonly place: number;
      readonly near: number;
      readonly value: number;
    }
  | { readonly kind: "cut" | "copy" | "insert"; readonly place: number; readonly near: number; readonly value: number };

const INTERESTING = [
  0, 1, 2, 5, 0x0f, 0x7f, 0x80, 0xee, 0xff, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff,
];
const TOKENS = [
  "<",
  ">",
  "]]>",
  "<![CDATA[",
  "<!--",
  "&#0;",
  "&lt;",
  "&x;",
  "<a>",
  "</vc>",
  "\0",
  "../",
  "/",
  "\n",
  ",",
  '"',
  "__proto__",
  "{",
  "[",
  "1e999",
  "\ud800",
  "<?xml?>",
];

const mutation: fc.Arbitrary<Mutation> = fc.record({
  kind: fc.constantFrom("byte", "byte", "u16", "u32", "u32", "u64", "cut", "copy", "insert"),
  place: fc.nat(),
  near: fc.integer({ min: 0, max: 96 }),
  value: fc.oneof(fc.constantFrom(...INTERESTING), fc.nat(0xffffffff)),
});

/**
 * Tries mutated good inputs; the same ones for the same seed.
 * @throws with the seed and the smallest input that was found, when something doesn't hold
 */
export async function tryOut(
  { inputs, repair, places, holds, limit }: Target,
  options: { seed: number; runs: number; ms?: number },
): Promise<void> {
  const input = fc.tuple(fc.nat(inputs.length - 1), fc.array(mutation, { minLength: 1, maxLength: 6 }), fc.boolean());
  const property = fc.asyncProperty(input, async ([index, mutations, isRepaired]) => {
    let mutated: Buffer = Buffer.from(inputs[index] ?? Buffer.alloc(0));
    for (const one of mutations) {
      mutated = mutate(mutated, one, places);
    }
    if (isRepaired) {
      repair?.(mutated);
    }
    const began = process.cpuUsage();
    await holds(mutated);
    const { user, system } = process.cpuUsage(began);
    if (user + system > limit * 1000) {
      throw new Error(`it took ${Math.round((user + system) / 1000)} ms`);
    }
  });
  await fc.assert(property, {
    seed: options.seed,
    numRuns: options.runs,
    ...(options.ms !== undefined && { interruptAfterTimeLimit: options.ms }),
  });
}

function mutate(input: Buffer, { kind, place, near, value }: Mutation, places: readonly number[]): Buffer {
  // Every other one anywhere.
  const anchor =
    place % 2 === 0 ? (places[(place >> 1) % Math.max(1, places.length)] ?? 0) : place % (input.length + 1);
  const at = Math.min(anchor + near, input.length);
  if (kind === "cut") {
    return input.subarray(0, at);
  }
  if (kind === "copy") {
    return Buffer.concat([
      input.subarray(0, at),
      input.subarray(Math.max(0, at - (value % 512)), at),
      input.subarray(at),
    ]);
  }
  if (kind === "insert") {
    return Buffer.concat([input.subarray(0, at), Buffer.from(TOKENS[value % TOKENS.length] ?? ""), input.subarray(at)]);
  }
  const width = { byte: 1, u16: 2, u32: 4, u64: 8 }[kind];
  if (at + width <= input.length) {
    if (kind === "u64") {
      input.writeBigUInt64LE((BigInt(value) << 31n) | BigInt(value), at);
    } else {
      input.writeUIntLE(value % 2 ** (8 * width), at, width);
    }
  }
  return input;
}

/** All that is tried, by name. */
export async function fuzzTargets(): Promise<Readonly<Record<string, Target>>> {
  const folder = await mkdtemp(join(tmpdir(), "fuzz-"));
  try {
    return {
      "partition tables": {
        inputs: [await mbr(folder), await gpt(folder)],
        repair: repairGpt,
        places: [440, 446, 462, 512, 552, 584, 1024, 1152, ...[0, 2].map((index) => (4096 + 2048 * index) * 512 + 446)],
        holds: partitionsHold,
        limit: 1000,
        runs: 3000,
      },
      "signatures and containers": {
        inputs: await fileSystems(folder),
        places: [0, 512, 1024, 1024 + 88, 1024 + 240, 4096, 4086, 65_536, 65_536 + 128, 131_072],
        holds: signaturesHold,
        limit: 1000,
        runs: 1500,
      },
      "an initramfs": {
        inputs: await archives(),
        places: [0, 110, 240, 1360, 512],
        holds: async (input) => void (await readInitramfs(input)),
        limit: 5000,
        runs: 1500,
      },
      XML: { inputs: [VC_IN], places: [0, 60, 200, 400], holds: xmlHolds, limit: 2000, runs: 3000 },
      "a vcdb.txt": {
        inputs: [Buffer.from("demo,demo/vc-in.xml\r\n# x,y\n a , b \n")],
        places: [0, 20],
        holds: vcdbHolds,
        limit: 500,
        runs: 3000,
      },
      "a manifest.json": {
        inputs: [Buffer.from('{"reads":"vc-out.xml","vcOutDialect":"A","disks":{"a.raw":"00"}}')],
        places: [0, 10, 30],
        holds: (input) => throwsOnly(InvalidImage, () => parseManifest(input.toString("utf8"), "here")),
        limit: 500,
        runs: 3000,
      },
    };
  } finally {
    await rm(folder, { recursive: true });
  }
}

// ── What must hold ─────────────────────────────────────────────────────────────────────────────────────────────────

async function partitionsHold(input: Buffer): Promise<void> {
  const { bytes, cost } = counted(input);
  const table = await readPartitions(bytes);
  for (const partition of table?.partitions ?? []) {
    const { number, start, length } = partition;
    const isInside = [number, start, length].every(Number.isSafeInteger) && start >= 512 && length > 0;
    must(
      isInside && endOf(partition) <= input.length,
      `partition ${number} (${start}, ${length}) lies inside ${input.length}`,
    );
  }
  const numbers = table?.partitions.map(({ number }) => number) ?? [];
  must(new Set(numbers).size === numbers.length, `numbers are different: ${numbers}`);
  for (const { text } of table?.problems ?? []) {
    must(isPlain(text), `${JSON.stringify(text)} can be printed`);
  }
  must(cost().reads < 200 && cost().bytes < 2 * MIB, `it read ${cost().bytes} bytes in ${cost().reads} pieces`);
}

async function signaturesHold(input: Buffer): Promise<void> {
  const { bytes, cost } = counted(input);
  const [container, signatures] = [await containerOf(bytes), await signaturesOf(bytes)];
  await layoutOf(bytes);
  const texts = [
    container?.name,
    container?.reads?.name,
    ...signatures.flatMap(({ what, label, problem }) => [what, label, problem]),
  ];
  must(
    texts.every((text) => text === undefined || isPlain(text)),
    `${JSON.stringify(texts)} can be printed`,
  );
  must(signatures.length < 8, "there are few");
  must(cost().bytes < 8 * MIB, `it read ${cost().bytes} bytes`);
}

function xmlHolds(input: Buffer): void {
  const text = input.toString("utf8");
  throwsOnly(RangeError, () => parseXml(text));
  throwsOnly(InvalidImage, () => parseVcIn(text, "here"));
  must(({} as Record<string, unknown>).polluted === undefined, "nothing else is changed");
}

function vcdbHolds(input: Buffer): void {
  for (const [name, path] of parseVcdb(input.toString("utf8"))) {
    must(name !== "" && path !== "" && !`${name}${path}`.includes("\n"), `${JSON.stringify([name, path])} is a line`);
  }
}

function throwsOnly(kind: new (...args: never[]) => Error, work: () => unknown): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof kind)) {
      throw error;
    }
  }
}

function must(holds: boolean, what: string): void {
  if (!holds) {
    throw new Error(`it doesn't hold that ${what}`);
  }
}

function isPlain(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return !/[\x00-\x1f\x7f-\x9f]/.test(text);
}

function counted(input: Buffer): { bytes: Bytes; cost: () => { reads: number; bytes: number } } {
  const whole = bytesIn(input);
  const cost = { reads: 0, bytes: 0 };
  const read = async (offset: number, length: number) => {
    const found = await whole.read(offset, length);
    cost.reads += 1;
    cost.bytes += found.length;
    return found;
  };
  return { bytes: { size: input.length, read }, cost: () => cost };
}

// ── Good inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

async function mbr(folder: string): Promise<Buffer> {
  const file = await sparse(join(folder, "mbr"), 4 * MIB);
  const logical = ["start=6144, size=512", "start=7168, size=512"].map((line) => `${line}, type=83`);
  await partition(file, [
    "label: dos",
    "label-id: 0x5eed5eed",
    "start=2048, size=2048, type=83",
    "start=4096, type=5",
    ...logical,
  ]);
  return readFile(file);
}

async function gpt(folder: string): Promise<Buffer> {
  const file = await sparse(join(folder, "gpt"), 4 * MIB);
  await partition(file, [
    "label: gpt",
    "start=2048, size=2048, type=linux, name=root",
    "start=4096, size=512, type=swap",
  ]);
  return readFile(file);
}

/** The primary header's and its entries' checksums. */
function repairGpt(input: Buffer): void {
  if (input.length < 1024) {
    return;
  }
  const [count, size] = [input.readUInt32LE(512 + 80), input.readUInt32LE(512 + 84)];
  const at = Number(input.readBigUInt64LE(512 + 72)) * 512;
  if (count * size <= 65_536 && at + count * size <= input.length) {
    input.writeUInt32LE(crc32(input.subarray(at, at + count * size)), 512 + 88);
  }
  const length = Math.min(input.readUInt32LE(512 + 12), 512);
  input.writeUInt32LE(0, 512 + 16);
  input.writeUInt32LE(crc32(input.subarray(512, 512 + length)), 512 + 16);
}

/** As much of each as is looked at. */
async function fileSystems(folder: string): Promise<Buffer[]> {
  const file = join(folder, "system");
  const head = async (...command: readonly [string, ...string[]]) => {
    await run(command[0], [...command.slice(1), file]);
    return (await readFile(file)).subarray(0, 256 * 1024);
  };
  const fresh = (bytes: number) => sparse(file, bytes);
  await fresh(16 * MIB);
  const ext = await head("mke2fs", "-q", "-F", "-t", "ext4", "-U", ROOT_UUID);
  await fresh(320 * MIB);
  const xfs = await head("mkfs.xfs", "-q", "-m", `uuid=${ROOT_UUID}`);
  await fresh(128 * MIB);
  const btrfs = await head("mkfs.btrfs", "-q", "-U", ROOT_UUID);
  await fresh(16 * MIB);
  const fat = await head("mkfs.vfat", "-i", "5eed5eed");
  await fresh(16 * MIB);
  const swap = await head("mkswap", "-U", ROOT_UUID);
  await run("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", file, "16M"]);
  return [ext, xfs, btrfs, fat, swap, await readFile(file)];
}

async function archives(): Promise<Buffer[]> {
  const modules = ["block/virtio_blk.ko", "ata/ahci.ko"];
  const bare = await initramfs({ modules });
  const early = await initramfs({ modules, microcode: true });
  return [bare, early, Buffer.concat([bare.subarray(0, 512), gzipSync(bare)]), gzipSync(bare)];
}

const VC_IN = Buffer.from(`<?xml version='1.0'?>
<vc version='0.1'>
  <virtualization engine='kvm' type='hvm' arch='x86_64'/>
  <driver>rocks6_client</driver>
  <frontend><domain type='kvm'><name>x</name><memory unit='KiB'>262144</memory><vcpu>1</vcpu><devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='frontend.raw.gz'/></disk>
    <interface/><interface/></devices></domain></frontend>
  <compute><boot_dependency parent='frontend'><wait type='clock' value='300'/></boot_dependency>
    <domain type='kvm'><devices><disk type='file'><source file='compute.raw'/></disk></devices></domain></compute>
  <networks><network name='private'><ipaddress>10.1.1.1</ipaddress><netmask>255.255.0.0</netmask></network></networks>
  <files><file type="splited_gzip" filename="frontend.raw"><part>x.gz.a</part><part>x.gz.b</part></file></files>
</vc>`);
