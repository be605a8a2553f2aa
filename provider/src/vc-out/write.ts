import { XMLBuilder } from "fast-xml-parser";
import { subnetOf } from "../plan/addresses";
import {
  type ComputeVcOut,
  DEFAULT_MTU,
  type Dialect,
  type Dns,
  type FrontendVcOut,
  NETWORK_NAME,
  type Nic,
  PRIVATE,
  PUBLIC,
  type VcOut,
} from "./vc-out";

/**
 * The text of a vc-out.xml. Dialect A has no room for what a listed compute has beyond its private address: each
 * compute's own file says that.
 * @throws RangeError when a network's name can't be an element's
 */
export function writeVcOut(vcOut: VcOut, dialect: Dialect): string {
  const nodes = vcOut.role === "frontend" ? FRONTEND[dialect](vcOut) : COMPUTE[dialect](vcOut);
  const vc = { ...nodes, network: { dns: dnsElement(vcOut.dns) }, key: vcOut.keys };
  return `<?xml version="1.0" ?>\n${builder.build({ vc })}`;
}

const builder = new XMLBuilder({
  ignoreAttributes: false,
  attributeNamePrefix: "@",
  format: true,
  suppressEmptyNode: true,
});

const FRONTEND: Readonly<Record<Dialect, (vcOut: FrontendVcOut) => object>> = {
  A: ({ fqdn, name, gateway, nics, computes }) => ({
    frontend: elementsA(nics, PUBLIC, { "@fqdn": fqdn, "@name": name, "@gw": gateway }),
    compute: {
      "@count": computes.length,
      node: computes.map(({ name, cpus, nics }) => {
        const { ip, mac } = nicOf(nics, PRIVATE);
        return { "@name": name, "@mac": mac.toLowerCase(), "@ip": ip, "@cpus": cpus };
      }),
    },
  }),
  B: ({ fqdn, name, gateway, nics, computes }) => ({
    frontend: { "@fqdn": fqdn, "@gw": gateway, "@name": name, ...elementsB(nics) },
    compute: {
      "@count": computes.length,
      node: computes.map(({ name, cpus, gateway, nics }) => ({
        "@cpus": cpus,
        "@gw": gateway,
        "@name": name,
        ...elementsB(nics),
      })),
    },
  }),
};

const COMPUTE: Readonly<Record<Dialect, (vcOut: ComputeVcOut) => object>> = {
  A: ({ frontendFqdn, name, gateway, nics }) => ({
    frontend: { public: { "@fqdn": frontendFqdn } },
    compute: elementsA(nics, PRIVATE, { "@fqdn": name, "@gw": gateway }),
  }),
  B: ({ frontendFqdn, name, gateway, nics }) => ({
    frontend: { "@fqdn": frontendFqdn },
    compute: { "@gw": gateway, "@name": name, ...elementsB(nics) },
  }),
};

/** In dialect A the NIC of the node's main network carries its names and its gateway too. */
function elementsA(nics: readonly Nic[], main: string, names: object): object {
  const elements = Object.fromEntries(
    nics.map(({ network, ip, mac, mtu, netmask }) => [
      elementName(network),
      {
        ...(network === main && names),
        "@ip": ip,
        "@netmask": netmask,
        "@mac": mac.toLowerCase(),
        ...(mtu !== DEFAULT_MTU && { "@mtu": mtu }),
      },
    ]),
  );
  return { [main]: names, ...elements };
}

function elementsB(nics: readonly Nic[]): object {
  return Object.fromEntries(
    nics.map(({ network, ip, mac, mtu, netmask }) => [
      elementName(network),
      {
        "@ip": ip,
        "@mac": mac.toLowerCase(),
        "@mtu": mtu,
        "@netmask": netmask,
        "@subnet": subnetOf(ip, netmask).network,
      },
    ]),
  );
}

function elementName(network: string): string {
  if (!NETWORK_NAME.test(network)) {
    throw new RangeError(`a network can't be called "${network}" in a vc-out.xml`);
  }
  return network;
}

function nicOf(nics: readonly Nic[], network: string): Nic {
  const nic = nics.find((one) => one.network === network);
  if (!nic) {
    throw new RangeError(`there is no ${network} network`);
  }
  return nic;
}

function dnsElement({ servers, search, domain }: Dns): object {
  return { "@domain": domain, "@ip": servers.join(","), "@search": search };
}
