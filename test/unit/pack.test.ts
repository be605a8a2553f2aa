import { readFileSync } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { main } from "../../provider/src/cli/vc";
import { memorySite } from "../../provider/src/drivers/memory/site";
import { withExport } from "../../provider/src/images/disk/export";
import { fetchImage } from "../../provider/src/images/repository/fetch";
import { packDisk, partSuffixes } from "../../provider/src/images/repository/pack-disk";
import { findImage, namesIn } from "../../provider/src/images/repository/repository";
import { makeFakeDisk } from "../conformance/fake-guest";
import { failure } from "../failure";
import { FileServer } from "./file-server";
import { ImageFolder, vcIn } from "./image-folder";
import { directLifeCycles, Stack } from "./stack";

const MIB = 1024 * 1024;
const ROOT = join(__dirname, "..", "..");
const KEY_BYTES = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${"k".repeat(32)}`, "latin1");

describe("vc image", () => {
  let images: ImageFolder;
  let frontend: string;
  let compute: string;

  beforeEach(async () => {
    images = await ImageFolder.create();
    frontend = join(images.folder, "frontend.img");
    compute = join(images.folder, "compute.img");
    await makeFakeDisk(frontend, { virtio: true, heedsPowerButton: false });
    await makeFakeDisk(compute, { virtio: true, heedsPowerButton: false, files: { "usr/bin/cloud-init": "" } });
  });

  afterEach(() => images[Symbol.asyncDispose]());

  const vc = async (...args: string[]) => {
    const [out, err]: [string[], string[]] = [[], []];
    const code = await main(["image", ...args], {
      out: (text) => void out.push(text),
      err: (text) => void err.push(text),
    });
    return { code, out: out.join("\n"), err: err.join("\n") };
  };
  const pack = (...args: string[]) => vc("pack", "demo", "--into", images.repository, ...args);
  const packed = (name: string) => readFile(join(images.repository, "demo", name));
  const filesOf = async (image = "demo") => (await readdir(join(images.repository, image))).sort();
  const contents = async () =>
    Promise.all((await filesOf()).map(async (name) => [name, (await packed(name)).toString("base64")]));

  it("packs two disks, which fetching gives back", async () => {
    const { code, out } = await pack("--frontend", frontend, "--compute", compute, "--cpus", "2", "--memory", "1024");
    expect(code).to.equal(0);
    expect(out).to.match(/^demo: 32 MiB of disks packed into 1 MiB in .*\/images\/demo$/);
    expect(await filesOf()).to.deep.equal([
      "demo-compute.raw.gz",
      "demo-frontend.raw.gz",
      "manifest.json",
      "vc-in.xml",
    ]);
    const found = await findImage(images.repository, "demo");
    expect(found.vcIn.frontend).to.deep.include({ nics: 2, shape: { cpus: 1, memory: 512 } });
    expect(found.vcIn.compute).to.deep.include({ nics: 1, shape: { cpus: 2, memory: 1024 } });
    expect(found.frontend.size).to.equal(16 * MIB);
    // Each disk is read in a way of its own, so nothing is said of both.
    expect(found.manifest.reads).to.equal(undefined);
    const local = await fetchImage(found, () => undefined);
    expect((await readFile(frontend)).equals(await readFile(local.frontendDisk))).to.equal(true);
    expect((await readFile(compute)).equals(await readFile(local.computeDisk))).to.equal(true);
    expect((await stat(join(images.repository, "demo"))).mode & 0o777).to.equal(0o755);
  });

  it("packs one disk of both once, also under two names, into files for each that share their bytes", async () => {
    await symlink(frontend, compute.replace("compute", "same"));
    const { out } = await pack("--frontend", frontend, "--compute", compute.replace("compute", "same"));
    expect(out).to.match(/^demo: 16 MiB of disks/);
    const files = ["demo-compute.raw.gz", "demo-frontend.raw.gz"];
    expect(await filesOf()).to.deep.equal([...files, "manifest.json", "vc-in.xml"]);
    const [one, other] = await Promise.all(files.map((name) => stat(join(images.repository, "demo", name))));
    expect(one?.ino).to.equal(other?.ino);
    const found = await findImage(images.repository, "demo");
    const { frontendDisk, computeDisk } = await fetchImage(found, () => undefined);
    expect(computeDisk).to.equal(frontendDisk);
    expect(await images.kept()).to.have.length(1);
    expect(found.manifest).to.deep.include({ reads: "vc-out.xml", vcOutDialect: "B" });
  });

  it("gives the same bytes for the same disk, whatever its holes", async () => {
    await pack("--frontend", frontend);
    const before = await contents();
    const full = join(images.folder, "full.img");
    await execa("cp", ["--sparse=never", frontend, full]);
    expect((await stat(full)).blocks).to.be.above((await stat(frontend)).blocks);
    expect((await pack("--frontend", full, "--replace")).code).to.equal(0);
    await rename(join(images.repository, "demo-2"), join(images.repository, "demo"));
    expect(await contents()).to.deep.equal(before);
  });

  it("doesn't read holes", async () => {
    const huge = join(images.folder, "huge.img");
    await copyFile(frontend, huge);
    await truncate(huge, 1024 * MIB);
    const read = () => Number(/^rchar: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))?.[1]);
    const before = read();
    const { content, disk } = await packDisk(
      huge,
      { name: "d.raw", into: images.folder, split: undefined },
      () => undefined,
    );
    expect(read() - before).to.be.below(64 * MIB);
    expect(content.size).to.equal(1024 * MIB);
    expect((await stat(join(images.folder, disk.parts[0] ?? ""))).size).to.be.below(4 * MIB);
  });

  it("splits what is to be split, in parts that old tools put together with cat and gunzip", async () => {
    await pack("--frontend", frontend, "--split", "4K");
    const parts = (await filesOf()).filter((name) => name.startsWith("demo-frontend.raw.gz."));
    expect(parts.length).to.be.above(2);
    const text = (await packed("vc-in.xml")).toString();
    const listed = [...text.matchAll(/<part>(.*?)<\/part>/g)].map(([, name]) => name);
    // Once for tools that look into the node part, once for those that look into <files>.
    expect(listed.filter((name) => name?.includes("frontend"))).to.deep.equal([...parts, ...parts]);
    const raw = join(images.folder, "by-hand.raw");
    await execa("sh", ["-c", `cat "$@" | gunzip -f >'${raw}'`, "sh", ...parts], {
      cwd: join(images.repository, "demo"),
    });
    expect((await readFile(frontend)).equals(await readFile(raw))).to.equal(true);
    const sizes = await Promise.all(parts.map(async (name) => (await packed(name)).length));
    expect(sizes.slice(0, -1).every((size) => size === 4096)).to.equal(true);
    const { frontendDisk } = await fetchImage(await findImage(images.repository, "demo"), () => undefined);
    expect((await readFile(frontend)).equals(await readFile(frontendDisk))).to.equal(true);
  });

  it("gives more parts than there are letters names that sort", () => {
    expect(partSuffixes(1)).to.deep.equal(["a"]);
    expect(partSuffixes(26).at(-1)).to.equal("z");
    for (const count of [27, 676, 677, 1000]) {
      const names = partSuffixes(count);
      expect(new Set(names)).to.have.property("size", count);
      expect([...names].sort()).to.deep.equal(names);
    }
    expect(partSuffixes(27).slice(-2)).to.deep.equal(["az", "ba"]);
  });

  it("leaves the repository as it was when it is interrupted, or when a disk can't be packed", async () => {
    await pack("--frontend", frontend);
    const all = async () => (await readdir(images.repository, { recursive: true })).sort();
    const before = await all();
    const list = await readFile(join(images.repository, "vcdb.txt"), "utf8");
    const huge = join(images.folder, "huge.img");
    await execa("cp", [frontend, huge]);
    await truncate(huge, 64 * 1024 * MIB);
    const child = execa(
      process.execPath,
      [join(ROOT, "provider", "vc.mjs"), "image", "pack", "more", "--frontend", huge, "--into", images.repository],
      { reject: false, stdin: "ignore" },
    );
    while (!(await all()).some((name) => /^\.pack-.*part$/.test(name))) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    child.kill("SIGTERM");
    expect((await child).signal).to.equal("SIGTERM");
    expect(await all()).to.deep.equal(before);
    expect((await vc("pack", "other", "--frontend", "/dev/null", "--into", images.repository)).code).to.equal(1);
    expect(await all()).to.deep.equal(before);
    expect(await readFile(join(images.repository, "vcdb.txt"), "utf8")).to.equal(list);
    // One that was killed outright is cleared away by the next.
    await mkdir(join(images.repository, ".pack-abcdef"));
    expect((await vc("pack", "other", "--frontend", compute, "--into", images.repository)).code).to.equal(0);
    expect((await readdir(images.repository)).sort()).to.deep.equal(["demo", "other", "vcdb.txt"]);
    expect([...(await namesIn(images.repository)).keys()]).to.deep.equal(["demo", "other"]);
  });

  it("replaces an image when it is told to, and nothing that it hasn't packed", async () => {
    await writeFile(join(images.repository, "vcdb.txt"), "# ours\nother,shared/vc-in.xml\ndemo,shared/demo.xml\n");
    await mkdir(join(images.repository, "shared"));
    await mkdir(join(images.repository, "demo"));
    const refused = await pack("--frontend", frontend);
    expect(refused.code).to.equal(1);
    expect(refused.err).to.match(/^vc: image demo: is in the repository .* already\. Take another name, or replace it/);
    expect((await pack("--frontend", frontend, "--replace")).code).to.equal(0);
    expect(await readFile(join(images.repository, "vcdb.txt"), "utf8")).to.equal(
      "# ours\nother,shared/vc-in.xml\ndemo,demo-2/vc-in.xml\n",
    );
    expect(await filesOf()).to.deep.equal([]);
    expect((await pack("--frontend", compute, "--replace")).code).to.equal(0);
    expect((await readdir(images.repository)).sort()).to.deep.equal(["demo", "demo-3", "shared", "vcdb.txt"]);
    expect((await findImage(images.repository, "demo")).manifest.reads).to.equal("cloud-init");
  });

  it("lists and shows what is in a repository", async () => {
    await pack("--frontend", frontend, "--compute", compute, "--split", "4K");
    expect(await vc("list", images.repository)).to.deep.include({ code: 0, out: "NAME  PATH\ndemo  demo/vc-in.xml" });
    expect(JSON.parse((await vc("list", images.repository, "--json")).out).images).to.deep.equal([
      { name: "demo", path: "demo/vc-in.xml" },
    ]);
    const { out } = await vc("show", "demo", "--repository", images.repository);
    expect(out).to.match(/^Image demo\nReads: what its disks show\nMade for: private network 10\.1\.1\.1, netmask/);
    expect(out).to.match(
      /^frontend {2}1 {5}512 MiB {2}2 {5}demo-frontend\.raw {2}16 MiB {2}1 MiB {3}gzip, \d+ parts {2}[0-9a-f]{64}$/m,
    );
    const shown = JSON.parse((await vc("show", "demo", "--repository", images.repository, "--json")).out);
    expect(shown.compute).to.deep.include({ nics: 1, cpus: 1, memory: 512 });
    expect(shown.compute.disk.parts[0]).to.deep.include({ name: "demo-compute.raw.gz.a", size: 4096 });
    await images.put(vcIn({ disk: "x.gz" }), { "x.gz": "?" });
    expect((await vc("show", "demo", "--repository", images.repository)).out).to.match(
      /x\.gz {2}- {5}1 MiB {3}gzip {2}-$/m,
    );
    expect((await vc("show", "dem", "--repository", images.repository)).err).to.match(/Did you mean demo\?/);
  });

  it("packs two at a time into one repository, one after the other", async () => {
    const all = await Promise.all(
      ["one", "two", "three"].map((name) => vc("pack", name, "--frontend", frontend, "--into", images.repository)),
    );
    expect(all.map(({ code }) => code)).to.deep.equal([0, 0, 0]);
    expect(all.map(({ err }) => err).join()).to.match(/waiting for another process, which is writing into/);
    expect([...(await namesIn(images.repository)).keys()].sort()).to.deep.equal(["one", "three", "two"]);
    expect((await readdir(images.repository)).sort()).to.deep.equal(["one", "three", "two", "vcdb.txt"]);
  });

  it("refuses a disk that a machine is writing into", async () => {
    await withExport({ file: frontend }, { offset: 0 }, async () => {
      for (const how of [
        ["pack", "demo", "--frontend", frontend],
        ["build", "demo", "--from", frontend],
      ]) {
        const { code, err } = await vc(...how, "--into", images.repository);
        expect(code).to.equal(1);
        expect(err).to.match(/disk \/.*: is in use: a machine that runs writes into it\. Shut the machine down/);
      }
    });
    expect((await pack("--frontend", frontend)).code).to.equal(0);
  });

  it("says what a repository is that can't be written", async () => {
    const file = join(images.folder, "file");
    await writeFile(file, "");
    for (const into of [file, join(file, "deeper")]) {
      const { code, err } = await vc("pack", "demo", "--frontend", frontend, "--into", into);
      expect(code).to.equal(1);
      expect(err).to.match(/^vc: the repository .*: it can't be written \((EEXIST|ENOTDIR)\)\. Name a folder/);
    }
    expect((await vc("build", "../x", "--packages", "bc", "--into", images.repository)).err).to.match(
      /^vc: image "\.\.\/x": can't be called that/,
    );
  });

  it("refuses names, sizes and disks that can't be", async () => {
    for (const name of ["a,b", "../x", "", ".x", "a b", "x".repeat(65)]) {
      expect((await vc("pack", name, "--frontend", frontend, "--into", images.repository)).code, name).to.equal(1);
    }
    expect((await pack("--frontend", frontend, "--split", "1")).code).to.equal(2);
    expect((await pack("--frontend", frontend, "--cpus", "0")).code).to.equal(2);
    expect((await pack()).code).to.equal(2);
    expect((await pack("--frontend", "")).code).to.equal(2);
    expect((await vc("pack", "demo", "--frontend", frontend, "--into", "")).code).to.equal(2);
    expect((await pack("--frontend", "/nonexistent")).err).to.match(
      /^vc: disk \/nonexistent: can't be read \(ENOENT\)\./,
    );
    await writeFile(join(images.folder, "q"), Buffer.concat([Buffer.from("QFI\xfb", "latin1"), Buffer.alloc(MIB)]));
    expect((await pack("--frontend", join(images.folder, "q"))).err).to.match(/is qcow2, not RAW/);
    expect(await readdir(images.repository)).to.deep.equal([]);
  });

  it("gives a cluster an image over http, packed in parts, and fetches it once for two of them", async () => {
    await pack("--frontend", frontend, "--compute", compute, "--split", "4K");
    await using server = await FileServer.of(images.repository);
    const log = console.log;
    // The provider prints its progress.
    console.log = () => undefined;
    try {
      const site = memorySite("packed");
      site.siteId = "packed";
      const config = {
        "virtual-cluster:site": JSON.stringify({ driver: "memory", name: "packed" }),
        "virtual-cluster:owner": "tester@example",
      };
      const stack = new Stack(directLifeCycles(config));
      const args = {
        image: "demo",
        repository: server.url,
        numCpus: 2,
        publicKey: `ssh-ed25519 ${KEY_BYTES.toString("base64")} tester`,
      };
      await stack.preview(args);
      expect(server.got.filter((path) => path.includes(".raw"))).to.deep.equal([]);
      expect(await images.kept()).to.deep.equal([]);
      await stack.up(args);
      const disks = server.got.filter((path) => path.includes(".raw"));
      expect(disks.length).to.be.above(4);
      expect(new Set(disks).size).to.equal(disks.length);
      expect(stack.cluster.imageRecord.compute.reads).to.equal("cloud-init");
      expect(site.machines.size).to.equal(3);
      const asked = server.asked.length;
      expect(await stack.up(args)).to.deep.equal([]);
      expect(server.asked).to.have.length(asked);
      const other = new Stack(directLifeCycles(config), { stack: "other" });
      await other.up(args);
      expect(server.got.filter((path) => path.includes(".raw"))).to.deep.equal(disks);
      expect(site.machines.size).to.equal(6);
      await other.destroy();
      await stack.destroy();
      // Only unpacking tells how large a disk without a manifest is.
      await rm(join(images.repository, "demo", "manifest.json"));
      const third = new Stack(directLifeCycles(config), { stack: "third" });
      const small = { ...args, repository: images.repository, frontend: { diskSize: 15 } };
      await third.preview(small);
      expect((await failure(third.up(small))).message).to.match(
        /^frontend\.diskSize 15: image demo has a disk of 16 MiB\./,
      );
      expect([...site.networks.keys(), ...site.machines.keys()]).to.deep.equal([]);
    } finally {
      console.log = log;
    }
  });
});
