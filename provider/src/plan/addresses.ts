import ipaddr from "ipaddr.js";

/** An IPv4 subnet. */
export interface Subnet {
  /** CIDR notation, network address first: `10.84.7.0/24`. */
  readonly cidr: string;
  readonly network: string;
  readonly netmask: string;
  readonly prefix: number;
}

/** The most addresses that one list of ranges may name; a longer one is surely a slip. */
const MOST_ADDRESSES = 65_536;

export function isIpv4(text: string): boolean {
  return ipaddr.IPv4.isValidFourPartDecimal(text);
}

export function isNetmask(text: string): boolean {
  return isIpv4(text) && ipaddr.IPv4.parse(text).prefixLengthFromSubnetMask() !== null;
}

export function toNumber(ip: string): number {
  return ipaddr.IPv4.parse(ip).octets.reduce((sum, octet) => sum * 256 + octet, 0);
}

export function fromNumber(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
}

/** @throws RangeError when the text isn't an IPv4 subnet in CIDR notation */
export function subnet(cidr: string): Subnet {
  if (!ipaddr.IPv4.isValidCIDRFourPartDecimal(cidr)) {
    throw new RangeError(`"${cidr}" is not a subnet in CIDR notation such as 198.51.100.0/24`);
  }
  const network = ipaddr.IPv4.networkAddressFromCIDR(cidr).toString();
  const prefix = ipaddr.IPv4.parseCIDR(cidr)[1];
  return { cidr: `${network}/${prefix}`, network, netmask: netmaskOf(prefix), prefix };
}

/** @throws RangeError when the netmask has holes */
export function subnetOf(ip: string, netmask: string): Subnet {
  const prefix = ipaddr.IPv4.parse(netmask).prefixLengthFromSubnetMask();
  if (prefix === null) {
    throw new RangeError(`"${netmask}" is not a netmask`);
  }
  return subnet(`${ip}/${prefix}`);
}

export function contains(net: Subnet, ip: string): boolean {
  return ipaddr.IPv4.parse(ip).match(ipaddr.IPv4.parse(net.network), net.prefix);
}

export function overlap(one: Subnet, other: Subnet): boolean {
  return one.prefix < other.prefix ? contains(one, other.network) : contains(other, one.network);
}

/** The address at a place of the subnet: 1 is the first host's, -1 the last one's, 0 the broadcast address. */
export function hostAt(net: Subnet, place: number): string {
  const size = 2 ** (32 - net.prefix);
  return fromNumber(toNumber(net.network) + (place > 0 ? place : size - 1 + place));
}

export function hostCount(net: Subnet): number {
  return Math.max(0, 2 ** (32 - net.prefix) - 2);
}

/** Whether a host of the subnet can have it: neither the network's own address nor the broadcast address. */
export function isHostOf(net: Subnet, ip: string): boolean {
  return contains(net, ip) && (net.prefix >= 31 || (ip !== net.network && ip !== hostAt(net, 0)));
}

/**
 * The addresses that a list names, in order, each once: single addresses, `first-last` ranges or CIDR (without network
 * and broadcast address).
 * @throws RangeError naming the item that is wrong
 */
export function addressesOf(list: readonly string[]): string[] {
  const addresses = new Set<string>();
  for (const item of list) {
    const [first, last] = bounds(item);
    if (last - first + 1 + addresses.size > MOST_ADDRESSES) {
      throw new RangeError(`"${item}" makes more than ${MOST_ADDRESSES} addresses`);
    }
    for (let value = first; value <= last; value++) {
      addresses.add(fromNumber(value));
    }
  }
  return [...addresses];
}

function bounds(item: string): [number, number] {
  if (isIpv4(item)) {
    return [toNumber(item), toNumber(item)];
  }
  if (item.includes("/")) {
    const net = subnet(item);
    return net.prefix >= 31
      ? [toNumber(net.network), toNumber(net.network) + 2 ** (32 - net.prefix) - 1]
      : [toNumber(hostAt(net, 1)), toNumber(hostAt(net, -1))];
  }
  const ends = item.split("-");
  const [first, last] = ends;
  if (ends.length !== 2 || !first || !last || !isIpv4(first) || !isIpv4(last) || toNumber(first) > toNumber(last)) {
    throw new RangeError(`"${item}" is not an address, a first-last range or a subnet`);
  }
  return [toNumber(first), toNumber(last)];
}

/**
 * The MAC of the NIC that has this address. It is a function of the address, so that no two NICs can get the same
 * as long as no two get the same address. `02` says that it is administered locally.
 */
export function macOf(ip: string): string {
  return ["02", "76", ...ipaddr.IPv4.parse(ip).octets.map((octet) => octet.toString(16).padStart(2, "0"))].join(":");
}

function netmaskOf(prefix: number): string {
  return ipaddr.IPv4.subnetMaskFromPrefixLength(prefix).toString();
}
