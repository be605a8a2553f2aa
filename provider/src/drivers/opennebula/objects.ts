import { z } from "zod";
import { element, elements, parseXml, textOf, type XmlElement } from "../../images/xml";
import { fromNumber, toNumber } from "../../plan/addresses";
import type { ClusterRecord, Mark } from "../driver";
import { SiteFailure } from "../errors";
import { base64, fromBase64, type TemplateGroup } from "./template-text";
import { MOST_BYTES } from "./xml-rpc";

/** What every object has. */
export interface OneObject {
  readonly id: number;
  readonly name: string;
  /** The user that owns it. */
  readonly uid: number;
  /** Single attributes of its template, those of users among them. */
  readonly attributes: ReadonlyMap<string, string>;
}

export interface Lease {
  readonly ip: string;
  /** The machine that has it; -1 where it is held back. */
  readonly vm?: number;
  /** The reservation that has it. */
  readonly vnet?: number;
}

export interface AddressRange {
  readonly id: number;
  readonly ip: string;
  readonly mac: string;
  readonly size: number;
  readonly used: number;
  /** As many of them as this user may see. */
  readonly leases: readonly Lease[];
  /** What it says of itself, `GATEWAY` for instance: that counts more than what its network says. */
  readonly attributes: ReadonlyMap<string, string>;
}

export interface Vnet extends OneObject {
  readonly state: number;
  /** Of which network it is a reservation. */
  readonly parent?: number;
  readonly ranges: readonly AddressRange[];
}

export const VNET = { LOCK_CREATE: 2, READY: 1, LOCK_DELETE: 3, ERROR: 5, UPDATE_FAILURE: 6 } as const;

export interface Image extends OneObject {
  readonly state: number;
  readonly persistent: boolean;
  /** MiB. */
  readonly size: number;
  readonly vms: readonly number[];
}

export const IMAGE = {
  READY: 1,
  USED: 2,
  LOCKED: 4,
  ERROR: 5,
  DELETE: 7,
  USED_PERS: 8,
  LOCKED_USED: 9,
  LOCKED_USED_PERS: 10,
} as const;

export interface Nic {
  readonly networkId: number;
  readonly ip: string;
  readonly mac: string;
}

export interface Disk {
  readonly id: number;
  readonly imageId: number;
  /** MiB. */
  readonly size: number;
}

export interface Vm extends OneObject {
  readonly state: number;
  readonly lcmState: number;
  readonly cpus: number;
  /** Physical cpus that it is promised. */
  readonly cpuShare: number;
  /** MiB. */
  readonly memory: number;
  /** In the order of the NICs. */
  readonly nics: readonly Nic[];
  readonly disks: readonly Disk[];
  readonly context: ReadonlyMap<string, string>;
}

export interface VmTemplate extends OneObject {}

export interface Datastore extends OneObject {
  /** MiB. */
  readonly free: number;
  readonly isForImages: boolean;
}

// ── Reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** @throws SiteFailure for what isn't such a pool */
function membersOf(xml: string, pool: string, kind: string): readonly XmlElement[] {
  try {
    const root = parseXml(xml, MOST_BYTES);
    if (!(pool in root)) {
      throw new RangeError(`has no ${pool}`);
    }
    // An empty pool is an empty text.
    return elements(element(root, pool), kind);
  } catch (error) {
    throw new SiteFailure("OpenNebula", `its list of objects ${(error as Error).message}`);
  }
}

export function parseVms(xml: string): Vm[] {
  return membersOf(xml, "VM_POOL", "VM").map(vmOf);
}

export function parseVnets(xml: string): Vnet[] {
  return membersOf(xml, "VNET_POOL", "VNET").map(vnetOf);
}

export function parseVnet(xml: string): Vnet {
  return vnetOf(rootOf(xml, "VNET"));
}

export function parseImages(xml: string): Image[] {
  return membersOf(xml, "IMAGE_POOL", "IMAGE").map(imageOf);
}

