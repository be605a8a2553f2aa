/** What the provider fills in of a node; the SDK makes an output only of what it is given, `undefined` included. */
export const NODE_OUTPUTS = {
  cpus: undefined,
  memory: undefined,
  privateIp: undefined,
  ready: undefined,
} as const;

/** A node says only that it is off: what is on by default takes no room in the state. */
export function powerOf(power: "on" | "off"): { power?: "off" } {
  return power === "off" ? { power } : {};
}
