import { expect } from "chai";
import * as fc from "fast-check";
import type { SiteDescription } from "../../provider/src/drivers/driver";
import { AddressTaken, NoCapacity, VirtualClusterError } from "../../provider/src/drivers/errors";
import { contains, overlap, subnet } from "../../provider/src/plan/addresses";
import {
  type ClusterPlan,
  type ClusterWish,
  nodesOf,
  planCluster,
  refuseOversize,
  sumOf,
} from "../../provider/src/plan/plan";
import { proposals } from "../../provider/src/plan/proposals";

const SITE: SiteDescription = {
  siteId: "site",
  cpus: { total: 64, free: 64, perNode: 16 },
  memory: { total: 65_536, free: 65_536 },
  publicNetwork: {
    name: "public",
    cidr: "198.51.100.0/24",
    gateway: "198.51.100.1",
    dns: ["198.51.100.1"],
    domain: "test",
  },
  publicAddresses: Array.from({ length: 40 }, (_, index) => `198.51.100.${index + 10}`),
  takenAddresses: new Map([["198.51.100.1", { description: "the network's gateway" }]]),
  privateRange: "10.84.0.0/16",
  takenSubnets: new Map(),
};

const WISH: ClusterWish = {
  name: "dock",
  numCpus: 4,
  cpusPerNode: 2,
  memoryPerNode: 1024,
  frontend: { cpus: 1, memory: 512 },
};

const anyName = fc.string({ unit: fc.constantFrom(..."abcdefgh0123-"), maxLength: 12 }).map((rest) => `c${rest}`);

function failureOf(work: () => unknown): VirtualClusterError {
  try {
    work();
  } catch (error) {
    expect(error).to.be.instanceOf(VirtualClusterError);
    return error as VirtualClusterError;
  }
  throw new Error("it should have failed");
}