export function parseImage(xml: string): Image {
  return imageOf(rootOf(xml, "IMAGE"));
}

export function parseTemplates(xml: string): VmTemplate[] {
  return membersOf(xml, "VMTEMPLATE_POOL", "VMTEMPLATE").map(objectOf);
}

export function parseVnetTemplates(xml: string): OneObject[] {
  return membersOf(xml, "VNTEMPLATE_POOL", "VNTEMPLATE").map(objectOf);
}

export function parseDatastores(xml: string): Datastore[] {
  return membersOf(xml, "DATASTORE_POOL", "DATASTORE").map((store) => ({
    ...objectOf(store),
    free: numberAt(store, "FREE_MB"),
    isForImages: numberAt(store, "TYPE") === 0,
  }));
}

export function rootOf(xml: string, name: string): XmlElement {
  try {
    const root = element(parseXml(xml, MOST_BYTES), name);
    if (root) {
      return root;
    }
  } catch (error) {
    throw new SiteFailure("OpenNebula", `its answer ${(error as Error).message}`);
  }
  throw new SiteFailure("OpenNebula", `its answer has no ${name}`);
}

function vmOf(vm: XmlElement): Vm {
  const template = element(vm, "TEMPLATE");
  return {
    ...objectOf(vm),
    attributes: attributesOf(element(vm, "USER_TEMPLATE")),
    state: numberAt(vm, "STATE"),
    lcmState: numberAt(vm, "LCM_STATE"),
    // Without VCPU a machine has one.
    cpus: numberAt(template, "VCPU") || 1,
    cpuShare: numberAt(template, "CPU"),
    memory: numberAt(template, "MEMORY"),
    nics: elements(template, "NIC")
      .toSorted((one, other) => numberAt(one, "NIC_ID") - numberAt(other, "NIC_ID"))
      .map((nic) => ({
        networkId: idAt(nic, "NETWORK_ID") ?? -1,
        ip: textAt(nic, "IP"),
        mac: textAt(nic, "MAC").toLowerCase(),
      })),
    disks: elements(template, "DISK").map((disk) => ({
      id: numberAt(disk, "DISK_ID"),
      imageId: idAt(disk, "IMAGE_ID") ?? -1,
      size: numberAt(disk, "SIZE"),
    })),
    context: attributesOf(element(template, "CONTEXT")),
  };
}

function vnetOf(vnet: XmlElement): Vnet {
  const parent = idAt(vnet, "PARENT_NETWORK_ID");
  return {
    ...objectOf(vnet),
    state: numberAt(vnet, "STATE"),
    ...(parent !== undefined && { parent }),
    ranges: elements(element(vnet, "AR_POOL"), "AR")
      .filter((range) => textAt(range, "IP") !== "")
      .map((range) => ({
        id: numberAt(range, "AR_ID"),
        ip: textAt(range, "IP"),
        mac: textAt(range, "MAC").toLowerCase(),
        size: numberAt(range, "SIZE"),
        used: numberAt(range, "USED_LEASES"),
        leases: [
          ...elements(element(range, "LEASES"), "LEASE").map(leaseOf),
          ...storedLeases(textAt(range, "IP"), textAt(range, "ALLOCATED")),
        ],
        attributes: attributesOf(range),
      })),
  };
}

const VM_KIND = 0x10n;
const VNET_KIND = 0x40n;

/**
 * A list of networks has no leases, but the ranges as OpenNebula stores them: the taken places, each with what has it (its
 * kind in the upper half). So there is also what single networks hide from a plain user.
 */
function storedLeases(first: string, allocated: string): Lease[] {
  const numbers = allocated.split(/\s+/).filter((text) => /^\d+$/.test(text));
  const leases: Lease[] = [];
  for (let at = 0; at + 1 < numbers.length; at += 2) {
    const [place, value] = [Number(numbers[at]), BigInt(numbers[at + 1] ?? 0)];
    const [kind, id] = [value >> 32n, Number(BigInt.asIntN(32, value))];
    const holder = kind === VNET_KIND ? { vnet: id } : kind === VM_KIND ? { vm: id } : {};
    leases.push({ ip: fromNumber(toNumber(first) + place), ...holder });
  }
  return leases;
}

