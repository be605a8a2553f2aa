import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import * as fc from "fast-check";
import { XMLParser } from "fast-xml-parser";
import { attribute, element, parseXml } from "../../provider/src/images/xml";
import { fromNumber, macOf } from "../../provider/src/plan/addresses";
import type { ClusterPlan } from "../../provider/src/plan/plan";
import { readVcOut } from "../../provider/src/vc-out/read";
import {
  type ComputeVcOut,
  computeVcOut,
  DIALECTS,
  type Dialect,
  type FrontendVcOut,
  frontendVcOut,
  type Nic,
  type VcOut,
} from "../../provider/src/vc-out/vc-out";
import { writeVcOut } from "../../provider/src/vc-out/write";

const FIXTURES = join(__dirname, "..", "fixtures", "vc-out");
const DOCS = join(__dirname, "..", "..", "docs");
const SCHEMA = join(DOCS, "vc-out.rng");
const KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDexample user@somehost";

/** The clusters that PRAGMA's samples are of. */
const PLANS: Readonly<Record<Dialect, ClusterPlan>> = {
  A: {
    frontend: {
      name: "somehost",
      fqdn: "somehost.ucsd.edu",
      cpus: 1,
      memory: 512,
      privateIp: "10.1.1.1",
      privateMac: "7a:77:6e:40:00:09",
      publicIp: "123.123.123.123",
      publicMac: "7A:77:6E:40:00:10",
    },
    computes: [
      { name: "compute-0", cpus: 2, memory: 512, privateIp: "10.1.1.254", privateMac: "7A:77:6e:40:00:15" },
      { name: "compute-1", cpus: 2, memory: 512, privateIp: "10.1.1.253", privateMac: "7a:77:6e:40:00:14" },
    ],
    privateNetwork: { cidr: "10.1.0.0/16" },
    publicNetwork: {
      name: "public",
      cidr: "123.123.123.0/24",
      gateway: "123.123.123.1",
      dns: ["8.8.8.8"],
      domain: "ucsd.edu",
    },
  },
  B: {
    frontend: {
      name: "vc-pragma",
      fqdn: "vc-pragma.pragma.test",
      cpus: 1,
      memory: 512,
      privateIp: "10.1.1.1",
      privateMac: "0a:64:33:80:00:03",
      publicIp: "198.51.100.61",
      publicMac: "0A:64:33:80:00:04",
    },
    computes: [
      { name: "compute-0", cpus: 14, memory: 512, privateIp: "10.1.255.254", privateMac: "0a:64:33:80:00:05" },
      { name: "compute-1", cpus: 6, memory: 512, privateIp: "10.1.255.253", privateMac: "0a:64:33:80:00:06" },
    ],
    privateNetwork: { cidr: "10.1.0.0/16" },
    publicNetwork: {
      name: "public",
      cidr: "198.51.100.0/24",
      gateway: "198.51.100.1",
      dns: ["8.8.8.8"],
      domain: "pragma.test",
    },
  },
};

const ROLES = ["frontend", "compute"] as const;
type Role = (typeof ROLES)[number];
const FILES = DIALECTS.flatMap((dialect) => ROLES.map((role) => ({ dialect, role })));

function sample(dialect: Dialect, role: Role): string {
  return readFileSync(join(FIXTURES, `${dialect}-${role}`, "vc-out.xml"), "utf8");
}

function planned(dialect: Dialect, role: Role): VcOut {
  const plan = PLANS[dialect];
  const [compute] = plan.computes;
  return role === "compute" && compute ? computeVcOut(plan, compute, [KEY]) : frontendVcOut(plan, [KEY]);
}

/** All that a reader sees, in order: elements, attributes, texts. */
function content(xml: string): unknown {
  const options = { ignoreAttributes: false, ignoreDeclaration: true, preserveOrder: true };
  return new XMLParser({ ...options, parseTagValue: false, parseAttributeValue: false }).parse(xml);
}

