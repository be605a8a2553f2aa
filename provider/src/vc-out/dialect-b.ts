import { XMLBuilder } from "fast-xml-parser";
import { subnet } from "../plan/addresses";
import type { ClusterPlan, NodePlan } from "../plan/plan";

/**
 * `/root/vc-out.xml` in the dialect that PRAGMA images have read since September 2017 (pragma_boot's own drivers write
 * it, vc-out-parser and the dynip roll read it). MACs are in lower case: the readers compare them as text.
 */

const MTU = 1500;

const builder = new XMLBuilder({
  ignoreAttributes: false,
  attributeNamePrefix: "@",
  format: true,
  suppressEmptyNode: true,
});

/** What a frontend's file says of a compute. */
export type ListedCompute = Pick<NodePlan, "name" | "cpus" | "privateIp" | "privateMac">;

/** The file of a frontend: itself, every compute, DNS and the keys that may log in. */
export function frontendVcOut(
  plan: Omit<ClusterPlan, "computes"> & { readonly computes: readonly ListedCompute[] },
  keys: readonly string[],
): string {
  const { frontend, privateNetwork, publicNetwork } = plan;
  return render({
    frontend: {
      "@fqdn": frontend.fqdn,
      "@gw": publicNetwork.gateway,
      "@name": frontend.name,
      private: nic(frontend.privateIp, frontend.privateMac, privateNetwork.cidr),
      public: nic(frontend.publicIp, frontend.publicMac, publicNetwork.cidr),
    },
    compute: {
      "@count": plan.computes.length,
      node: plan.computes.map((compute) => ({
        "@cpus": compute.cpus,
        "@gw": frontend.privateIp,
        "@name": compute.name,
        private: nic(compute.privateIp, compute.privateMac, privateNetwork.cidr),
      })),
    },
    ...common(plan, keys),
  });
}

/** The file of one compute: itself, the frontend's name, DNS and the keys. */
export function computeVcOut(plan: ClusterPlan, compute: NodePlan, keys: readonly string[]): string {
  return render({
    frontend: { "@fqdn": plan.frontend.fqdn },
    compute: {
      "@gw": plan.frontend.privateIp,
      "@name": compute.name,
      private: nic(compute.privateIp, compute.privateMac, plan.privateNetwork.cidr),
    },
    ...common(plan, keys),
  });
}

function nic(ip: string, mac: string, cidr: string) {
  const { netmask, network } = subnet(cidr);
  return { "@ip": ip, "@mac": mac.toLowerCase(), "@mtu": MTU, "@netmask": netmask, "@subnet": network };
}

function common(plan: Pick<ClusterPlan, "publicNetwork">, keys: readonly string[]) {
  return {
    network: { dns: { "@domain": "", "@ip": plan.publicNetwork.dns.join(","), "@search": "local" } },
    key: keys,
  };
}

function render(vc: object): string {
  return `<?xml version="1.0" ?>\n${builder.build({ vc })}`;
}
