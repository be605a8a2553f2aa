import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import * as fc from "fast-check";
import type { ClusterRecord, Mark } from "../../provider/src/drivers/driver";
import {
  clusterNetworkXml,
  type DomainPlan,
  domainXml,
  leaseXml,
  nodeMetadataXml,
  parseCapabilities,
  parseDomain,
  parseNetwork,
  parsePoolPath,
  uuidOf,
} from "../../provider/src/drivers/libvirt/xml";
import { element, parseXml, textOf } from "../../provider/src/images/xml";

/** As a libvirt 9.0 printed them. */
const recorded = (name: string) => readFile(join(__dirname, "..", "fixtures", "libvirt", name), "utf8");

const MARK: Mark = {
  version: 1,
  owner: `Zoë <"&'> ]]> \\ %41`,
  organization: "organization",
  project: "docking",
  stack: "dev",
  cluster: "dock",
  createdAt: "2024-02-29T12:00:00.000Z",
};

const RECORD: ClusterRecord = {
  name: "dock",
  mark: MARK,
  site: { driver: "libvirt", uri: "qemu:///system" },
  plan: {
    frontend: {
      name: "dock",
      fqdn: "dock.test",
      cpus: 2,
      memory: 96,
      privateIp: "10.84.7.1",
      privateMac: "02:76:0a:54:07:01",
      publicIp: "198.51.100.20",
      publicMac: "02:76:c6:33:64:14",
    },
    computes: [],
    privateNetwork: { cidr: "10.84.7.0/24" },
    publicNetwork: { name: "public", cidr: "198.51.100.0/24", gateway: "198.51.100.1", dns: [], domain: "test" },
  },
  image: {
    vcName: "demo",
    frontend: { digest: "d", size: 1, devices: "virtio", rootOffset: 1 },
    compute: { digest: "d", size: 1, devices: "virtio", rootOffset: 1 },
  },
  publicKeys: [],
};

const domainOf = (change: Partial<DomainPlan> = {}): string =>
  domainXml({
    name: "dock-frontend",
    mark: { cluster: "dock", node: "frontend", mark: MARK, vcOutDigest: "digest" },
    plan: RECORD.plan.frontend,
    disk: { path: "/pool/disk.qcow2", base: "/pool/base.raw" },
    devices: "virtio",
    console: "/pool/console",
    publicNetwork: "public",
    kvm: false,
    mostCpus: 2,
    ...change,
  });

const hostile = fc.string({ unit: fc.constantFrom(..."ab <>&'\"\\]%é✓{}\n\t"), maxLength: 40 });

