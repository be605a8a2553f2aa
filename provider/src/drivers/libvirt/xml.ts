import { createHash } from "node:crypto";
import { basename } from "node:path";
import { XMLBuilder } from "fast-xml-parser";
import { attribute, element, elements, parseXml, textOf, type XmlElement } from "../../images/xml";
import { toNumber } from "../../plan/addresses";
import type { FrontendPlan, NodePlan } from "../../plan/plan";
import type { LockHolder } from "../beat-locks";
import type { ClusterRecord, DiskImage, Mark } from "../driver";

/** Namespace and version of what we write into `<metadata>`. */
export const MARK_NAMESPACE = "urn:virtual-cluster:mark:1";

const builder = new XMLBuilder({ ignoreAttributes: false, attributeNamePrefix: "@", suppressEmptyNode: true });

// ── Marks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The mark of a machine. */
export interface NodeMark {
  readonly cluster: string;
  readonly node: string;
  readonly mark: Mark;
  readonly vcOutDigest: string;
  /** Whether the new vc-out.xml has to be written into the disk before the next boot. */
  readonly vcOutWaits?: true;
  /** Absent when the disk is whole; else what an interruption leaves to do: make it anew, or copy what replaces it. */
  readonly disk?: "filling" | "replacing";
}

function metadata(kind: string, content: object) {
  return { [`vc:${kind}`]: { "@xmlns:vc": MARK_NAMESPACE, "#text": JSON.stringify(content) } };
}

function readMetadata<T>(root: XmlElement | undefined, kind: string): T | undefined {
  const marked = element(root, "metadata", `vc:${kind}`);
  if (attribute(marked, "xmlns:vc") !== MARK_NAMESPACE) {
    return undefined;
  }
  try {
    return JSON.parse(textOf(marked)) as T;
  } catch {
    return undefined;
  }
}

export function nodeMetadataXml(mark: NodeMark): string {
  return builder.build({ node: JSON.stringify(mark) });
}

/** An id that follows from names: whoever defines the same object twice redefines it, and nobody else can. */
export function uuidOf(...names: readonly string[]): string {
  const hex = createHash("sha256").update(JSON.stringify(names)).digest("hex");
  const variant = ((Number.parseInt(hex[16] ?? "0", 16) & 0x3) | 0x8).toString(16);
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `5${hex.slice(13, 16)}`,
    variant + hex.slice(17, 20),
    hex.slice(20, 32),
  ].join("-");
}

function identityOf(mark: Pick<Mark, "owner" | "organization" | "project" | "stack" | "cluster">): string[] {
  return [mark.owner, mark.organization, mark.project, mark.stack, mark.cluster];
}

// ── Networks ───────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * A cluster's private network: a bridge of its own without any address of the host's. The bridge's name follows from the
 * subnet, and libvirt refuses a second network with the same bridge: that is the subnet's reservation.
 */
export function clusterNetworkXml(record: ClusterRecord): string {
  return builder.build({
    network: {
      name: record.name,
      uuid: uuidOf("network", record.name, ...identityOf(record.mark)),
      metadata: metadata("cluster", record),
      bridge: { "@name": bridgeOf(record.plan.privateNetwork.cidr), "@stp": "off", "@delay": "0" },
    },
  });
}

function bridgeOf(cidr: string, prefix = "vc"): string {
  const digits = toNumber(cidr.split("/")[0] ?? "").toString(16);
  return `${prefix}-${digits.padStart(8, "0")}`;
}

/** Name prefix of the networks on which NICs stay for the moment that it takes to plug them in again. */
export const REPLUG_PREFIX = "vc-replug-";

export function replugNetworkXml({ name, plan }: Pick<ClusterRecord, "name" | "plan">): string {
  const bridge = bridgeOf(plan.privateNetwork.cidr, "vcr");
  return builder.build({
    network: { name: `${REPLUG_PREFIX}${name}`, bridge: { "@name": bridge, "@stp": "off", "@delay": "0" } },
  });
}