// ── Any vc-out.xml ───────────────────────────────────────────────────────────────────────────────────────────────────

const label = fc.stringMatching(/^[a-z]([a-z0-9-]{0,8}[a-z0-9])?$/);
const hostName = fc.array(label, { minLength: 1, maxLength: 3 }).map((labels) => labels.join("."));
const anyIp = fc.integer({ min: 0x01000000, max: 0xdfffffff }).map(fromNumber);
const mtu = fc.constantFrom(1500, 1500, 576, 9000);
const key = fc
  .string({ unit: fc.constantFrom(..."ab <>&'\"]%é✓"), maxLength: 30 })
  .map((text) => `ssh-ed25519 ${text}x`);
const everywhere = {
  dns: fc.record({
    servers: fc.array(anyIp, { maxLength: 3 }),
    search: fc.array(hostName, { maxLength: 2 }).map((list) => list.join(" ")),
    domain: fc.oneof(hostName, fc.constant("")),
  }),
  keys: fc.array(key, { maxLength: 4 }),
};

/** Distinct names, addresses and MACs for so many NICs. */
const addresses = fc.uniqueArray(fc.integer({ min: 1, max: 0xfffe }), { minLength: 40, maxLength: 40 });
const extras = fc.uniqueArray(
  label.filter((name) => !["private", "public", "node"].includes(name)),
  { maxLength: 2 },
);

interface Choice {
  readonly places: readonly number[];
  readonly networks: readonly string[];
  readonly mtus: readonly number[];
}
const choice: fc.Arbitrary<Choice> = fc.record({
  places: addresses,
  networks: extras,
  mtus: fc.array(mtu, { minLength: 4, maxLength: 4 }),
});

function nicsAt({ places, networks, mtus }: Choice, first: number, main: readonly string[]): Nic[] {
  return [...main, ...networks].map((network, index) => {
    const ip = fromNumber(0x0a000000 + index * 0x10000 + (places[first + index] as number));
    return { network, ip, mac: macOf(ip), mtu: mtus[index] as number, netmask: "255.255.0.0" };
  });
}

const anyCompute: fc.Arbitrary<ComputeVcOut> = fc
  .record({ ...everywhere, frontendFqdn: hostName, name: hostName, gateway: anyIp, choice })
  .map(({ choice, ...rest }) => ({ role: "compute", ...rest, nics: nicsAt(choice, 0, ["private"]) }));

const anyFrontend: fc.Arbitrary<FrontendVcOut> = fc
  .record({
    ...everywhere,
    fqdn: hostName,
    names: fc.uniqueArray(label, { minLength: 1, maxLength: 8 }),
    gateway: anyIp,
    cpus: fc.integer({ min: 1, max: 4096 }),
    choice,
  })
  .map(({ choice, names: [name = "", ...others], cpus, ...rest }) => {
    const computes = others.map((name, index) => ({
      ...{ name, cpus, gateway: "10.0.0.1" },
      nics: nicsAt(choice, 4 + 4 * index, ["private"]),
    }));
    return { role: "frontend", ...rest, name, nics: nicsAt(choice, 0, ["private", "public"]), computes };
  });
const anyVcOut: fc.Arbitrary<VcOut> = fc.oneof(anyFrontend, anyCompute);

/** What dialect A can say of it: a listed compute's gateway and netmask are the frontend's. */
function sayable(vcOut: VcOut, dialect: Dialect): VcOut {
  const [own] = vcOut.nics;
  if (vcOut.role === "compute" || dialect === "B" || !own) {
    return vcOut;
  }
  const { mtu, netmask } = own;
  const computes = vcOut.computes.map(({ nics, ...node }) => ({
    ...node,
    gateway: own.ip,
    nics: nics.slice(0, 1).map((nic) => ({ ...nic, mtu, netmask })),
  }));
  return { ...vcOut, computes };
}

// ── Tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────