describe("libvirt XML", () => {
  it("gives a cluster's record back, whatever is in it", () => {
    fc.assert(
      fc.property(hostile, hostile, (owner, key) => {
        const record = { ...RECORD, mark: { ...MARK, owner }, publicKeys: [key, `${key}]]>`] };
        expect(parseNetwork(clusterNetworkXml(record)).cluster).to.deep.equal(record);
      }),
    );
  });

  it("gives a node's mark back, whatever is in it", () => {
    fc.assert(
      fc.property(hostile, (owner) => {
        const mark = { cluster: "dock", node: "frontend", mark: { ...MARK, owner }, vcOutDigest: owner };
        expect(parseDomain(domainOf({ mark })).mark).to.deep.equal(mark);
        // What virsh puts into the namespace is this element's text.
        expect(JSON.parse(textOf(element(parseXml(nodeMetadataXml(mark)), "node")))).to.deep.equal(mark);
      }),
    );
  });

  it("takes only our own namespace for a mark", () => {
    const stranger = clusterNetworkXml(RECORD).replace("urn:virtual-cluster:mark:1", "urn:somebody:else");
    expect(parseNetwork(stranger).cluster).to.equal(undefined);
    expect(parseDomain(domainOf().replace("urn:virtual-cluster:mark:1", "urn:somebody:else")).mark).to.equal(undefined);
  });

  it("passes over a mark that is damaged", () => {
    expect(parseNetwork(clusterNetworkXml(RECORD).replace("{", "")).cluster).to.equal(undefined);
  });

  it("gives a machine back in its shape, the private NIC first", () => {
    expect(parseDomain(domainOf())).to.deep.include({
      name: "dock-frontend",
      cpus: 2,
      memory: 96,
      nics: [
        { mac: "02:76:0a:54:07:01", network: "dock", model: "virtio", port: "" },
        { mac: "02:76:c6:33:64:14", network: "public", model: "virtio", port: "" },
      ],
      disk: "vda",
      base: "base.raw",
    });
  });

  it("leaves a machine room for more cpus than it has, and never for fewer", () => {
    expect(parseDomain(domainOf({ mostCpus: 8 }))).to.deep.include({ cpus: 2, mostCpus: 8 });
    expect(parseDomain(domainOf({ mostCpus: 1 }))).to.deep.include({ cpus: 2, mostCpus: 2 });
  });

  it("names the format of every file, so that nothing is probed", () => {
    expect(domainOf()).to.match(/<driver name="qemu" type="qcow2"/);
    expect(domainOf()).to.match(/<backingStore type="file"><format type="raw"[^>]*>.*<backingStore/s);
  });

  it("gives an image without virtio drivers SATA and e1000", () => {
    const xml = domainOf({ devices: "sata" });
    expect(xml)
      .to.include('bus="sata"')
      .and.include('type="e1000"')
      .and.not.match(/<model type="virtio"|bus="virtio"/);
  });

  it("uses KVM only where it is told to", () => {
    expect(domainOf()).to.match(/^<domain type="qemu">/);
    expect(domainOf({ kvm: true })).to.match(/^<domain type="kvm">/);
  });

  describe("names that make libvirt refuse a second taker", () => {
    const uuid = (xml: string) => /<uuid>(.*)<\/uuid>/.exec(xml)?.[1];
    const bridge = (xml: string) => /<bridge name="([^"]*)"/.exec(xml)?.[1];
    const inSubnet = (cidr: string, name = "dock") =>
      clusterNetworkXml({ ...RECORD, name, plan: { ...RECORD.plan, privateNetwork: { cidr } } });

    it("are UUIDs that follow from whose it is, and from nothing that changes", () => {
      expect(uuid(clusterNetworkXml({ ...RECORD, publicKeys: ["another"] }))).to.equal(uuid(clusterNetworkXml(RECORD)));
      const others = (["owner", "organization", "project", "stack", "cluster"] as const).map((part) =>
        uuid(leaseXml("198.51.100.20", { ...RECORD, mark: { ...MARK, [part]: "x" } })),
      );
      const all = [uuid(leaseXml("198.51.100.20", RECORD)), uuid(leaseXml("198.51.100.21", RECORD)), ...others];
      expect(new Set(all).size).to.equal(all.length);
      expect(
        all.every((one) => /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(String(one))),
      ).to.equal(true);
    });

    it("tell lists of names apart that read the same when joined", () => {
      expect(uuidOf("a", "bc")).to.not.equal(uuidOf("ab", "c"));
      expect(uuidOf('a","b')).to.not.equal(uuidOf("a", "b"));
    });

    it("are bridges that follow from the subnet, short enough for Linux", () => {
      expect(bridge(inSubnet("10.84.7.0/24", "one"))).to.equal(bridge(inSubnet("10.84.7.0/24", "two")));
      expect(bridge(inSubnet("10.84.8.0/24"))).to.not.equal(bridge(inSubnet("10.84.7.0/24")));
      expect(bridge(inSubnet("255.255.255.0/24"))?.length).to.be.at.most(15);
    });
  });

  describe("as libvirt prints it", () => {
    it("shows a machine of ours", async () => {
      const domain = parseDomain(await recorded("domain.xml"));
      expect(domain).to.deep.include({ name: "dock-frontend", cpus: 2, memory: 96 });
      expect(domain.uuid).to.match(/^[0-9a-f-]{36}$/);
      expect(domain.nics.map(({ mac }) => mac)).to.deep.equal(["02:76:0a:54:9a:01", "02:76:c6:33:64:dd"]);
      expect(domain.mark).to.deep.include({ cluster: "dock", node: "frontend", mark: MARK });
    });

    it("shows the cpus that a machine has now, and its memory in whatever unit", async () => {
      const xml = (await recorded("domain.xml"))
        .replace("<vcpu placement='static'>2<", "<vcpu placement='static' current='1'>2<")
        .replace("<memory unit='KiB'>98304<", "<memory unit='GiB'>2<")
        .replace("<currentMemory unit='KiB'>98304<", "<currentMemory unit='MiB'>1536<");
      expect(parseDomain(xml)).to.deep.include({ cpus: 1, mostCpus: 2, memory: 1536, mostMemory: 2048 });
    });

    it("shows a cluster's network and a lease", async () => {
      const network = parseNetwork(await recorded("cluster-network.xml"));
      expect(network).to.deep.include({ name: "dock", addresses: [], hasDhcp: false });
      expect(network.cluster?.mark).to.deep.equal(MARK);
      expect(network.cluster?.keys?.hostKey).to.match(/^ssh-ed25519 /);
      expect(parseNetwork(await recorded("lease.xml"))).to.deep.include({
        name: "vc-lease-198.51.100.221",
        lease: { ip: "198.51.100.221", cluster: "dock", mark: MARK },
      });
    });

    it("shows the addresses of a network, by netmask or prefix, IPv4 only", async () => {
      const own = [{ address: "198.51.100.1", netmask: "255.255.255.0" }];
      expect(parseNetwork(await recorded("public-network.xml"))).to.deep.include({ addresses: own, hasDhcp: false });
      expect(parseNetwork(await recorded("dhcp-network.xml"))).to.deep.equal({
        name: "campus",
        uuid: "55c90c56-6b10-48c3-9255-6d351a7daf63",
        addresses: [{ address: "192.0.2.1", netmask: "255.255.255.0" }],
        hasDhcp: true,
        dhcpRanges: [{ start: "192.0.2.100", end: "192.0.2.199" }],
        dhcpHosts: [{ ip: "192.0.2.9", name: "dock", mac: "02:76:c0:00:02:09" }],
      });
    });

    it("shows the host's id and where a pool lies", async () => {
      const { uuid } = parseCapabilities(await recorded("capabilities.xml"));
      expect(uuid).to.match(/^[0-9a-f-]{36}$/);
      expect(parsePoolPath(await recorded("pool.xml"))).to.equal("/var/lib/libvirt/images");
    });

    it("shows KVM only where it is there and the CPU has what it needs", async () => {
      const plain = (await recorded("capabilities.xml")).replaceAll(
        /<feature name='(vmx|svm)'\/>|<domain type='kvm'\/>/g,
        "",
      );
      const withKvm = (xml: string) =>
        xml.replaceAll("<domain type='qemu'/>", "<domain type='qemu'/><domain type='kvm'/>");
      const withFeature = (xml: string) => xml.replace("</cpu>", "<feature name='svm'/></cpu>");
      expect(parseCapabilities(plain).kvm).to.equal(false);
      expect(parseCapabilities(withKvm(plain)).kvm).to.equal(false);
      expect(parseCapabilities(withFeature(plain)).kvm).to.equal(false);
      expect(parseCapabilities(withFeature(withKvm(plain))).kvm).to.equal(true);
    });
  });
});