/** Whose a public address is, and on which network. */
export interface Lease {
  readonly cluster: string;
  readonly mark: Mark;
  readonly network: string;
}

/** Name prefix of the networks that stand for leased public addresses. */
export const LEASE_PREFIX = "vc-lease-";

/**
 * The lease of a public address: a network definition that is never started. libvirt refuses a second one of the same
 * name with another uuid, and its metadata says at once whose it is.
 */
export function leaseXml(ip: string, { name, mark, plan }: Pick<ClusterRecord, "name" | "mark" | "plan">): string {
  const lease: Lease = { cluster: name, mark, network: plan.publicNetwork.name };
  return builder.build({
    network: {
      name: `${LEASE_PREFIX}${ip}`,
      uuid: uuidOf("lease", ip, name, ...identityOf(mark)),
      metadata: metadata("lease", lease),
      forward: { "@mode": "bridge" },
      bridge: { "@name": "vc-lease" },
    },
  });
}

// ── Locks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Name prefix of the networks that stand for locks. */
export const LOCK_PREFIX = "vc-lock-";

/** The lock of a cluster: a network definition that is never started, and that only its holder's UUID can define again. */
export function lockXml(cluster: string, uuid: string, holder: LockHolder): string {
  return builder.build({
    network: {
      name: `${LOCK_PREFIX}${cluster}`,
      uuid,
      metadata: metadata("lock", holder),
      forward: { "@mode": "bridge" },
      bridge: { "@name": "vc-lock" },
    },
  });
}

export interface ObservedNetwork {
  readonly name: string;
  readonly uuid: string;
  readonly cluster?: ClusterRecord;
  readonly lease?: Lease & { readonly ip: string };
  readonly lock?: LockHolder;
  /** The host's own addresses on it. */
  readonly addresses: ReadonlyArray<{ readonly address: string; readonly netmask: string }>;
  readonly hasDhcp: boolean;
  readonly dhcpRanges: ReadonlyArray<{ readonly start: string; readonly end: string }>;
  readonly dhcpHosts: ReadonlyArray<{ readonly ip: string; readonly name: string; readonly mac: string }>;
}

export function parseNetwork(xml: string): ObservedNetwork {
  const network = element(parseXml(xml), "network");
  const name = textOf(element(network, "name")) || String(network?.name ?? "");
  const cluster = readMetadata<ClusterRecord>(network, "cluster");
  const lease = readMetadata<Lease>(network, "lease");
  const lock = readMetadata<LockHolder>(network, "lock");
  const ips = elements(network, "ip").filter((ip) => (attribute(ip, "family") ?? "ipv4") === "ipv4");
  const dhcp = ips.flatMap((ip) => elements(ip, "dhcp"));
  return {
    name,
    uuid: textOf(element(network, "uuid")) || String(network?.uuid ?? ""),
    ...(cluster && { cluster }),
    ...(lock && { lock }),
    ...(lease && { lease: { ...lease, ip: name.slice(LEASE_PREFIX.length) } }),
    addresses: ips.flatMap((ip) => {
      const [address, netmask] = [
        attribute(ip, "address"),
        attribute(ip, "netmask") ?? netmaskOf(attribute(ip, "prefix")),
      ];
      return address && netmask ? [{ address, netmask }] : [];
    }),
    hasDhcp: dhcp.length > 0,
    dhcpRanges: dhcp.flatMap((part) =>
      elements(part, "range").flatMap((range) => {
        const [start, end] = [attribute(range, "start"), attribute(range, "end")];
        return start && end ? [{ start, end }] : [];
      }),
    ),
    dhcpHosts: dhcp.flatMap((part) =>
      elements(part, "host").flatMap((host) => {
        const ip = attribute(host, "ip");
        return ip ? [{ ip, name: attribute(host, "name") ?? "", mac: attribute(host, "mac") ?? "" }] : [];
      }),
    ),
  };
}

