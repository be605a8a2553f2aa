import { createHash } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { expect } from "chai";
import { execa } from "execa";
import {
  Denied,
  InvalidImage,
  NotFound,
  Unreachable,
  type VirtualClusterError,
} from "../../provider/src/drivers/errors";
import { fetchImage } from "../../provider/src/images/repository/fetch";
import { type HttpLimits, redirected } from "../../provider/src/images/repository/http-client";
import { findImage, namesIn } from "../../provider/src/images/repository/repository";
import { failure } from "../failure";
import { type Answer, FileServer } from "./file-server";
import { file, ImageFolder, vcIn } from "./image-folder";

const MIB = 1024 * 1024;
const LIMITS: HttpLimits = { answer: 400, text: 800, window: 300, pause: 1 };
/** Nothing that could be compressed. */
const NOISE = Buffer.concat(
  Array.from({ length: (4 * MIB) / 32 }, (_, index) => createHash("sha256").update(`${index}`).digest()),
);
const DISK = Buffer.concat([NOISE, Buffer.alloc(4 * MIB)]);
const PACKED = gzipSync(DISK, { level: 1 });
const VC = join(__dirname, "..", "..", "provider", "vc.mjs");
const DISK_PATH = "/demo/d.raw.gz";

describe("a repository over http", () => {
  let images: ImageFolder;
  let server: FileServer;
  let said: string[];

  beforeEach(async () => {
    images = await ImageFolder.create();
    await images.put(vcIn({ disk: "d.raw.gz" }), { "d.raw.gz": PACKED });
    server = await FileServer.of(images.repository);
    said = [];
  });

  afterEach(async () => {
    await server[Symbol.asyncDispose]();
    await images[Symbol.asyncDispose]();
  });

  const find = (url = server.url) => findImage(url, "demo", LIMITS);
  const fetchDemo = async () => fetchImage(await find(), (line) => said.push(line), LIMITS);
  const expectDisk = async (path: string, disk = DISK) => expect(disk.equals(await readFile(path))).to.equal(true);
  const manifest = (files: Record<string, unknown>) =>
    writeFile(join(images.repository, "demo", "manifest.json"), JSON.stringify({ formatVersion: 1, disks: {}, files }));
  const told = (bytes: Buffer) => ({ size: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") });

  it("lists its names", async () => {
    expect([...(await namesIn(`${server.url}/`)).keys()]).to.deep.equal(["demo"]);
  });

  it("is read over https where its certificate is known, and refused where it isn't", async () => {
    const [key, cert] = [join(images.folder, "key.pem"), join(images.folder, "cert.pem")];
    await execa("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
      ...["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
    ]);
    await using secure = await FileServer.of(images.repository, {
      key: await readFile(key),
      cert: await readFile(cert),
    });
    // Node.js reads the variable when it starts.
    const show = (env: Record<string, string>, url = secure.url) =>
      execa(process.execPath, [VC, "image", "show", "demo", "--repository", url], { reject: false, env });
    const refused = await show({});
    expect(refused.exitCode).to.equal(1);
    expect(refused.stderr).to.match(
      /^vc: repository https:.*: https:\/\/127\.0\.0\.1:\d+ shows a certificate that isn't trusted here \(self-signed certificate\)\. Set NODE_EXTRA_CA_CERTS/,
    );
    expect(secure.asked).to.deep.equal([]);
    const { exitCode, stdout } = await show({ NODE_EXTRA_CA_CERTS: cert });
    expect(exitCode).to.equal(0);
    expect(stdout).to.match(/^frontend .* d\.raw\.gz/m);
    const another = await show({ NODE_EXTRA_CA_CERTS: cert }, secure.url.replace("127.0.0.1", "localhost"));
    expect(another.stderr).to.match(/isn't trusted here \(Hostname\/IP does not match certificate's altnames/);
  });

  it("is found without its disks being fetched, and fetched once", async () => {
    const { frontend } = await find();
    expect(frontend.parts).to.have.length(1);
    expect(frontend.parts[0]).to.include({ name: "d.raw.gz", size: PACKED.length, isHere: false });
    expect(server.got).to.have.members(["/vcdb.txt", "/demo/vc-in.xml", "/demo/manifest.json"]);
    const { frontendDisk, computeDisk } = await fetchDemo();
    expect(computeDisk).to.equal(frontendDisk);
    await expectDisk(frontendDisk);
    expect((await fetchDemo()).frontendDisk).to.equal(frontendDisk);
    // Texts are kept for seconds, so that a preview asks once.
    expect(server.got.sort()).to.deep.equal(["/demo/d.raw.gz", "/demo/manifest.json", "/demo/vc-in.xml", "/vcdb.txt"]);
    expect(await images.kept()).to.have.length(1);
  });

  it("is fetched anew when its disk has changed", async () => {
    const { frontendDisk } = await fetchDemo();
    await writeFile(join(images.repository, DISK_PATH), gzipSync(NOISE));
    const changed = await fetchDemo();
    expect(changed.frontendDisk).not.to.equal(frontendDisk);
    await expectDisk(changed.frontendDisk, NOISE);
  });

  it("gives RAW disks and disks in parts", async () => {
    const [one, other] = [PACKED.subarray(0, MIB), PACKED.subarray(MIB)];
    const compute = { disk: "c.raw", beside: file("splited_gzip", "c.raw", "c a", "c#b?") };
    await images.put(vcIn({ disk: "d.raw" }, compute), { "d.raw": NOISE, "c a": one, "c#b?": other });
    expect((await find()).frontend.size).to.equal(NOISE.length);
    const { frontendDisk, computeDisk } = await fetchDemo();
    await expectDisk(frontendDisk, NOISE);
    await expectDisk(computeDisk);
  });

  it("does without HEAD and without ETags", async () => {
    server.odd = (request, response) => {
      if (request.method === "HEAD") {
        response.writeHead(405).end();
        return true;
      }
      return request.url === DISK_PATH && sends(response, 200, {}, PACKED);
    };
    await expectDisk((await fetchDemo()).frontendDisk);
    // Nothing tells whether it is still the same.
    await fetchDemo();
    expect(server.got.filter((path) => path === DISK_PATH)).to.have.length(2);
  });

  /** Breaks the connection after so many bytes, a few times. */
  const breaking = (times: number, bytes: number): Answer => {
    let left = times;
    return (request, response) => {
      if (request.url !== DISK_PATH || request.method !== "GET" || left <= 0) {
        return false;
      }
      left -= 1;
      const write = response.write.bind(response);
      let sent = 0;
      response.write = ((chunk: Buffer, ...rest: []) => {
        if (sent > bytes) {
          return false;
        }
        sent += chunk.length;
        const isOver = sent > bytes;
        const more = write(isOver ? chunk.subarray(0, chunk.length - (sent - bytes)) : chunk, ...rest);
        if (isOver) {
          setTimeout(() => response.destroy(), 20);
          return false;
        }
        return more;
      }) as typeof response.write;
      return false;
    };
  };

  it("goes on where a connection broke off", async () => {
    server.odd = breaking(2, 1.5 * MIB);
    await expectDisk((await fetchDemo()).frontendDisk);
    const ranges = server.asked.filter(({ path, method }) => path === DISK_PATH && method === "GET");
    expect(ranges.map(({ range }) => range === undefined)).to.deep.equal([true, false, false]);
    expect(said.join("\n")).to.match(/d\.raw\.gz broke off after \d+ bytes: going on/);
  });

  it("begins anew at a server that knows no ranges", async () => {
    server.ranges = false;
    server.odd = breaking(2, 1.5 * MIB);
    await expectDisk((await fetchDemo()).frontendDisk);
  });

  it("begins anew when the disk has changed in between", async () => {
    const [disk, next] = [join(images.repository, DISK_PATH), join(images.folder, "next")];
    await writeFile(next, gzipSync(NOISE));
    const breaks = breaking(1, 1.5 * MIB);
    server.odd = (request, response) => {
      if (request.headers.range !== undefined) {
        return false;
      }
      return breaks(request, response);
    };
    const found = await find();
    const fetching = fetchImage(found, (line) => said.push(line), { ...LIMITS, pause: 200 });
    while (said.length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await rename(next, disk);
    await expectDisk((await fetching).frontendDisk, NOISE);
  });

  it("is taken up by the next command where it broke off for good", async () => {
    server.odd = breaking(99, 100_000);
    const error = await failure<VirtualClusterError>(fetchDemo());
    expect(error).to.be.instanceOf(Unreachable);
    expect(error.hint).to.match(/run the same command again/i);
    expect(await images.kept()).to.have.length(1);
    server.odd = () => false;
    server.asked.length = 0;
    await expectDisk((await fetchDemo()).frontendDisk);
    expect(server.asked.find(({ path, method }) => path === DISK_PATH && method === "GET")?.range).to.match(
      /^bytes=\d+-$/,
    );
    expect(await images.kept()).to.have.length(1);
  });

  it("is asked through a proxy where the environment names one", async () => {
    server.odd = (request) => {
      // What a proxy is asked for is a whole URL.
      request.url = (request.url ?? "").replace("http://images.invalid", "");
      return false;
    };
    process.env.http_proxy = server.url;
    try {
      // Connections with other limits aren't shared: this one looks into the environment anew.
      expect((await findImage("http://images.invalid/", "demo", { ...LIMITS, answer: 401 })).vcName).to.equal("demo");
    } finally {
      delete process.env.http_proxy;
    }
    expect(server.asked.map(({ path }) => path)).to.include("http://images.invalid/vcdb.txt");
  });

  describe("that is broken or hostile", () => {
    const onDisk =
      (answer: (response: ServerResponse) => boolean): Answer =>
      (request, response) =>
        request.url === DISK_PATH && request.method === "GET" && answer(response);
    const redirects =
      (to: (path: string) => string): Answer =>
      (request, response) =>
        sends(response, 302, { location: to(request.url ?? "") });

    it("is refused when it redirects for ever, elsewhere, or to another kind of place", async () => {
      let count = 0;
      server.odd = redirects(() => `/again-${count++}`);
      expect((await failure(find())).message).to.match(/is redirected more than 5 times/);
      expect(count).to.be.below(20);
      for (const to of [
        "http://localhost:1/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://[",
        "//127.0.0.2/x",
      ]) {
        server.odd = redirects(() => to);
        const error = await failure(find(`${server.url}/${encodeURIComponent(to)}`));
        expect(error, to).to.be.instanceOf(InvalidImage);
        expect(error.message).to.include(`is redirected to ${JSON.stringify(to)}`);
      }
    });

    it("is followed to another host by https only, and never from https to http", () => {
      const outcome = (from: string, to: string) => {
        try {
          return redirected(new URL(from), to, "image demo").href;
        } catch (error) {
          return (error as Error).constructor.name;
        }
      };
      expect(outcome("https://a.example/x", "https://b.example/y")).to.equal("https://b.example/y");
      expect(outcome("http://a.example/x", "https://b.example/y")).to.equal("https://b.example/y");
      expect(outcome("http://a.example/x", "/y")).to.equal("http://a.example/y");
      expect(outcome("https://a.example/x", "http://a.example/x")).to.equal("InvalidImage");
      expect(outcome("http://a.example/x", "http://a.example:81/x")).to.equal("InvalidImage");
    });

    it("is followed to another place of its own", async () => {
      server.odd = (request, response) =>
        (request.url ?? "").startsWith("/old/") && sends(response, 301, { location: (request.url ?? "").slice(4) });
      expect((await find(`${server.url}/old`)).vcName).to.equal("demo");
    });

    it("is given up when it doesn't answer, and when it stalls, in bounded time", async () => {
      const started = Date.now();
      server.odd = () => true;
      expect(await failure(find())).to.be.instanceOf(Unreachable);
      server.odd = (request, response) => {
        if (request.url !== DISK_PATH || request.method !== "GET") {
          return false;
        }
        response.writeHead(200, { "content-length": PACKED.length }).write(PACKED.subarray(0, 1000));
        return true;
      };
      const error = await failure(fetchDemo());
      expect(error).to.be.instanceOf(Unreachable);
      expect(error.message).to.include("it takes too long");
      expect(Date.now() - started).to.be.below(6000);
    });

    it("is given up when it drips", async () => {
      server.odd = onDisk((response) => {
        response.writeHead(200, { "content-length": PACKED.length });
        const timer = setInterval(() => response.write("x"), 20);
        response.on("close", () => clearInterval(timer));
        return true;
      });
      expect(await failure(fetchDemo())).to.be.instanceOf(Unreachable);
    });

    it("is given up when its list has no end", async () => {
      server.odd = (_, response) => {
        response.writeHead(200);
        const more = () => {
          while (!response.destroyed && response.write(Buffer.alloc(64 * 1024, "a,b\n"))) {}
        };
        response.on("drain", more);
        more();
        return true;
      };
      expect((await failure(find())).message).to.match(/has more than 1048576 bytes/);
    });

    it("is found out when it sends fewer or more bytes than it says", async () => {
      server.odd = onDisk((response) => sends(response, 200, { "content-length": PACKED.length + 1 }, PACKED));
      expect(await failure(fetchDemo())).to.be.instanceOf(Unreachable);
      server.odd = onDisk((response) => {
        response.writeHead(200, { "content-length": 5000 });
        response.socket?.end(PACKED);
        return true;
      });
      expect(await failure(fetchDemo())).to.be.instanceOf(Unreachable);
    });

    it("is refused when it has other bytes than its manifest says, before they are fetched or after", async () => {
      await manifest({ "d.raw.gz": { ...told(PACKED), size: PACKED.length + 1 } });
      expect((await failure(find())).message).to.match(/its file d\.raw\.gz has \d+ bytes, and \d+ in its manifest/);
      server.odd = (request, response) => request.method === "HEAD" && sends(response, 501, {});
      const error = await failure(fetchDemo());
      expect(error.message).to.match(/has \d+ bytes, and \d+ in its manifest/);
      server.odd = (request, response) => {
        if (request.url !== DISK_PATH || request.method === "HEAD") {
          return request.method === "HEAD" && sends(response, 501, {});
        }
        // No length, and no end.
        const more = () => {
          while (!response.destroyed && response.write(NOISE.subarray(0, MIB))) {}
        };
        response.on("drain", more);
        more();
        return true;
      };
      expect((await failure(fetchDemo())).message).to.match(/sends more than \d+ bytes/);
      expect(await images.kept()).to.deep.equal([]);
    });

    it("is refused when what it sends isn't what its manifest says", async () => {
      await manifest({ "d.raw.gz": { ...told(PACKED), sha256: told(DISK).sha256 } });
      expect((await failure(fetchDemo())).message).to.match(/d\.raw\.gz isn't what its manifest says/);
      expect(await images.kept()).to.deep.equal([]);
    });

    it("is refused when it goes on elsewhere than asked", async () => {
      const breaks = breaking(1, 1.5 * MIB);
      server.odd = (request, response) => {
        if (request.headers.range !== undefined) {
          return sends(response, 206, { "content-range": "bytes 5-9/10", "content-length": 5 }, Buffer.alloc(5));
        }
        return breaks(request, response);
      };
      expect((await failure(fetchDemo())).message).to.match(/goes on at byte 5 where byte \d+ was asked for/);
      expect(await images.kept()).to.deep.equal([]);
    });

    it("says what it was told instead of a file", async () => {
      const cases: ReadonlyArray<readonly [number, new (...args: never[]) => Error]> = [
        [404, NotFound],
        [403, Denied],
        [401, Denied],
        [500, Unreachable],
        [204, Unreachable],
      ];
      for (const [status, kind] of cases) {
        server.odd = (_, response) => sends(response, status, {});
        expect(await failure(find(`${server.url}/${status}`)), `${status}`).to.be.instanceOf(kind);
      }
    });

    it("can't name anything beside it", async () => {
      let serial = 0;
      await writeFile(join(images.folder, "secret"), "secret");
      for (const disk of [
        ...["../../secret", "..", "%2e%2e/%2e%2e/secret", "a%2fb", "..\\..\\secret", "http://127.0.0.1/x"],
        ...["//127.0.0.1/x", "/etc/passwd", "a\tb"],
      ]) {
        await images.put(vcIn({ disk }), {});
        server.odd = (request) => {
          request.url = (request.url ?? "").replace(/^\/\d+/, "");
          return false;
        };
        // Texts are kept for seconds: another URL is another text.
        const error = await failure(find(`${server.url}/${serial++}`));
        expect(error, disk).to.be.instanceOf(InvalidImage);
      }
      expect(server.asked.map(({ path }) => path).filter((path) => /secret|passwd|%2f/i.test(path))).to.deep.equal([]);
    });

    it("has no password in its URL, which would be in the state", async () => {
      for (const url of ["http://me:pw@127.0.0.1/", `${server.url}/?token=1`, `${server.url}/#x`, "http://"]) {
        const error = await failure<VirtualClusterError>(findImage(url, "demo"));
        expect(error, url).to.be.instanceOf(InvalidImage);
        expect(error.message).not.to.match(/pw|token/);
      }
    });

    it("is named when nothing listens there", async () => {
      const { url } = server;
      const found = await find();
      await server[Symbol.asyncDispose]();
      const error = await failure<VirtualClusterError>(find(`${url}/again`));
      expect(error).to.be.instanceOf(Unreachable);
      expect(error.message).to.match(/^repository http:\/\/127[^\n]*doesn't answer as it should \(.*ECONNREFUSED/);
      expect(error.property).to.equal("repository");
      expect(await failure(fetchImage(found, () => undefined, LIMITS))).to.be.instanceOf(Unreachable);
      expect(await images.kept()).to.deep.equal([]);
    });
  });
});

function sends(
  response: ServerResponse,
  status: number,
  headers: Record<string, string | number>,
  body?: Buffer,
): true {
  response.writeHead(status, headers);
  response.end(body);
  return true;
}