describe("vc-out.xml", () => {
  for (const { dialect, role } of FILES) {
    it(`of a ${role} in dialect ${dialect} says what PRAGMA's says`, () => {
      expect(content(writeVcOut(planned(dialect, role), dialect))).to.deep.equal(content(sample(dialect, role)));
    });

    it(`of PRAGMA's for a ${role} in dialect ${dialect} is read`, () => {
      expect(readVcOut(sample(dialect, role))).to.deep.equal({ dialect, vcOut: planned(dialect, role) });
    });
  }

  it("stays the same byte by byte, since guests tell by its digest which one they follow", () => {
    expect(writeVcOut(planned("B", "frontend"), "B")).to.equal(sample("B", "frontend"));
    expect(writeVcOut(planned("B", "compute"), "B")).to.equal(sample("B", "compute"));
  });

  for (const dialect of DIALECTS) {
    it(`in dialect ${dialect} comes back as it was written`, () => {
      fc.assert(
        fc.property(anyVcOut, (vcOut) => {
          expect(readVcOut(writeVcOut(vcOut, dialect))).to.deep.equal({ dialect, vcOut: sayable(vcOut, dialect) });
        }),
      );
    });

    it(`in dialect ${dialect} of a frontend without computes still counts them`, () => {
      const text = writeVcOut(frontendVcOut({ ...PLANS.B, computes: [] }, [KEY]), dialect);
      expect(attribute(element(parseXml(text), "vc", "compute"), "count")).to.equal("0");
      expect(readVcOut(text).vcOut).to.deep.include({ role: "frontend", computes: [] });
    });

    it(`in dialect ${dialect} has its MACs in lower case, since guests compare them as text`, () => {
      const { nics, ...rest } = planned("B", "frontend");
      const shouting = { ...rest, nics: nics.map((nic) => ({ ...nic, mac: nic.mac.toUpperCase() })) } as VcOut;
      expect(writeVcOut(shouting, dialect)).to.include('mac="0a:64:33:80:00:04"').and.not.match(/0A:64/);
    });
  }

  it("is read with MACs in any case", () => {
    const shouting = sample("A", "frontend").replaceAll("7a:77:6e", "7A:77:6E");
    expect(readVcOut(shouting).vcOut).to.deep.equal(planned("A", "frontend"));
  });

  it("in dialect A without names, as before 2015, is read with the first part of the domain name", () => {
    const nameless = sample("A", "frontend").replace('name="somehost" ', "");
    expect(readVcOut(nameless).vcOut).to.deep.include({ name: "somehost" });
  });

  it("may hold several keys in one element", () => {
    const text = sample("B", "compute").replace("</key>", "\n ssh-ed25519 AAAA other\n</key>");
    expect(readVcOut(text).vcOut.keys).to.deep.equal([KEY, "ssh-ed25519 AAAA other"]);
  });

  it("can't be written for a network whose name is no element's", () => {
    const { nics, ...rest } = planned("B", "compute");
    const wrong = { ...rest, nics: [...nics, { ...(nics[0] as Nic), network: "a b" }] } as VcOut;
    expect(() => writeVcOut(wrong, "B")).to.throw(RangeError, '"a b"');
  });

  const wrong: Record<string, [Dialect, Role, (xml: string) => string, RegExp]> = {
    "is empty": ["B", "frontend", () => "", /not well-formed/],
    "is cut off": ["B", "frontend", (xml) => xml.slice(0, xml.length / 2), /not well-formed/],
    "is another document": ["B", "frontend", () => "<domain/>", /^vc is missing/],
    "has a document type": ["A", "frontend", (xml) => `<!DOCTYPE vc [<!ENTITY a "b">]>${xml}`, /document type/],
    "reaches for this program's objects": [
      "B",
      "frontend",
      (xml) => xml.replace("<public ", "<__proto__ ip='1.1.1.1'/><public "),
      /__proto__/,
    ],
    "has no frontend": ["B", "frontend", (xml) => xml.replaceAll("frontend", "front"), /^frontend is missing/],
    "has two frontends": [
      "B",
      "compute",
      (xml) => xml.replace("<compute", "<frontend/><compute"),
      /^frontend .*2 times/,
    ],
    "has two private networks": [
      "B",
      "compute",
      (xml) => xml.replace("<private", "<private/><private"),
      /^compute\/private is there 2 times/,
    ],
    "has no public network": ["B", "frontend", (xml) => xml.replace(/<public.*/, ""), /^frontend\/public is missing/],
    "has no public network, in A": [
      "A",
      "frontend",
      (xml) => xml.replace(/<public.*/, ""),
      /^frontend\/public is missing/,
    ],
    "has a frontend without a private network": [
      "B",
      "frontend",
      (xml) => xml.replace(/<private.*/, ""),
      /^frontend\/private is missing/,
    ],
    "has a compute without a name": [
      "B",
      "compute",
      (xml) => xml.replace('name="compute-0"', ""),
      /^compute\/@name is missing/,
    ],
    "has a node without a private network": [
      "B",
      "frontend",
      (xml) => xml.replace(/(name="compute-1">)\s*<private.*/, "$1"),
      /^compute\/node\[2\]\/private is missing/,
    ],
    "has a command for a name": [
      "B",
      "frontend",
      (xml) => xml.replace('name="compute-0"', 'name="$(touch x)"'),
      /^compute\/node\[1\]\/@name is "\$\(touch x\)"/,
    ],
    "has an address that is none": [
      "A",
      "frontend",
      (xml) => xml.replace('ip="10.1.1.254"', 'ip="10.1.1.256"'),
      /^compute\/node\[1\]\/@ip is "10\.1\.1\.256"/,
    ],
    "has an address outside its subnet": [
      "B",
      "compute",
      (xml) => xml.replace('ip="10.1.255.254"', 'ip="10.2.255.254"'),
      /^compute\/private\/@ip is 10\.2\.255\.254, outside its subnet "10\.1\.0\.0"/,
    ],
    "has a gateway that is none": [
      "A",
      "compute",
      (xml) => xml.replace('gw="10.1.1.1"', 'gw=""'),
      /^compute\/private\/@gw/,
    ],
    "has a netmask with holes": [
      "A",
      "frontend",
      (xml) => xml.replace("255.255.0.0", "255.0.255.0"),
      /^frontend\/private\/@netmask is "255\.0\.255\.0"/,
    ],
    "has a MAC that is none": [
      "B",
      "frontend",
      (xml) => xml.replace("0a:64:33:80:00:04", "0a:64:33:80:00"),
      /^frontend\/public\/@mac is "0a:64:33:80:00"/,
    ],
    "has an mtu that is none": [
      "B",
      "compute",
      (xml) => xml.replace('"1500"', '"15e2"'),
      /^compute\/private\/@mtu is "15e2"/,
    ],
    "has a node with no cpus": [
      "A",
      "frontend",
      (xml) => xml.replace('cpus="2"', 'cpus="0"'),
      /^compute\/node\[1\]\/@cpus is "0"/,
    ],
    "counts other computes than it lists": [
      "B",
      "frontend",
      (xml) => xml.replace('count="2"', 'count="5"'),
      /^compute\/@count is "5", and there are 2 nodes/,
    ],
    "has a name server that is none": [
      "B",
      "compute",
      (xml) => xml.replace("8.8.8.8", "8.8.8.8,dns"),
      /^network\/dns\/@ip is "dns"/,
    ],
    "has a path for a domain": [
      "A",
      "compute",
      (xml) => xml.replace('"local"', '"../x"'),
      /^network\/dns\/@search is "..\/x"/,
    ],
    "lists a name twice": [
      "B",
      "frontend",
      (xml) => xml.replace("compute-1", "compute-0"),
      /^compute-0 is there twice/,
    ],
    "lists an address twice": [
      "A",
      "frontend",
      (xml) => xml.replace("10.1.1.253", "10.1.1.254"),
      /^10\.1\.1\.254 is there twice/,
    ],
    "lists a MAC twice": [
      "A",
      "frontend",
      (xml) => xml.replace("40:00:14", "40:00:15"),
      /^7a:77:6e:40:00:15 is there twice/,
    ],
  };
  for (const [what, [dialect, role, spoil, message]] of Object.entries(wrong)) {
    it(`is refused where it ${what}, with the element's name`, () => {
      const text = spoil(sample(dialect, role));
      expect(text).to.not.equal(sample(dialect, role));
      expect(() => readVcOut(text)).to.throw(RangeError, message);
    });
  }
});

