import type { Shape } from "../driver";
import { NoCapacity } from "../errors";

/** A container with what other machines leave of it. */
export interface Room {
  readonly name: string;
  readonly cpus: number;
  /** MiB. Infinity where nobody has said how much it has. */
  readonly memory: number;
  /** Whether it has a NIC on the public network: a frontend without one gets no public NIC either. */
  readonly isPublic: boolean;
}

export interface PlacedNode extends Pick<Shape, "cpus" | "memory"> {
  readonly node: string;
}

/**
 * A container for each node: the frontend first, which not all can take, then the largest; each where most cpus are left, so
 * that a cluster is spread.
 * @param silent hosts that don't answer, for the message
 * @throws NoCapacity naming the node that fits nowhere
 */
export function place(
  nodes: readonly PlacedNode[],
  rooms: readonly Room[],
  silent: ReadonlySet<string>,
): Map<string, string> {
  const left = new Map(rooms.flatMap((room) => (silent.has(room.name) ? [] : [[room.name, { ...room }]])));
  const placed = new Map<string, string>();
  const isFrontend = ({ node }: PlacedNode) => Number(node === "frontend");
  const inOrder = [...nodes].sort(
    (one, other) => isFrontend(other) - isFrontend(one) || other.cpus - one.cpus || other.memory - one.memory,
  );
  for (const { node, cpus, memory } of inOrder) {
    const room = [...left.values()]
      .filter((one) => one.cpus >= cpus && one.memory >= memory && (one.isPublic || node !== "frontend"))
      .sort((one, other) => other.cpus - one.cpus || (one.name < other.name ? -1 : 1))[0];
    if (!room) {
      throw new NoCapacity(
        `${node} asks for ${cpus} cpus and ${memory} MiB`,
        `no container has that much left (${describe(rooms, left, silent)})`,
        "Lower cpusPerNode, numCpus or memoryPerNode, or wait until others have gone",
      ).about("numCpus");
    }
    left.set(room.name, { ...room, cpus: room.cpus - cpus, memory: room.memory - memory });
    placed.set(node, room.name);
  }
  return placed;
}

function describe(rooms: readonly Room[], left: ReadonlyMap<string, Room>, silent: ReadonlySet<string>): string {
  const words = rooms.map(({ name }) => `${name}: ${silent.has(name) ? "no answer" : `${left.get(name)?.cpus} cpus`}`);
  return words.join(", ") || "there is none";
}

/**
 * The lowest VLAN that may be used and isn't.
 * @throws NoCapacity
 */
export function freeVlan(allowed: readonly number[], used: ReadonlySet<number>): number {
  const vlan = allowed.find((one) => !used.has(one));
  if (vlan === undefined) {
    throw new NoCapacity(
      "no VLAN is left",
      `all ${allowed.length} that the site may use are taken`,
      "Destroy a cluster, or give the site more vlans",
    ).about("site");
  }
  return vlan;
}