function netmaskOf(prefix: string | undefined): string | undefined {
  if (prefix === undefined) {
    return undefined;
  }
  const bits = 2 ** 32 - 2 ** (32 - Number(prefix));
  return [24, 16, 8, 0].map((shift) => Math.floor(bits / 2 ** shift) % 256).join(".");
}

// ── Machines ───────────────────────────────────────────────────────────────────────────────────────────────────────

export interface DomainPlan {
  readonly name: string;
  readonly mark: NodeMark;
  readonly plan: NodePlan | FrontendPlan;
  readonly disk: { readonly path: string; readonly base: string };
  readonly devices: DiskImage["devices"];
  readonly console: string;
  readonly publicNetwork: string;
  readonly kvm: boolean;
  /** Up to how many cpus it can be given while it runs. */
  readonly mostCpus: number;
}

function nic({ mac, network, model }: Omit<Nic, "port">) {
  return {
    "@type": "network",
    mac: { "@address": mac },
    source: { "@network": network },
    model: { "@type": model },
  };
}

/** One NIC alone, as `virsh update-device` takes it. */
export function nicXml(plugged: Omit<Nic, "port">): string {
  return builder.build({ interface: nic(plugged) });
}

/** A machine as the standard wants it: one disk, the private NIC first, a frontend's public NIC second. */
export function domainXml(domain: DomainPlan): string {
  const { plan } = domain;
  const virtio = domain.devices === "virtio";
  const model = virtio ? "virtio" : "e1000";
  return builder.build({
    domain: {
      "@type": domain.kvm ? "kvm" : "qemu",
      name: domain.name,
      metadata: metadata("node", domain.mark),
      memory: { "@unit": "MiB", "#text": plan.memory },
      vcpu: { "@current": plan.cpus, "#text": Math.max(plan.cpus, domain.mostCpus) },
      os: {
        type: { "@arch": "x86_64", "@machine": "pc", "#text": "hvm" },
        boot: { "@dev": "hd" },
        // So that the console says it where a disk can't be booted from.
        bios: { "@useserial": "yes" },
      },
      features: { acpi: "", apic: "" },
      cpu: { "@mode": domain.kvm ? "host-passthrough" : "maximum" },
      on_poweroff: "destroy",
      on_reboot: "restart",
      on_crash: "destroy",
      devices: {
        disk: {
          "@type": "file",
          "@device": "disk",
          driver: { "@name": "qemu", "@type": "qcow2", "@discard": "unmap" },
          source: { "@file": domain.disk.path },
          // The whole chain with its formats: libvirt needn't probe anything.
          backingStore: {
            "@type": "file",
            format: { "@type": "raw" },
            source: { "@file": domain.disk.base },
            backingStore: "",
          },
          target: virtio ? { "@dev": "vda", "@bus": "virtio" } : { "@dev": "sda", "@bus": "sata" },
        },
        interface: [
          nic({ mac: plan.privateMac, network: domain.mark.cluster, model }),
          ...("publicMac" in plan ? [nic({ mac: plan.publicMac, network: domain.publicNetwork, model })] : []),
        ],
        serial: { "@type": "pty", log: { "@file": domain.console, "@append": "off" } },
        console: { "@type": "pty", target: { "@type": "serial", "@port": "0" } },
        channel: { "@type": "unix", target: { "@type": "virtio", "@name": "org.qemu.guest_agent.0" } },
        rng: { "@model": "virtio", backend: { "@model": "random", "#text": "/dev/urandom" } },
        controller: { "@type": "usb", "@model": "none" },
        video: { model: { "@type": "none" } },
      },
    },
  });
}

export interface Nic {
  /** Lower case. */
  readonly mac: string;
  readonly network: string;
  readonly model: string;
  /** By which a running machine's NIC is known to its network. */
  readonly port: string;
}