describe("docs/vc-out.md", () => {
  it("shows one cluster's files in both dialects, as they are written", () => {
    const page = readFileSync(join(DOCS, "vc-out.md"), "utf8");
    const examples = [...page.matchAll(/```xml\n(.*?)```/gs)].map(([, xml = ""]) => ({ xml, ...readVcOut(xml) }));
    expect(examples.map(({ dialect, vcOut }) => `${dialect} ${vcOut.role}`)).to.deep.equal([
      "B frontend",
      "B compute",
      "A frontend",
      "A compute",
    ]);
    for (const { xml, dialect, vcOut } of examples) {
      expect(content(writeVcOut(vcOut, dialect))).to.deep.equal(content(xml));
      expect(vcOut).to.deep.equal(examples.find((other) => other.vcOut.role === vcOut.role)?.vcOut);
    }
  });
});

describe("docs/vc-out.rng", () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-out-"));
  });
  after(() => rm(folder, { recursive: true }));

  /** xmllint's word on each file, in one run. */
  async function validate(texts: readonly string[]): Promise<boolean[]> {
    const files = texts.map((_, index) => join(folder, `${index}.xml`));
    await Promise.all(files.map((file, index) => writeFile(file, texts[index] as string)));
    const args = ["--noout", "--nonet", "--relaxng", SCHEMA, ...files];
    const { all } = await execa("xmllint", args, { all: true, reject: false });
    expect(all).to.not.include("failed to compile");
    return files.map((file) => all.includes(`${file} validates`));
  }

  it("describes PRAGMA's files", async () => {
    const verdicts = await validate(FILES.map(({ dialect, role }) => sample(dialect, role)));
    expect(verdicts).to.deep.equal(FILES.map(() => true));
  });

  it("describes whatever is written here", async () => {
    const texts = fc
      .sample(anyVcOut, { numRuns: 40, seed: 7 })
      .flatMap((vcOut) => DIALECTS.map((dialect) => writeVcOut(vcOut, dialect)));
    const verdicts = await validate(texts);
    expect(texts.filter((_, index) => !verdicts[index])).to.deep.equal([]);
  });

  it("describes nothing else", async () => {
    const [a, b, computeB] = [sample("A", "frontend"), sample("B", "frontend"), sample("B", "compute")];
    const wrong = {
      "another document": "<domain/>",
      "no network": b.replace(/<network>.*<\/network>/s, ""),
      "no private network": computeB.replace(/<private.*/, ""),
      "an A frontend with B computes": a.replace(/<compute.*<\/compute>/s, /<compute.*<\/compute>/s.exec(b)?.[0] ?? ""),
      "a B frontend without a gateway": b.replace('gw="198.51.100.1" ', ""),
      "a MAC in upper case": a.replace("7a:77:6e:40:00:09", "7A:77:6E:40:00:09"),
      "an address that is none": b.replace('ip="10.1.1.1"', 'ip="10.1.1.256"'),
      "a name that is none": b.replace('name="compute-0"', 'name="compute 0"'),
      "no cpus": b.replace('cpus="6"', 'cpus="0"'),
      "an attribute of its own": computeB.replace("<private", '<private vlan="7"'),
    };
    const verdicts = await validate(Object.values(wrong));
    expect(Object.keys(wrong).filter((_, index) => verdicts[index])).to.deep.equal([]);
  });
});