function leaseOf(lease: XmlElement): Lease {
  const [vm, vnet] = [idAt(lease, "VM"), idAt(lease, "VNET")];
  return { ip: textAt(lease, "IP"), ...(vm !== undefined && { vm }), ...(vnet !== undefined && { vnet }) };
}

function imageOf(image: XmlElement): Image {
  return {
    ...objectOf(image),
    state: numberAt(image, "STATE"),
    persistent: textAt(image, "PERSISTENT") === "1",
    size: numberAt(image, "SIZE"),
    vms: elements(element(image, "VMS"), "ID").map((id) => Number(textOf(id))),
  };
}

function objectOf(object: XmlElement): OneObject {
  return {
    id: numberAt(object, "ID"),
    name: textAt(object, "NAME"),
    uid: numberAt(object, "UID"),
    attributes: attributesOf(element(object, "TEMPLATE")),
  };
}

function attributesOf(template: XmlElement | undefined): Map<string, string> {
  const names = Object.keys(template ?? {}).filter((name) => typeof template?.[name] === "string");
  return new Map(names.map((name) => [name, textAt(template, name)]));
}

export function textAt(parent: XmlElement | undefined, ...path: readonly string[]): string {
  return textOf(element(parent, ...path));
}

/** What is absent, empty or no number counts as 0. */
export function numberAt(parent: XmlElement | undefined, ...path: readonly string[]): number {
  return Number(textAt(parent, ...path)) || 0;
}

function idAt(parent: XmlElement | undefined, name: string): number | undefined {
  const text = textAt(parent, name);
  return /^-?\d+$/.test(text) ? Number(text) : undefined;
}

// ── Our tags ───────────────────────────────────────────────────────────────────────────────────────────────────────

export const TAG = {
  /** The ownership mark: base64 of JSON, since its owner may have any name. */
  mark: "VC_MARK",
  /** These are for people, and for a site's own tools. */
  cluster: "VC_CLUSTER",
  role: "VC_ROLE",
  index: "VC_INDEX",
  /** A cluster's record, base64 of JSON, on its private network. */
  record: "VC_RECORD",
  keys: "VC_KEYS",
  lock: "VC_LOCK",
  /** By which a caller whose connection broke finds what it made. */
  nonce: "VC_NONCE",
  base: "VC_BASE",
  /** Whether a machine has had the disk. */
  used: "VC_USED",
  vcOutDigest: "VC_OUT_DIGEST",
  vcOutWaits: "VC_OUT_WAITS",
} as const;

const mark = z.object({
  version: z.literal(1),
  owner: z.string(),
  organization: z.string(),
  project: z.string(),
  stack: z.string(),
  cluster: z.string(),
  createdAt: z.string(),
  expiresAt: z.string().optional(),
});

export function markOf({ attributes }: Pick<OneObject, "attributes">): Mark | undefined {
  const parsed = mark.safeParse(jsonIn(attributes.get(TAG.mark)));
  return parsed.success ? (parsed.data as Mark) : undefined;
}

/** Absent where there is none, or it is damaged. */
export function recordOf({ attributes }: Pick<OneObject, "attributes">): ClusterRecord | undefined {
  return jsonIn(attributes.get(TAG.record)) as ClusterRecord | undefined;
}

export function markTags(cluster: string, owned: Mark | undefined): TemplateGroup {
  return { [TAG.cluster]: cluster, ...(owned && { [TAG.mark]: jsonTag(owned) }) };
}

export function jsonTag(value: unknown): string {
  return base64(JSON.stringify(value));
}

export function jsonIn(tag: string | undefined): unknown {
  try {
    return tag ? JSON.parse(fromBase64(tag)) : undefined;
  } catch {
    return undefined;
  }
}