export interface ObservedDomain {
  readonly name: string;
  readonly uuid: string;
  readonly mark?: NodeMark;
  readonly cpus: number;
  readonly mostCpus: number;
  /** MiB. */
  readonly memory: number;
  readonly mostMemory: number;
  readonly nics: readonly Nic[];
  /** Whether the guest agent's channel is open from within. */
  readonly hasAgent: boolean;
  /** The file of its first disk. */
  readonly diskFile: string;
  /** What that is called: `vda`. */
  readonly disk: string;
  /** The volume that its disk is an overlay of. */
  readonly base: string;
}

export function parseDomain(xml: string): ObservedDomain {
  const domain = element(parseXml(xml), "domain");
  const mark = readMetadata<NodeMark>(domain, "node");
  const vcpu = element(domain, "vcpu");
  const mostMemory = mebibytesOf(element(domain, "memory"));
  const devices = element(domain, "devices");
  const disk = elements(devices, "disk").find((one) => (attribute(one, "device") ?? "disk") === "disk");
  return {
    name: String(domain?.name ?? ""),
    uuid: String(domain?.uuid ?? ""),
    ...(mark && { mark }),
    cpus: Number(attribute(vcpu, "current") ?? textOf(vcpu)),
    mostCpus: Number(textOf(vcpu)),
    memory: mebibytesOf(element(domain, "currentMemory")) || mostMemory,
    mostMemory,
    nics: elements(devices, "interface").map((nic) => ({
      mac: (attribute(element(nic, "mac"), "address") ?? "").toLowerCase(),
      network: attribute(element(nic, "source"), "network") ?? "",
      model: attribute(element(nic, "model"), "type") ?? "",
      port: attribute(element(nic, "source"), "portid") ?? "",
    })),
    hasAgent: elements(devices, "channel").some(
      (channel) => attribute(element(channel, "target"), "state") === "connected",
    ),
    diskFile: attribute(element(disk, "source"), "file") ?? "",
    disk: attribute(element(disk, "target"), "dev") ?? "",
    base: basename(attribute(element(disk, "backingStore", "source"), "file") ?? ""),
  };
}

function mebibytesOf(amount: XmlElement | undefined): number {
  return amount === undefined ? 0 : Math.round(toMebibytes(Number(textOf(amount)), attribute(amount, "unit") ?? "KiB"));
}

function toMebibytes(value: number, unit: string): number {
  const powers: Readonly<Record<string, number>> = { b: -2, KiB: -1, k: -1, MiB: 0, M: 0, GiB: 1, G: 1, TiB: 2, T: 2 };
  return value * 1024 ** (powers[unit] ?? -1);
}

// ── What libvirt says of its host ──────────────────────────────────────────────────────────────────────────────────

export interface HostCapabilities {
  readonly uuid: string;
  /** Whether KVM is there and the host's CPU has what it needs: with the first alone a guest may hang. */
  readonly kvm: boolean;
  readonly cpus: number;
}

export function parseCapabilities(xml: string): HostCapabilities {
  const root = element(parseXml(xml), "capabilities");
  const host = element(root, "host");
  const features = elements(element(host, "cpu"), "feature").map((feature) => attribute(feature, "name"));
  const types = elements(root, "guest")
    .map((guest) => element(guest, "arch"))
    .filter((arch) => attribute(arch, "name") === "x86_64")
    .flatMap((arch) => elements(arch, "domain").map((domain) => attribute(domain, "type")));
  const cells = elements(element(host, "topology", "cells"), "cell");
  return {
    uuid: String(host?.uuid ?? ""),
    cpus: cells.reduce((sum, cell) => sum + Number(attribute(element(cell, "cpus"), "num") ?? 0), 0),
    kvm: types.includes("kvm") && features.some((name) => name === "vmx" || name === "svm"),
  };
}

/** Where a storage pool keeps its volumes. */
export function parsePoolPath(xml: string): string {
  return String(element(parseXml(xml), "pool", "target")?.path ?? "");
}
