import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import * as fc from "fast-check";
import {
  AddressTaken,
  Denied,
  NoCapacity,
  NotFound,
  NotSupported,
  SiteFailure,
  Unreachable,
} from "../../provider/src/drivers/errors";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { configureOneAuth, oneSession } from "../../provider/src/drivers/opennebula/credentials";
import { rangeIn, servingFile } from "../../provider/src/drivers/opennebula/image-server";
import { parseVms, parseVnet } from "../../provider/src/drivers/opennebula/objects";
import { refusal } from "../../provider/src/drivers/opennebula/refusals";
import { templateText } from "../../provider/src/drivers/opennebula/template-text";
import { ConnectionLost, decodeAnswer, encodeCall } from "../../provider/src/drivers/opennebula/xml-rpc";
import type { OpenNebulaSettings } from "../../provider/src/drivers/settings";
import { claim, computeNode, frontendNode, virtualCluster } from "../../provider/src/index";
import { standInSite } from "../stand-ins/opennebula/site";
import { parseTemplate } from "../stand-ins/opennebula/template";
import { decodeCall } from "../stand-ins/opennebula/wire";

describe("OpenNebula's XML-RPC", () => {
  it("encodes what any text may hold, and decodes it again", () => {
    const printable = fc.string({ unit: "grapheme" }).filter((text) => text === text.trim());
    fc.assert(
      fc.property(printable, fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), fc.boolean(), (text, number, truth) => {
        // Control characters are no XML.
        const clean = text.replaceAll(/[^\x20-\ud7ff\ue000-\ufffd]/g, "");
        const { args } = decodeCall(encodeCall("one.vm.info", [clean.trim(), number, truth]));
        expect(args).to.deep.equal([clean.trim(), number, truth]);
      }),
      { seed: 1, numRuns: 200 },
    );
  });

  it("knows i8, with which each refusal ends", () => {
    const values = [
      "<boolean>0</boolean>",
      "<string>[one.vm.info] no</string>",
      "<i4>1024</i4>",
      "<i4>7</i4>",
      "<i8>-1</i8>",
    ];
    const body = `<?xml version="1.0"?>\r\n<methodResponse><params><param><value><array><data>${values.map((value) => `<value>${value}</value>`).join("\r\n")}</data></array></value></param></params></methodResponse>`;
    expect(decodeAnswer("one.vm.info", body)).to.deep.equal([false, "[one.vm.info] no", 1024, 7, -1]);
  });

  const answerWith = (document: string) => {
    const escaped = document.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const values = ["<boolean>1</boolean>", `<string>${escaped}</string>`, "<i4>0</i4>"];
    return `<methodResponse><params><param><value><array><data>${values.map((value) => `<value>${value}</value>`).join("\r\n")}</data></array></value></param></params></methodResponse>`;
  };
  const poolIn = (document: string) =>
    parseVms(String(decodeAnswer("one.vmpool.infoextended", answerWith(document))[1]));

  it("reads the list of somebody who has many machines, or large ones", () => {
    const plain = "<VM><ID>1</ID><NAME>a&amp;b</NAME></VM>";
    expect(poolIn(`<VM_POOL>${plain.repeat(20_000)}</VM_POOL>`)).to.have.length(20_000);
    const note = "x".repeat(1024 * 1024);
    const large = `<VM><ID>7</ID><USER_TEMPLATE><NOTE><![CDATA[${note}]]></NOTE></USER_TEMPLATE></VM>`;
    const machines = poolIn(`<VM_POOL>${large.repeat(20)}</VM_POOL>`);
    expect([machines.length, machines[19]?.attributes.get("NOTE")?.length]).to.deep.equal([20, note.length]);
  });

  it("reads a list in which a machine's start script writes a page of HTML", () => {
    const script = "cat >index.html <<X\n<!DOCTYPE html><p>&lt; ü\nX";
    const [machine] = poolIn(
      `<VM_POOL><VM><ID>7</ID><USER_TEMPLATE><NOTE><![CDATA[${script}]]></NOTE></USER_TEMPLATE></VM></VM_POOL>`,
    );
    expect(machine?.attributes.get("NOTE")).to.equal(script);
    expect(() => poolIn("<!DOCTYPE VM_POOL><VM_POOL></VM_POOL>")).to.throw(SiteFailure, "document type");
  });

  it("reads a network whose address ranges are of all kinds", () => {
    const range = (...elements: string[]) => `<AR>${elements.join("")}</AR>`;
    const vnet = parseVnet(
      `<VNET><ID>7</ID><NAME>mixed</NAME><STATE>1</STATE><TEMPLATE></TEMPLATE><AR_POOL>${[
        range(
          "<AR_ID>0</AR_ID><TYPE>ETHER</TYPE><MAC>02:00:00:00:00:01</MAC><SIZE>9</SIZE><USED_LEASES>1</USED_LEASES>",
        ),
        range(
          "<AR_ID>1</AR_ID><TYPE>IP6</TYPE><MAC>02:00:00:00:00:02</MAC><SIZE>9</SIZE><GLOBAL_PREFIX>2001:db8::</GLOBAL_PREFIX>",
        ),
        range(
          "<AR_ID>2</AR_ID><TYPE>IP4_6</TYPE><IP>198.51.100.2</IP><MAC>02:00:C6:33:64:02</MAC><SIZE>9</SIZE>",
          "<GATEWAY><![CDATA[198.51.100.1]]></GATEWAY><USED_LEASES>2</USED_LEASES>",
          "<LEASES><LEASE><IP>198.51.100.3</IP><MAC>02:00:c6:33:64:03</MAC><VROUTER>4</VROUTER></LEASE>",
          "<LEASE><IP>198.51.100.4</IP><VM>-1</VM></LEASE></LEASES>",
        ),
      ].join("")}</AR_POOL></VNET>`,
    );
    expect(vnet.ranges).to.have.length(1);
    expect(vnet.ranges[0]).to.include({ id: 2, ip: "198.51.100.2", mac: "02:00:c6:33:64:02", used: 2 });
    expect(vnet.ranges[0]?.leases).to.deep.equal([{ ip: "198.51.100.3" }, { ip: "198.51.100.4", vm: -1 }]);
    expect(vnet.ranges[0]?.attributes.get("GATEWAY")).to.equal("198.51.100.1");
  });

  it("makes the contract's errors of codes and texts", () => {
    const of = (code: number, text: string) => refusal("one.x", `[one.x] ${text}`, code, -1);
    expect(of(256, "User couldn't be authenticated, aborting call.")).to.be.instanceOf(Denied);
    const denied = of(512, "User [2] : Not authorized to perform CREATE NET.");
    expect(denied).to.be.instanceOf(Denied);
    expect(denied.hint).to.include("NET/* CREATE");
    expect(of(512, "User [2] : user [2] limit of 40 reached for CPU quota in VM.")).to.be.instanceOf(NoCapacity);
    expect(of(2048, "Not enough space in datastore")).to.be.instanceOf(NoCapacity);
    expect(of(1024, "Error getting virtual machine [9].")).to.be.instanceOf(NotFound);
    expect(of(8192, "Cannot get IP/MAC lease from virtual network 8.")).to.be.instanceOf(AddressTaken);
    for (const code of [8192, 16384]) {
      expect(of(code, "Error allocating a new image. NAME is already taken by IMAGE 6.")).to.have.property("id", 6);
    }
    expect(of(8192, "anything")).to.be.instanceOf(SiteFailure);
    expect(of(8192, "Cannot process request, zone disabled")).to.be.instanceOf(Unreachable);
    expect(of(65_536, "")).to.be.instanceOf(ConnectionLost);
    expect(of(32_768, "User [2] : Not authorized to perform MANAGE VM [7]."))
      .to.have.property("hint")
      .that.includes("unlock");
    const noOneGate = of(8192, "TOKEN set, but onegate endpoint was not defined in oned.conf.");
    expect(noOneGate).to.be.instanceOf(NotSupported);
    expect(noOneGate.hint).to.include("ONEGATE_ENDPOINT");
    expect(of(8192, "lvm datastores doesn't support change of image persistency.").hint).to.include("site.datastore");
  });
});

