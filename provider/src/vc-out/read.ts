import { attribute, elements, parseXml, textOf, type XmlElement } from "../images/xml";
import { contains, isIpv4, isNetmask, subnetOf } from "../plan/addresses";
import { duplicatesIn } from "../plan/duplicates";
import { isHostName } from "../plan/names";
import {
  type ComputeVcOut,
  DEFAULT_MTU,
  type Dialect,
  type Dns,
  type FrontendVcOut,
  type ListedNode,
  NETWORK_NAME,
  type Nic,
  PRIVATE,
  PUBLIC,
  type VcOut,
} from "./vc-out";

/**
 * Reads a vc-out.xml in either dialect. What dialect A doesn't say of a listed compute (its gateway, the netmask of its
 * private network) follows from the frontend.
 * @throws RangeError that names the element and its value, for people
 */
export function readVcOut(text: string): { readonly dialect: Dialect; readonly vcOut: VcOut } {
  const vc = child({ path: "", element: parseXml(text) }, "vc");
  const dialect = "@fqdn" in child(vc, "frontend").element ? "B" : "A";
  const isCompute = PRIVATE in child(vc, "compute").element;
  const vcOut = isCompute ? computeOf(vc, dialect) : frontendOf(vc, dialect);
  refuseTwins(vcOut.role === "frontend" ? [vcOut, ...vcOut.computes] : [vcOut]);
  return { dialect, vcOut };
}

/** An element, and how to name it in messages. */
interface Place {
  readonly path: string;
  readonly element: XmlElement;
}

function frontendOf(vc: Place, dialect: Dialect): FrontendVcOut {
  const frontend = child(vc, "frontend");
  const named = dialect === "A" ? child(frontend, PUBLIC) : frontend;
  const fqdn = hostName(named, "fqdn");
  const [first = fqdn] = fqdn.split(".");
  const nics = nicsOf(frontend);
  nicOn(PUBLIC, nics, frontend);
  return {
    role: "frontend",
    fqdn,
    // Files of before 2015 have none.
    name: hostName(named, "name", dialect === "A" ? first : undefined),
    gateway: address(named, "gw"),
    nics,
    computes: computesOf(child(vc, "compute"), dialect, nicOn(PRIVATE, nics, frontend)),
    dns: dnsOf(vc),
    keys: keysOf(vc),
  };
}

function computeOf(vc: Place, dialect: Dialect): ComputeVcOut {
  const [frontend, compute] = [child(vc, "frontend"), child(vc, "compute")];
  const named = dialect === "A" ? child(compute, PRIVATE) : compute;
  return {
    role: "compute",
    frontendFqdn: hostName(dialect === "A" ? child(frontend, PUBLIC) : frontend, "fqdn"),
    name: hostName(named, dialect === "A" ? "fqdn" : "name"),
    gateway: address(named, "gw"),
    nics: nicsOf(compute),
    dns: dnsOf(vc),
    keys: keysOf(vc),
  };
}

function computesOf(compute: Place, dialect: Dialect, frontend: Nic): ListedNode[] {
  const nodes = elements(compute.element, "node").map((element, index) => ({
    path: `${compute.path}/node[${index + 1}]`,
    element,
  }));
  const count = value(compute, "count", String(nodes.length));
  if (count !== String(nodes.length)) {
    throw new RangeError(`${compute.path}/@count is "${count}", and there are ${nodes.length} nodes`);
  }
  return nodes.map((node) => {
    const named = { name: hostName(node, "name"), cpus: wholeNumber(node, "cpus", 1, [1, 4096]) };
    if (dialect === "A") {
      const { network, mtu, netmask } = frontend;
      const nic = { network, ip: address(node, "ip"), mac: macAddress(node), mtu, netmask };
      return { ...named, gateway: frontend.ip, nics: [nic] };
    }
    const nics = nicsOf(node);
    nicOn(PRIVATE, nics, node);
    return { ...named, gateway: address(node, "gw"), nics };
  });
}

