import { toNumber } from "../../plan/addresses";
import type { AddressRange } from "./objects";

/**
 * The MAC that goes with an address of a range: the range's own, as many further as the address is from its first. So MACs
 * are known before any machine is.
 */
export function macIn(range: Pick<AddressRange, "ip" | "mac">, ip: string): string {
  const first = BigInt(`0x${range.mac.replaceAll(":", "")}`);
  const mac = first + BigInt(toNumber(ip) - toNumber(range.ip));
  return (mac.toString(16).padStart(12, "0").match(/../g) ?? []).join(":");
}

export function rangeOf<T extends Pick<AddressRange, "ip" | "size">>(ranges: readonly T[], ip: string): T | undefined {
  return ranges.find((range) => {
    const place = toNumber(ip) - toNumber(range.ip);
    return place >= 0 && place < range.size;
  });
}