describe("planCluster", () => {
  it("lays a cluster out as PRAGMA does: the frontend first, computes down from the last address", () => {
    const plan = planCluster(WISH, SITE, { privateCidr: "10.84.7.0/24", publicIp: "198.51.100.20" });
    expect(plan).to.deep.equal({
      frontend: {
        name: "dock",
        fqdn: "dock.test",
        cpus: 1,
        memory: 512,
        privateIp: "10.84.7.1",
        privateMac: "02:76:0a:54:07:01",
        publicIp: "198.51.100.20",
        publicMac: "02:76:c6:33:64:14",
      },
      computes: [
        { name: "compute-0", cpus: 2, memory: 1024, privateIp: "10.84.7.254", privateMac: "02:76:0a:54:07:fe" },
        { name: "compute-1", cpus: 2, memory: 1024, privateIp: "10.84.7.253", privateMac: "02:76:0a:54:07:fd" },
      ],
      privateNetwork: { cidr: "10.84.7.0/24" },
      publicNetwork: SITE.publicNetwork,
    });
  });

  it("rounds up where cpus don't divide evenly, and makes only a frontend of none", () => {
    expect(planCluster({ ...WISH, numCpus: 5 }, SITE).computes).to.have.length(3);
    expect(planCluster({ ...WISH, numCpus: 0 }, SITE).computes).to.deep.equal([]);
  });

  it("gives no address and no MAC twice", () => {
    fc.assert(
      fc.property(anyName, fc.integer({ min: 0, max: 253 }), (name, numCpus) => {
        const plan = planCluster({ ...WISH, name, numCpus, cpusPerNode: 1 }, SITE);
        const ips = [...nodesOf(plan).map(({ privateIp }) => privateIp), plan.frontend.publicIp];
        const macs = [...nodesOf(plan).map(({ privateMac }) => privateMac), plan.frontend.publicMac];
        expect(new Set(ips).size).to.equal(numCpus + 2);
        expect(new Set(macs).size).to.equal(numCpus + 2);
        expect(nodesOf(plan).every(({ privateIp }) => contains(subnet(plan.privateNetwork.cidr), privateIp))).to.equal(
          true,
        );
      }),
    );
  });

  it("gives clusters that are planned one after the other nothing in common", () => {
    fc.assert(
      fc.property(fc.uniqueArray(anyName, { minLength: 2, maxLength: 40 }), (names) => {
        const site = {
          ...SITE,
          takenAddresses: new Map(SITE.takenAddresses),
          takenSubnets: new Map(SITE.takenSubnets),
        };
        const plans = names.map((name) => {
          const plan = planCluster({ ...WISH, name }, site);
          const holder = { cluster: name, description: name };
          site.takenAddresses.set(plan.frontend.publicIp, holder);
          site.takenSubnets.set(plan.privateNetwork.cidr, holder);
          return plan;
        });
        const subnets = plans.map(({ privateNetwork }) => subnet(privateNetwork.cidr));
        expect(new Set(plans.map(({ frontend }) => frontend.publicIp)).size).to.equal(names.length);
        expect(subnets.some((one, index) => subnets.slice(index + 1).some((other) => overlap(one, other)))).to.equal(
          false,
        );
      }),
      { numRuns: 30 },
    );
  });

  it("is the same for the same cluster", () => {
    fc.assert(
      fc.property(anyName, (name) => {
        expect(planCluster({ ...WISH, name }, SITE)).to.deep.equal(planCluster({ ...WISH, name }, SITE));
      }),
    );
  });

  it("keeps what is held, though the site shows it as taken by this cluster", () => {
    const held = planCluster(WISH, SITE);
    const holder = { cluster: "dock", description: "cluster dock" };
    const site = {
      ...SITE,
      takenAddresses: new Map([[held.frontend.publicIp, holder]]),
      takenSubnets: new Map([[held.privateNetwork.cidr, holder]]),
    };
    const dealt = { privateCidr: held.privateNetwork.cidr, publicIp: held.frontend.publicIp };
    expect(planCluster(WISH, site, dealt)).to.deep.equal(held);
  });

  it("keeps a held address that the site doesn't hand out any more", () => {
    const publicIp = "198.51.100.200";
    expect(planCluster(WISH, SITE, { publicIp }).frontend.publicIp).to.equal(publicIp);
  });

  it("keeps everything of the nodes that stay in a resize", () => {
    const size = fc.integer({ min: 0, max: 60 });
    fc.assert(
      fc.property(anyName, size, size, (name, before, after) => {
        const wish = { ...WISH, name, cpusPerNode: 1 };
        const old = planCluster({ ...wish, numCpus: before }, SITE);
        const dealt = { privateCidr: old.privateNetwork.cidr, publicIp: old.frontend.publicIp };
        const next = planCluster({ ...wish, numCpus: after }, SITE, dealt);
        const kept = Math.min(before, after);
        expect(next.frontend).to.deep.equal(old.frontend);
        expect(next.computes.slice(0, kept)).to.deep.equal(old.computes.slice(0, kept));
      }),
    );
  });

  it("takes the last free subnet, passing over every one that overlaps", () => {
    const taken = new Map(
      Array.from({ length: 256 }, (_, index) => [`10.84.${index}.0/25`, { description: "another" }] as const).filter(
        ([cidr]) => cidr !== "10.84.99.0/25",
      ),
    );
    expect(planCluster(WISH, { ...SITE, takenSubnets: taken }).privateNetwork.cidr).to.equal("10.84.99.0/24");
  });

  it("never leaves the site's private range, however small it is", () => {
    const small = { ...SITE, privateRange: "10.84.0.64/27" };
    const plan = planCluster(WISH, small);
    expect(nodesOf(plan).every(({ privateIp }) => contains(subnet(small.privateRange), privateIp))).to.equal(true);
  });

  const everyAddress = new Map(SITE.publicAddresses.map((ip) => [ip, { description: "another" }]));
  const refused: Record<string, [() => unknown, typeof VirtualClusterError, string, RegExp]> = {
    "a public address outside the site's": [
      () => planCluster({ ...WISH, publicIp: "192.0.2.1" }, SITE),
      AddressTaken,
      "publicIp",
      /192\.0\.2\.1.*198\.51\.100\.10 … 198\.51\.100\.49/,
    ],
    "a public address of the network that the site doesn't hand out": [
      () => planCluster({ ...WISH, publicIp: "198.51.100.200" }, SITE),
      AddressTaken,
      "publicIp",
      /198\.51\.100\.200/,
    ],
    "a public address in use": [
      () =>
        planCluster(
          { ...WISH, publicIp: "198.51.100.11" },
          { ...SITE, takenAddresses: new Map([["198.51.100.11", { cluster: "other", description: "cluster other" }]]) },
        ),
      AddressTaken,
      "publicIp",
      /in use by cluster other/,
    ],
    "more computes than the private network holds": [
      () => planCluster({ ...WISH, numCpus: 254, cpusPerNode: 1 }, SITE),
      NoCapacity,
      "numCpus",
      /254 computes.*253/,
    ],
    "an absurd number, without making it first": [
      () => planCluster({ ...WISH, numCpus: Number.MAX_SAFE_INTEGER }, SITE),
      NoCapacity,
      "numCpus",
      /cpusPerNode/,
    ],
    "a site without a free subnet": [
      () => planCluster(WISH, { ...SITE, takenSubnets: new Map([["10.0.0.0/8", { description: "the campus" }]]) }),
      NoCapacity,
      "site",
      /privateRange/,
    ],
    "a site without a free public address": [
      () => planCluster(WISH, { ...SITE, takenAddresses: everyAddress }),
      NoCapacity,
      "site",
      /publicAddresses/,
    ],
    "a site that hands out none": [
      () => planCluster(WISH, { ...SITE, publicAddresses: [] }),
      NoCapacity,
      "site",
      /publicAddresses/,
    ],
  };
  for (const [what, [work, errorClass, property, message]] of Object.entries(refused)) {
    it(`refuses ${what}`, () => {
      const error = failureOf(work);
      expect(error).to.be.instanceOf(errorClass);
      expect(error.property).to.equal(property);
      expect(error.message).to.match(message);
    });
  }
});