/** Each child element is a network; private and public come first, in whichever order the file has them. */
function nicsOf(node: Place): Nic[] {
  const present = Object.keys(node.element).filter((name) => NETWORK_NAME.test(name));
  const networks = new Set([...[PRIVATE, PUBLIC].filter((name) => present.includes(name)), ...present]);
  return [...networks].map((network) => {
    const place = child(node, network);
    const ip = address(place, "ip");
    const netmask = value(place, "netmask");
    if (!isNetmask(netmask)) {
      throw wrong(place, "netmask", netmask, "a netmask");
    }
    const subnet = value(place, "subnet", subnetOf(ip, netmask).network);
    if (!isIpv4(subnet) || !contains(subnetOf(subnet, netmask), ip)) {
      throw new RangeError(`${place.path}/@ip is ${ip}, outside its subnet "${subnet}"`);
    }
    return { network, ip, mac: macAddress(place), mtu: wholeNumber(place, "mtu", DEFAULT_MTU, [68, 65_535]), netmask };
  });
}

function nicOn(network: string, nics: readonly Nic[], node: Place): Nic {
  const nic = nics.find((one) => one.network === network);
  if (!nic) {
    throw new RangeError(`${node.path}/${network} is missing`);
  }
  return nic;
}

function dnsOf(vc: Place): Dns {
  const dns = child(child(vc, "network"), "dns");
  const servers = value(dns, "ip")
    .split(/[\s,]+/)
    .filter(Boolean);
  const bad = servers.find((server) => !isIpv4(server));
  if (bad !== undefined) {
    throw wrong(dns, "ip", bad, "an IPv4 address");
  }
  return { servers, search: domains(dns, "search"), domain: domains(dns, "domain") };
}

/** One element may hold several, a line each. */
function keysOf(vc: Place): string[] {
  return elements(vc.element, "key")
    .flatMap((key) => textOf(key).split(/[\r\n]+/))
    .map((key) => key.trim())
    .filter(Boolean);
}

function refuseTwins(nodes: ReadonlyArray<{ readonly name: string; readonly nics: readonly Nic[] }>): void {
  const nics = nodes.flatMap((node) => node.nics);
  const [twin] = [nodes.map(({ name }) => name), nics.map(({ ip }) => ip), nics.map(({ mac }) => mac)].flatMap(
    duplicatesIn,
  );
  if (twin !== undefined) {
    throw new RangeError(`${twin} is there twice`);
  }
}

// ── Elements and attributes ──────────────────────────────────────────────────────────────────────────────────────────

function child({ path, element }: Place, name: string): Place {
  const [found, ...more] = elements(element, name);
  const place = path && path !== "vc" ? `${path}/${name}` : name;
  if (!found || more.length > 0) {
    throw new RangeError(found ? `${place} is there ${more.length + 1} times` : `${place} is missing`);
  }
  return { path: place, element: found };
}

function value({ path, element }: Place, name: string, absent?: string): string {
  const text = attribute(element, name) ?? absent;
  if (text === undefined) {
    throw new RangeError(`${path}/@${name} is missing`);
  }
  return text;
}

function wrong({ path }: Place, name: string, text: string, what: string): RangeError {
  return new RangeError(`${path}/@${name} is ${JSON.stringify(text)}, which isn't ${what}`);
}

function hostName(place: Place, name: string, absent?: string): string {
  const text = value(place, name, absent);
  if (!isHostName(text)) {
    throw wrong(place, name, text, "a host name");
  }
  return text;
}

function address(place: Place, name: string): string {
  const text = value(place, name);
  if (!isIpv4(text)) {
    throw wrong(place, name, text, "an IPv4 address");
  }
  return text;
}

function macAddress(place: Place): string {
  const text = value(place, "mac");
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) {
    throw wrong(place, "mac", text, "a MAC address");
  }
  return text.toLowerCase();
}

function wholeNumber(place: Place, name: string, absent: number, [least, most]: readonly [number, number]): number {
  const text = value(place, name, String(absent));
  const number = Number(text);
  if (!/^\d+$/.test(text) || number < least || number > most) {
    throw wrong(place, name, text, `a whole number from ${least} to ${most}`);
  }
  return number;
}

function domains(place: Place, name: string): string {
  const text = value(place, name, "");
  if (!text.split(" ").every((domain) => domain === "" || isHostName(domain))) {
    throw wrong(place, name, text, "a domain");
  }
  return text;
}
