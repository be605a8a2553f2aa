import { createHash } from "node:crypto";
import { XMLBuilder } from "fast-xml-parser";
import { attribute, element, elements, parseXml, textOf, type XmlElement } from "../../images/xml";
import { toNumber } from "../../plan/addresses";
import type { FrontendPlan, NodePlan } from "../../plan/plan";
import type { ClusterRecord, DiskImage, Mark, Shape } from "../driver";

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

function bridgeOf(cidr: string): string {
  return `vc-${toNumber(cidr.split("/")[0] ?? "")
    .toString(16)
    .padStart(8, "0")}`;
}

/** Name prefix of the networks that stand for leased public addresses. */
export const LEASE_PREFIX = "vc-lease-";

/**
 * The lease of a public address: a network definition that is never started. libvirt refuses a second one of the same
 * name with another uuid, and its metadata says at once whose it is.
 */
export function leaseXml(ip: string, record: Pick<ClusterRecord, "name" | "mark">): string {
  return builder.build({
    network: {
      name: `${LEASE_PREFIX}${ip}`,
      uuid: uuidOf("lease", ip, record.name, ...identityOf(record.mark)),
      metadata: metadata("lease", { cluster: record.name, mark: record.mark }),
      forward: { "@mode": "bridge" },
      bridge: { "@name": "vc-lease" },
    },
  });
}

export interface ObservedNetwork {
  readonly name: string;
  readonly cluster?: ClusterRecord;
  readonly lease?: { readonly ip: string; readonly cluster: string; readonly mark: Mark };
  /** The host's own addresses on it. */
  readonly addresses: ReadonlyArray<{ readonly address: string; readonly netmask: string }>;
  readonly hasDhcp: boolean;
  readonly dhcpRanges: ReadonlyArray<{ readonly start: string; readonly end: string }>;
  readonly dhcpHosts: ReadonlyArray<{ readonly ip: string; readonly name: string }>;
}

export function parseNetwork(xml: string): ObservedNetwork {
  const network = element(parseXml(xml), "network");
  const name = textOf(element(network, "name")) || String(network?.name ?? "");
  const cluster = readMetadata<ClusterRecord>(network, "cluster");
  const lease = readMetadata<{ cluster: string; mark: Mark }>(network, "lease");
  const ips = elements(network, "ip").filter((ip) => (attribute(ip, "family") ?? "ipv4") === "ipv4");
  const dhcp = ips.flatMap((ip) => elements(ip, "dhcp"));
  return {
    name,
    ...(cluster && { cluster }),
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
        return ip ? [{ ip, name: attribute(host, "name") ?? "" }] : [];
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
}

/** A machine as the standard wants it: one disk, the private NIC first, a frontend's public NIC second. */
export function domainXml(domain: DomainPlan): string {
  const { plan } = domain;
  const virtio = domain.devices === "virtio";
  const nic = (mac: string, network: string) => ({
    "@type": "network",
    mac: { "@address": mac },
    source: { "@network": network },
    model: { "@type": virtio ? "virtio" : "e1000" },
  });
  return builder.build({
    domain: {
      "@type": domain.kvm ? "kvm" : "qemu",
      name: domain.name,
      metadata: metadata("node", domain.mark),
      memory: { "@unit": "MiB", "#text": plan.memory },
      vcpu: plan.cpus,
      os: { type: { "@arch": "x86_64", "@machine": "pc", "#text": "hvm" }, boot: { "@dev": "hd" } },
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
          nic(plan.privateMac, domain.mark.cluster),
          ...("publicMac" in plan ? [nic(plan.publicMac, domain.publicNetwork)] : []),
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

export interface ObservedDomain extends Shape {
  readonly name: string;
  readonly uuid: string;
  readonly mark?: NodeMark;
  readonly macs: readonly string[];
}

export function parseDomain(xml: string): ObservedDomain {
  const domain = element(parseXml(xml), "domain");
  const mark = readMetadata<NodeMark>(domain, "node");
  const memory = element(domain, "memory");
  return {
    name: String(domain?.name ?? ""),
    uuid: String(domain?.uuid ?? ""),
    ...(mark && { mark }),
    cpus: Number(attribute(element(domain, "vcpu"), "current") ?? textOf(element(domain, "vcpu"))),
    memory: Math.round(toMebibytes(Number(textOf(memory)), attribute(memory, "unit") ?? "KiB")),
    macs: elements(element(domain, "devices"), "interface").map((nic) =>
      (attribute(element(nic, "mac"), "address") ?? "").toLowerCase(),
    ),
  };
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
}

export function parseCapabilities(xml: string): HostCapabilities {
  const root = element(parseXml(xml), "capabilities");
  const host = element(root, "host");
  const features = elements(element(host, "cpu"), "feature").map((feature) => attribute(feature, "name"));
  const types = elements(root, "guest")
    .map((guest) => element(guest, "arch"))
    .filter((arch) => attribute(arch, "name") === "x86_64")
    .flatMap((arch) => elements(arch, "domain").map((domain) => attribute(domain, "type")));
  return {
    uuid: String(host?.uuid ?? ""),
    kvm: types.includes("kvm") && features.some((name) => name === "vmx" || name === "svm"),
  };
}

/** Where a storage pool keeps its volumes. */
export function parsePoolPath(xml: string): string {
  return String(element(parseXml(xml), "pool", "target")?.path ?? "");
}
