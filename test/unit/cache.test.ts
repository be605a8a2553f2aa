import { readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect } from "chai";
import { execa } from "execa";
import { main } from "../../provider/src/cli/vc";
import { home } from "../../provider/src/home";
import { type CacheEntry, cachedFile, cacheEntries, pruneCache } from "../../provider/src/images/repository/cache";
import { eventually } from "../eventually";
import { failure } from "../failure";
import { FileServer } from "./file-server";
import { ImageFolder, vcIn } from "./image-folder";

const ROOT = join(__dirname, "..", "..");
const MIB = 1024 * 1024;
const DAY = 24 * 3600 * 1000;

describe("the cache", () => {
  let images: ImageFolder;

  beforeEach(async () => {
    images = await ImageFolder.create();
  });

  afterEach(() => images[Symbol.asyncDispose]());

  /** Another process of this user's. */
  const run = (code: string) =>
    execa(process.execPath, ["--require", join(ROOT, "test", "register.cjs"), "--eval", code], {
      cwd: ROOT,
      env: { SOURCE: join(ROOT, "provider", "src") },
      all: true,
      stdin: "pipe",
      reject: false,
    });
  /** Settles when a process has said these words. */
  const saysOf = (process: ReturnType<typeof run>, words: string) =>
    new Promise<void>((resolve) => {
      let said = "";
      process.all.on("data", (chunk: Buffer) => {
        said += chunk.toString();
        if (said.includes(words)) {
          resolve();
        }
      });
    });
  const USE = 'require(process.env.SOURCE + "/images/repository/cache.ts")';
  const makes = (key: string, content: string) => (file: string) => writeFile(file, `${key} ${content}`);
  /** As if the last use had been so many days ago. */
  const age = async (days: number) => {
    for (const { file } of await cacheEntries()) {
      const then = new Date(Date.now() - days * DAY);
      await utimes(`${file.replace(/\.new$/, "")}.json`, then, then).catch(() => undefined);
      await utimes(file, then, then);
    }
  };

  it("makes the file of a key once, which can't be written then", async () => {
    let made = 0;
    const make = async (file: string) => {
      made += 1;
      await writeFile(file, "content");
    };
    const [one, other] = await Promise.all([cachedFile("a", make, "a thing"), cachedFile("a", make, "a thing")]);
    expect([other, made]).to.deep.equal([one, 1]);
    expect(await readFile(one, "utf8")).to.equal("content");
    expect((await stat(one)).mode & 0o777).to.equal(0o444);
    expect(await cachedFile("b", make, "another")).not.to.equal(one);
  });

  it("keeps nothing of what failed, and makes it the next time", async () => {
    const fails = async (file: string) => {
      await writeFile(file, "half");
      throw new Error("it broke");
    };
    expect((await failure(cachedFile("a", fails, "a thing"))).message).to.equal("it broke");
    expect(await images.kept()).to.deep.equal([]);
    expect(await readFile(await cachedFile("a", makes("a", "whole"), "a thing"), "utf8")).to.equal("a whole");
  });

  it("lets one of two processes make it while the other waits and says so", async () => {
    const goOn = join(images.repository, "go-on");
    const slow = `${USE}.cachedFile("k", async (file) => {
      console.log("making");
      const { existsSync, writeFileSync } = require("node:fs");
      while (!existsSync(${JSON.stringify(goOn)})) await new Promise((resolve) => setTimeout(resolve, 20));
      writeFileSync(file, "made by " + process.pid);
    }, "a disk", console.log).then((file) => console.log(require("node:fs").readFileSync(file, "utf8")));`;
    const [one, other] = [run(slow), run(slow)];
    await Promise.race([saysOf(one, "waiting for"), saysOf(other, "waiting for")]);
    await writeFile(goOn, "");
    const [first, second] = [(await one).all.split("\n"), (await other).all.split("\n")];
    const [maker, waiter] = first[0] === "making" ? [first, second] : [second, first];
    expect(maker[0]).to.equal("making");
    expect(waiter[0]).to.match(/^waiting for .*(process \d+ of|another process).*, which is at work on a disk$/);
    expect([...maker, ...waiter].filter((line) => line === "making")).to.have.length(1);
    expect(maker.at(-1)).to.match(/^made by \d+$/);
    expect(waiter.at(-1)).to.equal(maker.at(-1));
  });

  it("takes over what a killed process was making", async () => {
    const dying = run(`${USE}.cachedFile("k", async (file) => {
      require("node:fs").writeFileSync(file, "half");
      process.kill(process.pid, "SIGKILL");
      await new Promise(() => undefined);
    }, "a disk");`);
    expect((await dying).signal).to.equal("SIGKILL");
    const [left] = await cacheEntries();
    expect(left).to.include({ about: "left by a process that was cut off", isWhole: false });
    expect(await readFile(await cachedFile("k", makes("k", "whole"), "a disk"), "utf8")).to.equal("k whole");
    expect(await images.kept()).to.have.length(1);
  });

  it("prunes what nobody has used for a while, and says what it would prune", async () => {
    // In another process: this one uses what it has made until it ends.
    const keys = ["old", "young"];
    await run(`for (const key of ${JSON.stringify(keys)}) ${USE}.cachedFile(key, (file) =>
      require("node:fs/promises").writeFile(file, Buffer.alloc(${MIB}, 1)), "the " + key + " one");`);
    await age(40);
    await run(`${USE}.cachedFile("young", () => undefined, "the young one");`);
    const entries = await cacheEntries();
    expect(entries.map(({ about }) => about)).to.deep.equal(["the young one", "the old one"]);
    expect(entries.map(({ bytes }) => bytes)).to.deep.equal([MIB, MIB]);
    const since = new Date(Date.now() - 30 * DAY);
    const names = (found: readonly CacheEntry[]) => found.map(({ about }) => about);
    expect(names(await pruneCache(since, true))).to.deep.equal(["the old one"]);
    expect(await cacheEntries()).to.have.length(2);
    expect(names(await pruneCache(since, false))).to.deep.equal(["the old one"]);
    expect(names(await cacheEntries())).to.deep.equal(["the young one"]);
    expect(names(await pruneCache(new Date(), false))).to.deep.equal(["the young one"]);
    expect(await images.kept()).to.deep.equal([]);
  });

  it("prunes nothing that a running process uses, however old", async () => {
    const user = run(`${USE}.cachedFile("k", (file) => require("node:fs/promises").writeFile(file, "x"), "a disk")
      .then(() => console.log("used")); process.stdin.resume();`);
    await new Promise((resolve) => user.stdout?.once("data", resolve));
    await age(400);
    expect(await pruneCache(new Date(), false)).to.deep.equal([]);
    expect(await cacheEntries()).to.have.length(1);
    user.stdin?.end();
    await user;
    // What held it for that process ends just after it.
    await eventually(async () => expect(await pruneCache(new Date(), false)).to.have.length(1));
  });

  it("prunes what a broken download has left", async () => {
    await images.put(vcIn({ disk: "d.gz" }), { "d.gz": gzipSync("x".repeat(1000)) });
    await using server = await FileServer.of(images.repository);
    server.odd = (request, response) => {
      if (request.url !== "/demo/d.gz" || request.method === "HEAD") {
        return false;
      }
      response.writeHead(200, { "content-length": 100_000, etag: '"x"' }).write(Buffer.alloc(50_000, 1));
      setTimeout(() => response.destroy(), 20);
      return true;
    };
    const { all } = await run(`const { findImage } = require(process.env.SOURCE + "/images/repository/repository.ts");
      const { fetchImage } = require(process.env.SOURCE + "/images/repository/fetch.ts");
      const limits = { answer: 500, text: 500, window: 500, pause: 1 };
      findImage(${JSON.stringify(server.url)}, "demo", limits).then((found) => fetchImage(found, () => undefined, limits))
        .catch((error) => console.log(error.message));`);
    expect(all).to.match(/^image demo: /);
    const [left] = await cacheEntries();
    expect(left?.about).to.match(/^image demo: d\.gz from http:/);
    expect(left).to.include({ isWhole: false });
    expect(left?.bytes).to.be.above(40_000);
    expect(await pruneCache(new Date(), false)).to.have.length(1);
    expect(await images.kept()).to.deep.equal([]);
  });

  it("is listed and pruned by vc", async () => {
    const vc = async (...args: string[]) => {
      const out: string[] = [];
      const code = await main(["cache", ...args], {
        out: (text) => void out.push(text),
        err: (text) => void out.push(text),
      });
      return { code, out: out.join("\n") };
    };
    expect(await vc("list")).to.deep.equal({ code: 0, out: "Nothing is kept." });
    expect(await vc("prune")).to.deep.equal({ code: 0, out: "There is nothing to remove." });
    await run(
      `${USE}.cachedFile("k", (file) => require("node:fs/promises").writeFile(file, "x".repeat(${MIB})), "a\\u001b[1m disk");`,
    );
    expect((await vc("list")).out).to.match(
      /^SIZE {3}LAST USE {11}WHAT\n1 MiB {2}\d{4}-\d\d-\d\dT\d\d:\d\dZ {2}a\[1m disk\n\n1 file, 1 MiB$/,
    );
    const [entry] = JSON.parse((await vc("list", "--json")).out);
    expect(entry).to.include({ about: "a\u001b[1m disk", bytes: MIB, isWhole: true });
    expect(entry.file.startsWith(home("cache", "images"))).to.equal(true);
    expect((await vc("prune")).out).to.equal("There is nothing to remove.");
    expect((await vc("prune", "--all", "--dry-run")).out).to.match(/\n\nIt would remove 1 file, 1 MiB$/);
    expect((await vc("prune", "--older-than", "x")).code).to.equal(2);
    expect((await vc("prune", "--all")).out).to.match(/\n\nRemoved 1 file, 1 MiB$/);
    expect((await vc("list")).out).to.equal("Nothing is kept.");
  });
});
