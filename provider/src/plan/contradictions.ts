import { Contradiction } from "../drivers/errors";
import { isHostOf, overlap, subnet } from "./addresses";
import { duplicatesIn } from "./duplicates";
import { isHostName } from "./names";
import { allocatedComputes, type ClusterPlan, nodesOf, SITE_DECIDES } from "./plan";

/**
 * What can't go together in a plan, each with the value: names that no host can have or that two would have, addresses
 * outside their networks or given twice. A plan of which nothing is said here makes a vc-out.xml that its readers take.
 */
export function contradictionsIn(planned: ClusterPlan): Contradiction[] {
  if (planned.privateNetwork.cidr === SITE_DECIDES) {
    return []; // What the site deals is looked at when it is known.
  }
  const computes = allocatedComputes(planned).filter(({ privateIp }) => privateIp !== SITE_DECIDES);
  const plan = { ...planned, computes };
  return [...badNames(plan), ...badAddresses(plan), ...twins(plan)];
}

function badNames(plan: ClusterPlan): Contradiction[] {
  const { frontend, publicNetwork } = plan;
  const names = nodesOf(plan).map(({ name }) => name);
  const wrong = names
    .filter((name) => !isHostName(name) || name === "localhost")
    .map((name) =>
      new Contradiction(
        `clusterName ${JSON.stringify(name)}`,
        "is no name for a host",
        "Take letters, digits and dashes, 63 at most, a letter first and no dash last",
      ).about("clusterName"),
    );
  if (wrong.length === 0 && !isHostName(frontend.fqdn)) {
    wrong.push(
      new Contradiction(
        `site.domain ${JSON.stringify(publicNetwork.domain)}`,
        `makes the frontend's name ${JSON.stringify(frontend.fqdn)}, which is none for a host`,
        "Between its dots take letters, digits and dashes, 63 at most, and 253 together",
      ).about("site"),
    );
  }
  return wrong;
}

function badAddresses(plan: ClusterPlan): Contradiction[] {
  const { frontend, publicNetwork } = plan;
  const [inner, outer] = [subnet(plan.privateNetwork.cidr), subnet(publicNetwork.cidr)];
  const found: Contradiction[] = [];
  for (const { name, privateIp } of nodesOf(plan)) {
    if (!isHostOf(inner, privateIp)) {
      found.push(
        new Contradiction(
          `the private address ${privateIp} of ${name}`,
          `is no host's in its network ${inner.cidr}`,
          "Destroy this cluster, or set site.privateRange back to what it was",
        ).about("site"),
      );
    }
  }
  if (!isHostOf(outer, frontend.publicIp)) {
    found.push(
      new Contradiction(
        `publicIp ${frontend.publicIp}`,
        `is no host's in network ${publicNetwork.name}, ${outer.cidr}`,
        "Choose another, or mend site.publicAddresses, site.gateway and site.netmask",
      ).about("publicIp"),
    );
  }
  if (!isHostOf(outer, publicNetwork.gateway)) {
    found.push(
      new Contradiction(
        `site.gateway ${publicNetwork.gateway}`,
        `is no host's in network ${publicNetwork.name}, ${outer.cidr}`,
        "Mend it, or say site.netmask too",
      ).about("site"),
    );
  }
  if (overlap(inner, outer)) {
    found.push(
      new Contradiction(
        `the private network ${inner.cidr}`,
        `overlaps network ${publicNetwork.name}, ${outer.cidr}`,
        "Give the site another privateRange",
      ).about("site"),
    );
  }
  return found;
}

function twins(plan: ClusterPlan): Contradiction[] {
  const { frontend, publicNetwork } = plan;
  const nodes = nodesOf(plan);
  const names = duplicatesIn(nodes.map(({ name }) => name)).map((name) =>
    new Contradiction(`clusterName ${name}`, "is the name of a compute too", "Choose another").about("clusterName"),
  );
  const ips = [...nodes.map(({ privateIp }) => privateIp), frontend.publicIp, publicNetwork.gateway];
  const macs = [...nodes.map(({ privateMac }) => privateMac), frontend.publicMac]
    .filter((mac) => mac !== SITE_DECIDES)
    .map((mac) => mac.toLowerCase());
  const addresses = [...duplicatesIn(ips), ...duplicatesIn(macs)].map((address) =>
    new Contradiction(
      `the address ${address}`,
      "is given twice in this cluster",
      "Leave publicIp out, or mend site.gateway and site.publicAddresses",
    ).about("site"),
  );
  return [...names, ...addresses];
}
