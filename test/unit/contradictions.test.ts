import { expect } from "chai";
import * as fc from "fast-check";
import type { SiteDescription } from "../../provider/src/drivers/driver";
import { Contradiction } from "../../provider/src/drivers/errors";
import { contradictionsIn } from "../../provider/src/plan/contradictions";
import { type ClusterPlan, planCluster } from "../../provider/src/plan/plan";
import { readVcOut } from "../../provider/src/vc-out/read";
import { computeVcOut, DIALECTS, frontendVcOut } from "../../provider/src/vc-out/vc-out";
import { writeVcOut } from "../../provider/src/vc-out/write";

const SITE: SiteDescription = {
  siteId: "site",
  cpus: { total: 64, free: 64, perNode: 16 },
  memory: { total: 65_536, free: 65_536 },
  publicNetwork: {
    name: "campus",
    cidr: "198.51.100.0/24",
    gateway: "198.51.100.1",
    dns: ["198.51.100.1"],
    domain: "example.org",
  },
  publicAddresses: Array.from({ length: 40 }, (_, index) => `198.51.100.${index + 10}`),
  takenAddresses: new Map(),
  privateRange: "10.84.0.0/16",
  takenSubnets: new Map(),
};
const WISH = { name: "dock", numCpus: 2, cpusPerNode: 1, memoryPerNode: 512, frontend: { cpus: 1, memory: 512 } };
const PLAN = planCluster(WISH, SITE, { privateCidr: "10.84.7.0/24", publicIp: "198.51.100.20" });

function withFrontend(change: Partial<ClusterPlan["frontend"]>): ClusterPlan {
  return { ...PLAN, frontend: { ...PLAN.frontend, ...change } };
}
function withCompute(change: Partial<ClusterPlan["computes"][number]>): ClusterPlan {
  const [first, ...others] = PLAN.computes;
  return first ? { ...PLAN, computes: [{ ...first, ...change }, ...others] } : PLAN;
}
function withNetwork(change: Partial<ClusterPlan["publicNetwork"]>): ClusterPlan {
  return { ...PLAN, publicNetwork: { ...PLAN.publicNetwork, ...change } };
}
function called(name: string, domain = "example.org"): ClusterPlan {
  return planCluster({ ...WISH, name }, { ...SITE, publicNetwork: { ...SITE.publicNetwork, domain } });
}

describe("contradictions in a plan", () => {
  it("are not in what is planned, and its vc-out.xml can be read", () => {
    const name = fc.stringMatching(/^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$/);
    fc.assert(
      fc.property(name, fc.integer({ min: 0, max: 253 }), (name, numCpus) => {
        fc.pre(name !== "localhost" && !/^compute-\d+$/.test(name));
        const plan = planCluster({ ...WISH, name, numCpus }, SITE);
        expect(contradictionsIn(plan)).to.deep.equal([]);
        for (const dialect of DIALECTS) {
          const files = [
            frontendVcOut(plan, []),
            ...plan.computes.slice(0, 1).map((compute) => computeVcOut(plan, compute, [])),
          ];
          expect(files.map((vcOut) => readVcOut(writeVcOut(vcOut, dialect)).vcOut)).to.deep.equal(files);
        }
      }),
      { numRuns: 30 },
    );
  });

  const found: Record<string, [ClusterPlan, string, RegExp]> = {
    "a name that ends with a dash": [called("dock-"), "clusterName", /"dock-"/],
    "a name that is too long": [called("d".repeat(64)), "clusterName", /"d{64}"/],
    "the name that every machine has for itself": [called("localhost"), "clusterName", /"localhost"/],
    "the name of a compute": [called("compute-1"), "clusterName", /compute-1: is the name of a compute too/],
    "a domain with an empty part": [called("dock", "a..b"), "site", /site\.domain "a\.\.b".*"dock\.a\.\.b"/],
    "a domain with a dash at an end": [called("dock", "a-.b"), "site", /"a-\.b"/],
    "a domain that is too long with the name": [called("d".repeat(60), "a.".repeat(100)), "site", /site\.domain/],
    "a public address outside its network": [
      withFrontend({ publicIp: "192.0.2.7" }),
      "publicIp",
      /192\.0\.2\.7.*198\.51\.100\.0\/24/,
    ],
    "a network's own address as the public one": [
      withFrontend({ publicIp: "198.51.100.0" }),
      "publicIp",
      /198\.51\.100\.0:/,
    ],
    "a broadcast address as the public one": [
      withFrontend({ publicIp: "198.51.100.255" }),
      "publicIp",
      /198\.51\.100\.255:/,
    ],
    "a gateway outside the network": [
      withNetwork({ gateway: "192.0.2.1" }),
      "site",
      /site\.gateway 192\.0\.2\.1.*198\.51\.100\.0\/24/,
    ],
    "a private address outside its network": [
      withCompute({ privateIp: "10.84.8.254" }),
      "site",
      /10\.84\.8\.254 of compute-0.*10\.84\.7\.0\/24/,
    ],
    "a private network that overlaps the public one": [
      withNetwork({ cidr: "10.0.0.0/8", gateway: "10.0.0.1" }),
      "site",
      /10\.84\.7\.0\/24: overlaps network campus, 10\.0\.0\.0\/8/,
    ],
    "an address twice": [withCompute({ privateIp: PLAN.frontend.privateIp }), "site", /10\.84\.7\.1: is given twice/],
    "the gateway's address as the public one": [
      withFrontend({ publicIp: "198.51.100.1" }),
      "site",
      /198\.51\.100\.1: is given twice/,
    ],
    "a MAC twice, in whatever case": [
      withCompute({ privateMac: PLAN.frontend.publicMac.toUpperCase() }),
      "site",
      /02:76:c6:33:64:14: is given twice/,
    ],
  };
  for (const [what, [plan, property, message]] of Object.entries(found)) {
    it(`are found: ${what}`, () => {
      const errors = contradictionsIn(plan);
      expect(errors.map((error) => error.message)).to.satisfy((texts: string[]) =>
        texts.some((text) => message.test(text)),
      );
      const [error] = errors.filter((one) => message.test(one.message));
      expect(error).to.be.instanceOf(Contradiction);
      expect(error?.property).to.equal(property);
    });
  }

  it("are named all at once", () => {
    const plan = {
      ...withFrontend({ publicIp: "192.0.2.7", name: "dock-" }),
      privateNetwork: { cidr: "10.85.0.0/24" },
    };
    expect(contradictionsIn(plan).map(({ property }) => property)).to.deep.equal([
      "clusterName",
      ...["site", "site", "site"],
      "publicIp",
    ]);
  });
});
