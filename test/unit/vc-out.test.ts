import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import * as fc from "fast-check";
import { XMLParser } from "fast-xml-parser";
import { attribute, element, elements, parseXml, textOf } from "../../provider/src/images/xml";
import type { ClusterPlan } from "../../provider/src/plan/plan";
import { computeVcOut, frontendVcOut } from "../../provider/src/vc-out/dialect-b";

const FIXTURES = join(__dirname, "..", "fixtures", "vc-out");
const KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDexample user@somehost";

/** The cluster that pragma_boot wrote the samples for. */
const PLAN: ClusterPlan = {
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
};

/** All that a reader sees, in order: elements, attributes, texts. */
function content(xml: string): unknown {
  const options = { ignoreAttributes: false, preserveOrder: true, parseTagValue: false, parseAttributeValue: false };
  return new XMLParser(options).parse(xml);
}

describe("vc-out.xml, dialect B", () => {
  it("of a frontend says what pragma_boot's says", async () => {
    const sample = await readFile(join(FIXTURES, "B-frontend", "vc-out.xml"), "utf8");
    expect(content(frontendVcOut(PLAN, [KEY]))).to.deep.equal(content(sample));
  });

  it("of a compute says what pragma_boot's says", async () => {
    const sample = await readFile(join(FIXTURES, "B-compute", "vc-out.xml"), "utf8");
    const [compute] = PLAN.computes;
    expect(compute && content(computeVcOut(PLAN, compute, [KEY]))).to.deep.equal(content(sample));
  });

  it("has its MACs in lower case, since guests compare them as text", () => {
    expect(frontendVcOut(PLAN, [KEY]))
      .to.include('mac="0a:64:33:80:00:04"')
      .and.not.match(/0A:64/);
  });

  it("of a frontend without computes still counts them", () => {
    const compute = element(parseXml(frontendVcOut({ ...PLAN, computes: [] }, [KEY])), "vc", "compute");
    expect(attribute(compute, "count")).to.equal("0");
  });

  it("gives every key and name server back, whatever they look like", () => {
    const keyText = fc
      .string({ unit: fc.constantFrom(..."ab <>&'\"]%é✓"), minLength: 1, maxLength: 30 })
      .map((text) => `k${text}k`);
    fc.assert(
      fc.property(fc.array(keyText, { minLength: 1, maxLength: 4 }), keyText, (keys, name) => {
        const hostile = {
          ...PLAN,
          frontend: { ...PLAN.frontend, name, fqdn: `${name}.x` },
          publicNetwork: { ...PLAN.publicNetwork, dns: ["192.0.2.1", "192.0.2.2"] },
        };
        const vc = element(parseXml(frontendVcOut(hostile, keys)), "vc");
        const parser = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: "@", trimValues: false });
        expect(elements(vc, "key").map(textOf)).to.deep.equal(keys.map((key) => key.trim()));
        expect(parser.parse(frontendVcOut(hostile, keys)).vc.frontend["@name"]).to.equal(name);
        expect(attribute(element(vc, "network", "dns"), "ip")).to.equal("192.0.2.1,192.0.2.2");
      }),
    );
  });
});
