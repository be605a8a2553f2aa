import { subnetOf } from "../../plan/addresses";
import type { ClusterPlan, NodePlan, PrivateNetwork, PublicNetwork } from "../../plan/plan";
import { type ComputeVcOut, type FrontendVcOut, type ListedNode, type Nic, PRIVATE, PUBLIC } from "../../vc-out/vc-out";
import { NotSupported, SiteFailure } from "../errors";

const NONE = "none";

/**
 * What the site has decided: the plan with the names, addresses, MACs and cpus of its vc-out.xml. A node that it had
 * decided on before is told by its host name; new ones take the places that are left, in the site's order, and computes
 * for which there is no machine are not allocated.
 * @param held the plan as it was decided before, if it was
 */
export function learn(planned: ClusterPlan, said: FrontendVcOut, held: ClusterPlan | undefined): ClusterPlan {
  const { frontend, computes } = planned;
  refuseTooMany(said, computes.length);
  const places = placesOf(said.computes, computes.length, held);
  const [inner, outer] = [nicOf(said.nics, PRIVATE), nicOf(said.nics, PUBLIC)];
  return {
    ...planned,
    frontend: {
      ...frontend,
      hostName: said.name,
      fqdn: said.fqdn,
      privateIp: inner.ip,
      privateMac: inner.mac,
      publicIp: outer.ip,
      publicMac: outer.mac,
    },
    computes: computes.map((compute, index) => computePlan(compute, places.get(index))),
    privateNetwork: privateNetwork(inner),
    publicNetwork: publicNetwork(outer, said),
  };
}

/** @throws SiteFailure where a compute's own file says something else than its frontend's */
export function refuseOtherCompute(listed: ListedNode, own: ComputeVcOut, file: string): void {
  const [theirs, its] = [nicOf(listed.nics, PRIVATE), nicOf(own.nics, PRIVATE)];
  if (own.name !== listed.name || its.ip !== theirs.ip || its.mac !== theirs.mac) {
    throw new SiteFailure(
      `the site's file ${file}`,
      `is of ${own.name} with ${its.ip} and ${its.mac}, and the frontend's lists ${listed.name} with ${theirs.ip} and ${theirs.mac}`,
      "The site's program allocate has to be mended",
    );
  }
}

function refuseTooMany(said: FrontendVcOut, planned: number): void {
  if (said.computes.length > planned) {
    const most = Math.max(...said.computes.map(({ cpus }) => cpus));
    throw new NotSupported(
      `cpusPerNode: the site gave ${said.computes.length} computes`,
      `${planned} were planned`,
      `Set cpusPerNode to ${most}, as this site gives each`,
    ).about("cpusPerNode");
  }
}

function placesOf(
  listed: readonly ListedNode[],
  count: number,
  held: ClusterPlan | undefined,
): Map<number, ListedNode> {
  const formerly = new Map((held?.computes ?? []).map(({ hostName }, index) => [hostName, index]));
  const places = new Map<number, ListedNode>();
  const fresh: ListedNode[] = [];
  for (const node of listed) {
    const place = formerly.get(node.name);
    if (place !== undefined && place >= count) {
      throw new SiteFailure(
        "the site's program reconfigure",
        `kept ${node.name} and took another compute away: those that go are the last`,
        "The site's program has to be mended",
      );
    }
    if (place === undefined) {
      fresh.push(node);
    } else {
      places.set(place, node);
    }
  }
  for (const node of fresh) {
    const free = Array.from({ length: count }, (_, index) => index).find((index) => !places.has(index));
    places.set(free ?? count, node);
  }
  return places;
}

function computePlan({ name, memory, cpus }: NodePlan, listed: ListedNode | undefined): NodePlan {
  if (!listed) {
    return { name, cpus, memory, privateIp: NONE, privateMac: NONE, allocated: false };
  }
  const { ip, mac } = nicOf(listed.nics, PRIVATE);
  return { name, cpus: listed.cpus, memory, privateIp: ip, privateMac: mac, hostName: listed.name };
}

function privateNetwork({ ip, netmask }: Nic): PrivateNetwork {
  return { cidr: subnetOf(ip, netmask).cidr };
}

function publicNetwork({ ip, netmask }: Nic, { gateway, dns, fqdn }: FrontendVcOut): PublicNetwork {
  const [, ...domain] = fqdn.split(".");
  return { name: PUBLIC, cidr: subnetOf(ip, netmask).cidr, gateway, dns: dns.servers, domain: domain.join(".") };
}

function nicOf(nics: readonly Nic[], network: string): Nic {
  const nic = nics.find((one) => one.network === network);
  if (!nic) {
    throw new RangeError(`there is no ${network} network`);
  }
  return nic;
}
