import { expect } from "chai";
import { overlap, subnet } from "../../provider/src/plan/addresses";
import type { SiteContent } from "./site-content";
import type { Tenant, Wish, World } from "./world";

/** What holds at any time: no address, MAC or subnet is there twice, and no machine is without its base image. */
export function expectOrder(site: SiteContent): void {
  const records = [...site.networks.values()].filter((record) => record !== "unmarked");
  const subnets = records.map(({ plan }) => subnet(plan.privateNetwork.cidr));
  const overlapping = subnets.filter((one, index) => subnets.slice(index + 1).some((other) => overlap(one, other)));
  expect(overlapping, "private subnets of two clusters").to.deep.equal([]);
  const macs = [...site.machines.values()].flatMap((machine) => machine.macs);
  expect(macs, "MAC addresses of all machines").to.have.lengthOf(new Set(macs).size);
  for (const { name, plan, image } of records.filter((record) => site.machines.has(`${record.name}/frontend`))) {
    // The lease may have gone already, with a destroy that was cut off; nobody else has it.
    expect(site.leases.get(plan.frontend.publicIp)?.cluster ?? name, "who has the address").to.equal(name);
    expect(site.bases.get(image.frontend.digest), `base image of ${name}`).to.equal("whole");
  }
}

/** What the site holds of one cluster. */
export function thingsOf({ networks, leases, keys, disks, machines }: SiteContent, cluster: string) {
  const own = <T>(things: ReadonlyMap<string, T>) => [...things].filter(([key]) => key.startsWith(`${cluster}/`));
  return {
    network: networks.get(cluster),
    leases: [...leases].filter(([, lease]) => lease.cluster === cluster),
    keys: keys.get(cluster),
    disks: Object.fromEntries(own(disks)),
    machines: Object.fromEntries(own(machines)),
  };
}

/** Exactly what is wished for is there and runs, and the state says so. */
export function expectWhole(site: SiteContent, { clusterName, stack }: Tenant, wish: Wish): void {
  const things = thingsOf(site, clusterName);
  const { cluster } = stack;
  const shape = { cpus: wish.cpusPerNode, memory: wish.memoryPerNode };
  const computes = Array.from(
    { length: Math.ceil(wish.numCpus / wish.cpusPerNode) },
    (_, index) => [`compute-${index}`, shape] as const,
  );
  const nodes = new Map([["frontend", wish.frontend], ...computes]);
  const keysOfNodes = [...nodes.keys()].map((node) => `${clusterName}/${node}`);

  expect([...stack.state.keys()], "resources in the state").to.have.members(["claim", "cluster", ...nodes.keys()]);
  expect(Object.keys(things.machines), "machines").to.have.members(keysOfNodes);
  expect(Object.keys(things.disks), "disks").to.have.members(keysOfNodes);
  expect(
    things.leases.map(([ip]) => ip),
    "leases",
  ).to.deep.equal([cluster.plan.frontend.publicIp]);
  expect(things.keys, "keys").to.deep.equal(cluster.keys);
  expect(things.network, "record").to.deep.include({ plan: cluster.plan, publicKeys: [wish.publicKey] });
  expect(site.bases.get(cluster.imageRecord.frontend.digest), "base image").to.equal("whole");
  expect(cluster.ready, "cluster is ready").to.equal(true);

  for (const [node, wished] of nodes) {
    const machine = things.machines[`${clusterName}/${node}`];
    const outputs = stack.outputs(node);
    expect(machine, node).to.deep.include({ shape: wished, state: "running", autostart: true });
    expect(outputs, `state of ${node}`).to.deep.include({ ...wished, state: "running", ready: true });
    expect(machine?.macs[0], `MAC of ${node}`).to.equal(outputs.privateMac);
    expect(machine?.vcOut, `vc-out.xml of ${node}`).to.include(outputs.privateIp).and.include(wish.publicKey);
  }
  const frontendVcOut = things.machines[`${clusterName}/frontend`]?.vcOut;
  const known = new Set(frontendVcOut?.match(/compute-\d+/g));
  expect([...known], "computes in the frontend's vc-out.xml").to.have.members(computes.map(([name]) => name));
}

/** Nothing of the cluster is left, and no base image without a cluster. (One that lost its network still has disks.) */
export function expectNothingOf(site: SiteContent, clusterName: string): void {
  const nothing = { network: undefined, leases: [], keys: undefined, disks: {}, machines: {} };
  expect(thingsOf(site, clusterName), "left at the site").to.deep.equal(nothing);
  if (site.networks.size === 0 && site.disks.size === 0) {
    expect([...site.bases.keys()], "base images left at the site").to.deep.equal([]);
  }
}

/** A second `up` has nothing to do. */
export async function expectAtRest(world: World, tenant: Tenant, wish: Wish): Promise<void> {
  const before = thingsOf(world.site, tenant.clusterName);
  const { steps } = await tenant.up(wish);
  expect(tenant.stack.done, "what a second up does").to.deep.equal([]);
  expect(steps, "changes that a second up makes").to.equal(0);
  expect(thingsOf(world.site, tenant.clusterName)).to.deep.equal(before);
}
