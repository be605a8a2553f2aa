import { createHash } from "node:crypto";
import { link, mkdir, readFile, rm, stat, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect } from "chai";
import { execa } from "execa";
import { InvalidImage, NotFound, type VirtualClusterError } from "../../provider/src/drivers/errors";
import { prepareImage } from "../../provider/src/images/prepare";
import { fetchImage } from "../../provider/src/images/repository/fetch";
import { findImage } from "../../provider/src/images/repository/repository";
import { unpack } from "../../provider/src/images/repository/unpack";
import { failure } from "../failure";
import { file, ImageFolder, vcIn } from "./image-folder";

const VC = join(__dirname, "..", "..", "provider", "vc.mjs");
const MIB = 1024 * 1024;
const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
const told = (bytes: Buffer) => ({ size: bytes.length, sha256: sha256(bytes) });
const quiet = () => undefined;

/** Noise, holes, and noise that ends inside a block. */
const DISK = Buffer.concat([noise(300_000, 1), Buffer.alloc(8 * MIB), noise(70_001, 2), Buffer.alloc(3 * MIB)]);
const PACKED = gzipSync(DISK);

describe("fetching an image from a folder", () => {
  let images: ImageFolder;

  beforeEach(async () => {
    images = await ImageFolder.create();
  });

  afterEach(() => images[Symbol.asyncDispose]());

  const fetchDemo = async () => fetchImage(await findImage(images.repository, "demo"), quiet);
  const manifest = (disks: Record<string, unknown>, files: Record<string, unknown> = {}) =>
    JSON.stringify({ formatVersion: 1, disks, files });

  const half = PACKED.length >> 1;
  const gzipParts = { "d.gz.a": PACKED.subarray(0, half), "d.gz.b": PACKED.subarray(half) };
  const rawParts = { "d.a": DISK.subarray(0, 4_000_001), "d.b": DISK.subarray(4_000_001) };
  const splitGzip = { disk: "d.raw", beside: file("splited_gzip", "d.raw", "d.gz.a", "d.gz.b") };
  const forms: Record<string, readonly [string, Record<string, Buffer>]> = {
    "named .gz": [vcIn({ disk: "d.raw.gz" }), { "d.raw.gz": PACKED }],
    gzip: [vcIn({ disk: "d.raw", beside: file("gzip", "d.raw", "d.raw.gz") }), { "d.raw.gz": PACKED }],
    splited: [vcIn({ disk: "d.raw", beside: file("splited", "d.raw", "d.a", "d.b") }), rawParts],
    splited_gzip: [vcIn(splitGzip), gzipParts],
    "gzip of several members": [
      vcIn({ disk: "d.raw.gz" }),
      { "d.raw.gz": Buffer.concat([gzipSync(DISK.subarray(0, MIB)), gzipSync(DISK.subarray(MIB))]) },
    ],
  };
  for (const [form, [text, files]] of Object.entries(forms)) {
    it(`unpacks a disk that is ${form}, once, with holes for its zeros`, async () => {
      await images.put(text, files);
      const { frontendDisk, computeDisk } = await fetchDemo();
      expect(computeDisk).to.equal(frontendDisk);
      expect(DISK.equals(await readFile(frontendDisk))).to.equal(true);
      const { blocks, mode, mtimeMs } = await stat(frontendDisk);
      expect(blocks * 512).to.be.below(MIB);
      expect(mode & 0o777).to.equal(0o444);
      expect((await fetchDemo()).frontendDisk).to.equal(frontendDisk);
      expect((await stat(frontendDisk)).mtimeMs).to.equal(mtimeMs);
      expect(await images.kept()).to.have.length(1);
    });
  }

  it("calls a disk that can't be run by its name in the image, not in the cache", async () => {
    await images.put(vcIn({ disk: "d.raw.gz" }), { "d.raw.gz": PACKED });
    expect((await failure(prepareImage(await fetchDemo(), quiet))).message).to.match(
      /^image demo: its frontend's disk d\.raw\.gz from \/.*\/demo\/d\.raw\.gz: has no partition table/,
    );
  });

  it("leaves a RAW disk where it is", async () => {
    await images.put(vcIn({ disk: "d.raw" }), { "d.raw": DISK });
    expect((await fetchDemo()).frontendDisk).to.equal(join(images.repository, "demo", "d.raw"));
    expect(await images.kept()).to.deep.equal([]);
  });

  it("takes two names of one RAW file for one disk", async () => {
    await images.put(vcIn({ disk: "d.raw" }, { disk: "e.raw" }), { "d.raw": DISK });
    const [d, e] = ["d.raw", "e.raw"].map((name) => join(images.repository, "demo", name)) as [string, string];
    for (const same of [link, symlink]) {
      await same(d, e);
      expect(await fetchDemo()).to.include({ frontendDisk: d, computeDisk: d });
      await rm(e);
    }
    await writeFile(e, DISK);
    expect(await fetchDemo()).to.include({ frontendDisk: d, computeDisk: e });
  });

  it("has one file of two disks with the same content, and two of two", async () => {
    await images.put(vcIn({ disk: "one.gz" }, { disk: "two.gz" }), {
      "one.gz": PACKED,
      "two.gz": gzipSync(DISK, { level: 1 }),
    });
    const { frontendDisk, computeDisk } = await fetchDemo();
    expect(computeDisk).to.equal(frontendDisk);
    await writeFile(join(images.repository, "demo", "two.gz"), gzipSync(DISK.subarray(1)));
    const other = await fetchDemo();
    expect(other.frontendDisk).to.equal(frontendDisk);
    expect(other.computeDisk).not.to.equal(frontendDisk);
    expect((await stat(other.computeDisk)).size).to.equal(DISK.length - 1);
  });

  it("unpacks anew what has changed, and takes by its digest what has only moved", async () => {
    await images.put(vcIn(splitGzip), gzipParts);
    const { frontendDisk } = await fetchDemo();
    await images.put(vcIn({ disk: "other.gz" }), {
      "other.gz": PACKED,
      "manifest.json": manifest({ "other.gz": told(DISK) }),
    });
    await writeFile(join(images.repository, "demo", "other.gz"), "not read any more");
    expect((await fetchDemo()).frontendDisk).to.equal(frontendDisk);
    await images.put(vcIn({ disk: "other.gz" }), { "manifest.json": "{}" });
    expect((await failure(fetchDemo())).message).to.match(/other\.gz isn't whole: its file is no gzip stream/);
  });

  it("knows sizes and digests before, where a manifest tells", async () => {
    await images.put(vcIn(splitGzip), {
      ...gzipParts,
      "manifest.json": manifest(
        { "d.raw": told(DISK) },
        { "d.gz.a": told(gzipParts["d.gz.a"]), "d.gz.b": told(gzipParts["d.gz.b"]) },
      ),
    });
    const { frontend } = await findImage(images.repository, "demo");
    expect(frontend).to.include({ size: DISK.length, digest: sha256(DISK) });
    expect(DISK.equals(await readFile((await fetchDemo()).frontendDisk))).to.equal(true);
    await images.put(vcIn({ disk: "d.gz" }), { "d.gz": PACKED, "manifest.json": "{}" });
    expect((await findImage(images.repository, "demo")).frontend.size).to.equal(undefined);
  });

  const a = gzipParts["d.gz.a"];
  const b = gzipParts["d.gz.b"];
  const flipped = Buffer.from(b);
  flipped[1000] = (flipped[1000] ?? 0) ^ 1;
  const single = vcIn({ disk: "d.gz" });
  const bomb = gzipSync(Buffer.alloc(64 * MIB));
  const broken: Record<string, readonly [string, Record<string, Buffer | string>, RegExp]> = {
    "that is cut off": [single, { "d.gz": a }, /isn't whole: its file is no gzip stream \(unexpected end/],
    "that is damaged": [single, { "d.gz": Buffer.concat([a, flipped]) }, /isn't whole: its file is no gzip stream/],
    "that is empty": [single, { "d.gz": "" }, /isn't whole/],
    "with something after its end": [single, { "d.gz": Buffer.concat([PACKED, Buffer.from("more")]) }, /isn't whole/],
    "with zeros after its end": [
      single,
      { "d.gz": Buffer.concat([PACKED, Buffer.alloc(9)]) },
      /something follows after its end/,
    ],
    "with much after its end": [
      single,
      { "d.gz": Buffer.concat([PACKED, Buffer.alloc(5 * MIB)]) },
      /something follows after its end/,
    ],
    "whose parts are in the wrong order": [
      vcIn({ disk: "d.raw", beside: file("splited_gzip", "d.raw", "d.gz.b", "d.gz.a") }),
      gzipParts,
      /isn't whole: its parts together are no gzip stream/,
    ],
    "whose raw parts are in the wrong order": [
      vcIn({ disk: "d.raw", beside: file("splited", "d.raw", "d.b", "d.a") }),
      { ...rawParts, "manifest.json": manifest({ "d.raw": told(DISK) }) },
      /d\.raw isn't what its manifest says: its SHA-256 is [0-9a-f]{64}/,
    ],
    "whose part isn't what its manifest says": [
      vcIn({ disk: "d.raw", beside: file("splited", "d.raw", "d.a", "d.b") }),
      { ...rawParts, "manifest.json": manifest({}, { "d.b": { ...told(rawParts["d.b"]), sha256: sha256(DISK) } }) },
      /d\.b isn't what its manifest says/,
    ],
    "whose RAW disk isn't what its manifest says": [
      vcIn({ disk: "d.raw" }),
      { "d.raw": DISK, "manifest.json": manifest({ "d.raw": { size: DISK.length, sha256: sha256(PACKED) } }) },
      /d\.raw isn't what its manifest says/,
    ],
    "that unpacks to more than its manifest says": [
      single,
      { "d.gz": bomb, "manifest.json": manifest({ "d.gz": { size: MIB, sha256: sha256(DISK) } }) },
      /d\.gz has more than the 1048576 bytes of its manifest/,
    ],
    "that unpacks to less than its manifest says": [
      single,
      { "d.gz": PACKED, "manifest.json": manifest({ "d.gz": { size: 64 * MIB, sha256: sha256(DISK) } }) },
      /d\.gz has \d+ bytes, and 67108864 in its manifest/,
    ],
  };
  for (const [what, [text, files, message]] of Object.entries(broken)) {
    it(`refuses a disk ${what}, and keeps nothing of it`, async () => {
      await images.put(text, files);
      const error = await failure<VirtualClusterError>(fetchDemo());
      expect(error).to.be.instanceOf(InvalidImage);
      expect(error.message)
        .to.match(message)
        .and.match(/^image demo: [^\n]*$/);
      expect(error.hint).not.to.equal("");
      expect(await images.kept()).to.deep.equal([]);
    });
  }

  it("stops at a limit where no manifest says how large a disk is", async () => {
    const packed = join(images.folder, "bomb.gz");
    await writeFile(packed, bomb);
    const disk = { what: "image demo", name: "d", isGzip: true, parts: [{ name: "bomb.gz", file: packed }] };
    const into = join(images.folder, "disk");
    const error = await failure<VirtualClusterError>(unpack(disk, into, quiet, 16 * MIB));
    expect(error.message).to.match(/d unpacks to more than 16 MiB/);
    expect(await stat(into).catch(() => "gone")).to.equal("gone");
  });

  it("refuses in the preview what its manifest contradicts, and what is missing", async () => {
    const longer = { ...told(b), size: b.length + 1 };
    await images.put(vcIn(splitGzip), { ...gzipParts, "manifest.json": manifest({}, { "d.gz.b": longer }) });
    expect((await failure(findImage(images.repository, "demo"))).message).to.match(
      /its file d\.gz\.b has \d+ bytes, and \d+ in its manifest/,
    );
    await rm(join(images.repository, "demo", "d.gz.b"));
    const error = await failure(findImage(images.repository, "demo"));
    expect(error).to.be.instanceOf(NotFound);
    expect(error.message).to.include("d.gz.b");
  });

  it("stops before the disk is full", async function () {
    const place = join(images.folder, "small");
    await mkdir(place);
    await images.put(vcIn({ disk: "d.raw.gz" }), { "d.raw.gz": PACKED });
    const script = `mount -t tmpfs -o size="$1" tmpfs '${place}' && "$2" "$3" image check "$4"; code=$?; find '${place}'; exit $code`;
    const within = (size: string) =>
      execa(
        "unshare",
        [
          "--map-root-user",
          "--mount",
          "sh",
          "-c",
          script,
          "sh",
          size,
          process.execPath,
          VC,
          `${images.repository}/demo`,
        ],
        { reject: false, env: { VIRTUAL_CLUSTER_HOME: place } },
      );
    const small = await within("300M");
    if (/unshare failed|unshare: /.test(small.stderr)) {
      this.skip();
    }
    expect(small.stderr).to.match(
      /^vc: the disk of .*\/small\/cache\/images\/[0-9a-f]{64}: only (29\d|300) MiB are free\. Make room/,
    );
    expect(small.stdout).not.to.match(/\/disk$/m);
    expect((await within("400M")).stdout).to.match(/^frontend and compute: d\.raw\.gz from/m);
  });

  it("refuses parts that lead out of the repository", async () => {
    await writeFile(join(images.folder, "secret"), "secret");
    await images.put(vcIn(), {});
    await symlink(join(images.folder, "secret"), join(images.repository, "demo", "link"));
    for (const part of ["../../secret", "link", join(images.folder, "secret"), "a\tb"]) {
      await images.put(vcIn({ disk: "d.raw", beside: file("gzip", "d.raw", part) }), {});
      expect(await failure(findImage(images.repository, "demo")), part).to.be.instanceOf(InvalidImage);
    }
  });

  it("reads no list, description or manifest of 100 MB", async () => {
    await images.put(vcIn({ disk: "d.gz" }), { "d.gz": PACKED });
    for (const name of ["demo/manifest.json", "demo/vc-in.xml", "vcdb.txt"]) {
      const path = join(images.repository, name);
      const before = await readFile(path).catch(() => undefined);
      await writeFile(path, "");
      await truncate(path, 100e6);
      expect((await failure(findImage(images.repository, "demo"))).message, name).to.match(/has 100000000 bytes/);
      await (before ? writeFile(path, before) : rm(path));
    }
  });

  it("reads odd lines of a vcdb.txt as none", async () => {
    await images.put(vcIn({ disk: "d.gz" }), { "d.gz": PACKED });
    await writeFile(
      join(images.repository, "vcdb.txt"),
      "\ufffd\0\0\n,,\n,x\ndemo\na,b,c\nde\u001b[2Jmo,x\n#demo,no/vc-in.xml\ndemo,demo/vc-in.xml\r\n",
    );
    expect((await findImage(images.repository, "demo")).frontend.name).to.equal("d.gz");
    expect((await failure(findImage(images.repository, "x"))).message).to.match(/Known there: demo\.$/);
    await writeFile(join(images.repository, "vcdb.txt"), "demo,demo/vc\u0007-in.xml\n");
    expect(await failure(findImage(images.repository, "demo"))).to.be.instanceOf(InvalidImage);
  });

  it("takes another file at the same place for another", async () => {
    await images.put(vcIn({ disk: "d.gz" }), { "d.gz": PACKED });
    const { frontendDisk } = await fetchDemo();
    const path = join(images.repository, "demo", "d.gz");
    await utimes(path, new Date(), new Date(Date.now() + 5000));
    expect((await fetchDemo()).frontendDisk).to.equal(frontendDisk);
    expect(await images.kept()).to.have.length(1);
  });
});

/** The same each time, and nothing that could be compressed. */
function noise(length: number, seed: number): Buffer {
  const blocks = Array.from({ length: Math.ceil(length / 32) }, (_, index) =>
    createHash("sha256").update(`${seed} ${index}`).digest(),
  );
  return Buffer.concat(blocks).subarray(0, length);
}