describe("OpenNebula's template text (gotcha 16)", () => {
  it("is read as it was meant, whatever a value holds", () => {
    const value = fc.string({ unit: "grapheme" }).filter((text) => !text.endsWith("\\") && !text.includes('\\"'));
    fc.assert(
      fc.property(value, value, (one, two) => {
        const read = parseTemplate(templateText({ NOTE: one, NIC: [{ IP: two, GATEWAY: undefined }, { IP: one }] }));
        expect(read.get("NOTE")).to.deep.equal([one]);
        expect(read.get("NIC")).to.deep.equal([new Map([["IP", two]]), new Map([["IP", one]])]);
      }),
      { seed: 1, numRuns: 300 },
    );
  });

  it("refuses what would run into the closing quote", () => {
    expect(() => templateText({ NOTE: "ends with \\" })).to.throw(RangeError);
  });
});

describe("credentials for OpenNebula", () => {
  const before = { ...process.env };
  afterEach(() => {
    configureOneAuth(undefined);
    process.env.ONE_AUTH = before.ONE_AUTH;
    if (before.ONE_AUTH === undefined) {
      delete process.env.ONE_AUTH;
    }
  });

  it("come from the stack's configuration, else from the file that ONE_AUTH names", async () => {
    const folder = await mkdtemp(join(tmpdir(), "vc-one-auth-"));
    process.env.ONE_AUTH = join(folder, "auth");
    expect(oneSession).to.throw(Denied, "there are none");
    await writeFile(process.env.ONE_AUTH, "me:token:of:many:parts\nsecond line\n");
    expect(oneSession()).to.equal("me:token:of:many:parts");
    configureOneAuth(" other:secret\n");
    expect(oneSession()).to.equal("other:secret");
    await rm(folder, { recursive: true });
  });

  it("come with whichever resource is the first of its process", () => {
    // A destroy begins with computes.
    for (const [name, resource] of Object.entries({ claim, virtualCluster, frontendNode, computeNode })) {
      configureOneAuth(undefined);
      resource({ config: new Map([["virtual-cluster:oneAuth", `me:${name}`]]) } as never);
      expect(oneSession()).to.equal(`me:${name}`);
    }
  });

  it("never show in an error", async () => {
    configureOneAuth("somebody:very-secret");
    const site = await standInSite();
    try {
      const settings: OpenNebulaSettings = {
        driver: "opennebula",
        endpoint: site.endpoint,
        privateTemplate: "vc-private",
      };
      for (const endpoint of [site.endpoint, "http://127.0.0.1:1/RPC2", `${site.endpoint}x`]) {
        const error = await new OpenNebulaDriver({ ...settings, endpoint }).describe().then(
          () => undefined,
          (thrown: Error) => thrown,
        );
        expect(error).to.be.instanceOf(Error);
        expect(JSON.stringify([error, error?.message, error?.stack])).to.not.include("very-secret");
      }
    } finally {
      await site.oned.stop();
    }
  });
});

