/** What a Rocks frontend's database holds, and what the libvirts of its containers do. */
export interface StandInState {
  version: "6.1" | "6.2" | "7.0";
  nodes: StandInNode[];
  interfaces: StandInInterface[];
  vms: StandInVm[];
  networks: Array<{ name: string; subnet: string; netmask: string; mtu: number; zone: string; served: boolean }>;
  attributes: Array<[string, string]>;
  routes: Array<{ node: string; gateway: string }>;
  /** By virtual machine: what some libvirt runs, whether or not the tables know it. */
  domains: Record<string, StandInDomain>;
  /** Hosts whose libvirt doesn't answer. */
  silent: string[];
  /** Whether no host but the frontend answers on port 22. */
  down: boolean;
  /** Machines whose guests don't shut down when they are asked to. */
  deaf: string[];
  /** Machines that `stop` leaves running, as it does when libvirt fails. */
  unstoppable: string[];
  databaseIsDown: boolean;
  /** Names of hosts elsewhere that DNS knows. */
  elsewhere: string[];
  /** Hosts whose network `sync host network` has restarted, below all machines on them. */
  restarted: string[];
}

export interface StandInNode {
  name: string;
  membership: string;
  cpus: number;
  rack: number;
  rank: number;
  runAction: string | null;
  installAction: string | null;
  bootAction: string | null;
  attributes: Record<string, string>;
}

export interface StandInInterface {
  node: string;
  subnet: string | null;
  iface: string;
  mac: string | null;
  ip: string | null;
  name: string | null;
  vlan: number | null;
}

export interface StandInVm {
  node: string;
  /** Null where its container was removed. */
  host: string | null;
  slice: number;
  memory: number;
  disk: string;
  diskSize: number;
  cdrom: string | null;
}

export interface StandInDomain {
  host: string;
  /** `suspended` by its guest: Rocks knows no word for it. */
  status: "active" | "paused" | "crashed" | "suspended";
  cpus: number;
  memory: number;
  /** What it boots by. */
  bootAction: string | null;
}

/** The site of the recordings before anything was done there. */
export function freshSite(version: StandInState["version"] = "7.0"): StandInState {
  const physical = (name: string, membership: string, cpus: number, rank: number): StandInNode => ({
    ...{ name, membership, cpus, rack: 0, rank },
    ...{ runAction: "os", installAction: "install", bootAction: "os", attributes: { os: "linux" } },
  });
  const nic = (node: string, subnet: string, iface: string, mac: string, ip: string | null): StandInInterface => ({
    ...{ node, subnet, iface, mac, ip, name: node, vlan: null },
  });
  const kickstart: Array<[string, string]> = [
    ["PrivateHostname", "rocks"],
    ["PrivateDNSDomain", "local"],
    ["PrivateAddress", "10.1.1.1"],
    ["PrivateInterface", "eth0"],
    ["PrivateNetwork", "10.1.0.0"],
    ["PrivateNetmask", "255.255.0.0"],
    ["PrivateNetmaskCIDR", "16"],
    ["PrivateGateway", "10.1.1.1"],
    ["PrivateDNSServers", "10.1.1.1"],
    ["PrivateKickstartHost", "10.1.1.1"],
    ["PrivateKickstartBasedir", "install"],
    ["PrivateKickstartCGI", "sbin/kickstart.cgi"],
    ["PublicHostname", "rocks.pragma.test"],
    ["PublicDNSDomain", "pragma.test"],
    ["PublicAddress", "198.51.100.10"],
    ["PublicNetwork", "198.51.100.0"],
    ["PublicNetmask", "255.255.255.0"],
    ["PublicGateway", "198.51.100.1"],
    ["PublicDNSServers", "198.51.100.1"],
    ["PublicInterface", "eth1"],
  ];
  return {
    version,
    nodes: [
      { ...physical("rocks", "Frontend", 1, 0), bootAction: null },
      physical("vm-container-0-0", "VM Container", 16, 0),
      physical("vm-container-0-1", "VM Container", 16, 1),
      physical("compute-0-0", "Compute", 8, 0),
    ],
    interfaces: [
      nic("rocks", "private", "eth0", "00:16:3e:00:00:01", "10.1.1.1"),
      nic("rocks", "public", "eth1", "00:16:3e:00:00:02", "198.51.100.10"),
      nic("vm-container-0-0", "private", "eth0", "00:16:3e:00:01:00", "10.1.255.254"),
      nic("vm-container-0-0", "public", "eth1", "00:16:3e:00:02:00", null),
      nic("vm-container-0-1", "private", "eth0", "00:16:3e:00:01:01", "10.1.255.253"),
      nic("vm-container-0-1", "public", "eth1", "00:16:3e:00:02:01", null),
      nic("compute-0-0", "private", "eth0", "00:16:3e:00:03:00", "10.1.255.250"),
    ],
    vms: [],
    networks: [
      { name: "private", subnet: "10.1.0.0", netmask: "255.255.0.0", mtu: 1500, zone: "local", served: true },
      {
        name: "public",
        subnet: "198.51.100.0",
        netmask: "255.255.255.0",
        mtu: 1500,
        zone: "pragma.test",
        served: false,
      },
    ],
    attributes: [
      ...kickstart.map(([name, value]): [string, string] => [`Kickstart_${name}`, value]),
      ["cpu_mode", "host-passthrough"],
      ["vm_mac_base_addr", "a:64:33:80:00:00"],
      ["vm_mac_base_addr_mask", "ff:ff:ff:c0:00:00"],
    ],
    routes: [{ node: "rocks", gateway: "198.51.100.1" }],
    domains: {},
    silent: [],
    down: false,
    deaf: [],
    unstoppable: [],
    databaseIsDown: false,
    elsewhere: [],
    restarted: [],
  };
}