describe("refuseOversize", () => {
  const plan = planCluster(WISH, SITE); // 5 cpus, 2560 MiB
  const site = (cpus: number, memory: number, perNode = 16): SiteDescription => ({
    ...SITE,
    cpus: { total: 64, free: cpus, perNode },
    memory: { total: 65_536, free: memory },
  });

  it("lets through what just fits", () => {
    refuseOversize(plan, site(5, 2560, 2));
  });

  it("counts what the cluster's own machines use as free", () => {
    refuseOversize(plan, site(2, 1536), [
      { cpus: 1, memory: 512 },
      { cpus: 2, memory: 512 },
    ]);
  });

  it("leaves out a frontend that has a host of its own", () => {
    refuseOversize(plan, { ...site(4, 2048, 2), frontendsApart: true });
    expect(failureOf(() => refuseOversize(plan, { ...site(3, 2048), frontendsApart: true }))).to.be.instanceOf(
      NoCapacity,
    );
  });

  const refused: Record<string, [() => void, string]> = {
    "too many cpus": [() => refuseOversize(plan, site(4, 2560)), "numCpus"],
    "too much memory": [() => refuseOversize(plan, site(5, 2559)), "memoryPerNode"],
    "a compute larger than a node can be": [() => refuseOversize(plan, site(64, 65_536, 1)), "cpusPerNode"],
    "a frontend larger than a node can be": [
      () => refuseOversize(planCluster({ ...WISH, frontend: { cpus: 9, memory: 64 } }, SITE), site(64, 65_536, 8)),
      "frontend",
    ],
  };
  for (const [what, [work, property]] of Object.entries(refused)) {
    it(`refuses ${what} and names ${property}`, () => {
      const error = failureOf(work);
      expect(error).to.be.instanceOf(NoCapacity);
      expect(error.property).to.equal(property);
    });
  }
});

describe("proposals", () => {
  const propose = (name: string, siteId = "site"): ClusterPlan => {
    const plan = planCluster({ ...WISH, name }, proposals.withOthers({ ...SITE, siteId }, name));
    proposals.propose(siteId, name, plan, sumOf(nodesOf(plan)));
    return plan;
  };
  const addressesOf = ({ frontend, privateNetwork }: ClusterPlan) => [frontend.publicIp, privateNetwork.cidr];

  afterEach(() => {
    for (const name of ["one", "two"]) {
      proposals.settle("site", name);
      proposals.settle("elsewhere", name);
    }
  });

  it("keep two clusters of one program apart, whatever the site knows", () => {
    const [address, cidr] = addressesOf(propose("one"));
    const site = proposals.withOthers(SITE, "two");
    expect(site.takenAddresses.get(address as string)?.cluster).to.equal("one");
    expect(site.takenSubnets.get(cidr as string)?.cluster).to.equal("one");
    expect(SITE.takenAddresses.has(address as string)).to.equal(false);
  });

  it("leave the others what they don't use themselves", () => {
    const used = sumOf(nodesOf(propose("one")));
    const site = proposals.withOthers(SITE, "two");
    expect(site.cpus.free).to.equal(SITE.cpus.free - used.cpus);
    expect(site.memory.free).to.equal(SITE.memory.free - used.memory);
  });

  it("don't stand in a cluster's own way", () => {
    expect(propose("one")).to.deep.equal(propose("one"));
  });

  it("are forgotten when they are settled", () => {
    propose("one");
    proposals.settle("site", "one");
    expect(proposals.withOthers(SITE, "two")).to.deep.equal(SITE);
  });

  it("count at their own site only", () => {
    propose("one", "elsewhere");
    expect(proposals.withOthers(SITE, "two")).to.deep.equal(SITE);
  });

  it("don't hide who holds an address at the site", () => {
    const { publicIp } = propose("one").frontend;
    const holder = { description: "a machine with a DHCP lease" };
    const site = { ...SITE, takenAddresses: new Map([[publicIp, holder]]) };
    expect(proposals.withOthers(site, "two").takenAddresses.get(publicIp)).to.deep.equal(holder);
  });
});