describe("the server of images", () => {
  const content = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251));
  let folder: string;
  let file: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-one-image-"));
    file = join(folder, "disk.raw");
    await writeFile(file, content);
  });
  after(() => rm(folder, { recursive: true }));

  const get = (url: string, method = "GET", headers = {}) =>
    new Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }>((resolve, reject) => {
      const asked = request(url, { method, headers, agent: false }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
        );
      });
      asked.on("error", reject);
      asked.end();
    });

  it("stands many probes, parts and cut connections, and is gone afterwards", async () => {
    let address = "";
    await servingFile(file, "http://127.0.0.1:0", async (url) => {
      address = url;
      expect((await get(url, "HEAD")).headers["content-length"]).to.equal(String(content.length));
      for (const end of [10, 5000]) {
        await new Promise<void>((resolve) => {
          const { port, pathname } = new URL(url);
          const socket = connect(Number(port), "127.0.0.1", () =>
            socket.write(`GET ${pathname} HTTP/1.1\r\nHost: x\r\n\r\n`),
          );
          let got = 0;
          socket.on("data", (chunk) => {
            got += chunk.length;
            if (got > end) {
              socket.resetAndDestroy();
            }
          });
          socket.on("close", () => resolve());
        });
      }
      const part = await get(url, "GET", { Range: "bytes=1000-1999" });
      expect([part.status, part.body.equals(content.subarray(1000, 2000))]).to.deep.equal([206, true]);
      expect(part.headers["content-range"]).to.equal(`bytes 1000-1999/${content.length}`);
      const probes = await Promise.all(Array.from({ length: 8 }, () => get(url)));
      expect(probes.every(({ status, body }) => status === 200 && body.equals(content))).to.equal(true);
      expect((await get(url.replace("disk.raw", "../disk.raw"))).status).to.equal(404);
      expect((await get(url, "PUT")).status).to.equal(405);
      expect((await get(url, "GET", { Range: `bytes=${content.length}-` })).status).to.equal(416);
    });
    const error = await get(address).catch((thrown: NodeJS.ErrnoException) => thrown);
    expect(error).to.have.property("code", "ECONNREFUSED");
  });

  it("takes ranges as RFC 9110 has them", () => {
    expect(rangeIn("bytes=0-0", 10)).to.deep.equal({ first: 0, last: 0 });
    expect(rangeIn("bytes=-3", 10)).to.deep.equal({ first: 7, last: 9 });
    expect(rangeIn("bytes=-30", 10)).to.deep.equal({ first: 0, last: 9 });
    expect(rangeIn("bytes=4-100", 10)).to.deep.equal({ first: 4, last: 9 });
    expect(rangeIn("bytes=10-", 10)).to.equal("unsatisfiable");
    for (const header of [undefined, "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2"]) {
      expect(rangeIn(header, 10), header).to.equal(undefined);
    }
  });
});
