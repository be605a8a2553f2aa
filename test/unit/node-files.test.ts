import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import type { NetworkContract } from "../../provider/src/drivers/driver";
import type { GuestChange, GuestFile } from "../../provider/src/images/disk/inject";
import { ExtFileSystem, type GuestFileSystem } from "../../provider/src/images/root/file-system";
import { nodeFiles } from "../../provider/src/node-files/node-files";
import type { NodeSetUp } from "../../provider/src/node-files/set-up";
import { type ComputeVcOut, type FrontendVcOut, frontendVcOut, type Nic } from "../../provider/src/vc-out/vc-out";
import { writeVcOut } from "../../provider/src/vc-out/write";

const SEED = "/var/lib/cloud/seed/nocloud";
const KEYS = {
  hostKey: { private: "the host's private key\n", public: "ssh-ed25519 AAAAhost" },
  rootKey: { private: "root's private key\n", public: "ssh-ed25519 AAAAroot" },
};
const FRONTEND = frontendVcOut(
  {
    frontend: {
      ...{ name: "dock", fqdn: "dock.example.org", cpus: 1, memory: 512 },
      ...{ privateIp: "10.84.7.1", privateMac: "02:76:0A:54:07:01" },
      ...{ publicIp: "198.51.100.20", publicMac: "02:76:c6:33:64:14" },
    },
    computes: [{ name: "compute-0", cpus: 2, privateIp: "10.84.7.254", privateMac: "02:76:0a:54:07:fe" }],
    privateNetwork: { cidr: "10.84.7.0/24" },
    publicNetwork: {
      ...{ name: "public", cidr: "198.51.100.0/24", gateway: "198.51.100.1" },
      ...{ dns: ["198.51.100.1", "198.51.100.2"], domain: "example.org" },
    },
  },
  ["ssh-ed25519 AAAAuser Zoë <\"&'> : # \\ 🐳"],
);
const [PRIVATE] = FRONTEND.nics as [Nic, ...Nic[]];
const COMPUTE: ComputeVcOut = {
  ...{ role: "compute", frontendFqdn: "dock.example.org", name: "compute-0", gateway: "10.84.7.1" },
  nics: [{ ...PRIVATE, ip: "10.84.7.254", mac: "02:76:0a:54:07:fe" }],
  ...{ dns: FRONTEND.dns, keys: FRONTEND.keys },
};

describe("a node's files", () => {
  let folder: string;
  let serial = 0;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "node-files-"));
  });

  after(() => rm(folder, { recursive: true }));

  /** A root file system with these files; a link is what begins with an arrow. */
  async function rootOf(files: Readonly<Record<string, string>> = {}): Promise<GuestFileSystem> {
    serial += 1;
    const tree = join(folder, `tree-${serial}`);
    const image = join(folder, `image-${serial}`);
    await mkdir(tree);
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(tree, path)), { recursive: true });
      await (content.startsWith("->")
        ? symlink(content.slice(2), join(tree, path))
        : writeFile(join(tree, path), content));
    }
    await execa("mke2fs", ["-q", "-F", "-t", "ext4", "-d", tree, image, "8M"]);
    return new ExtFileSystem(image);
  }

  const setUp = (vcOut: FrontendVcOut | ComputeVcOut = FRONTEND, dialect: "A" | "B" = "B"): NodeSetUp => ({
    ...{ name: "docking-dev-dock-frontend", vcOut: writeVcOut(vcOut, dialect), keys: KEYS },
  });

  async function changes(
    reads: NetworkContract | undefined,
    files: Readonly<Record<string, string>> = {},
    node = setUp(),
  ): Promise<Map<string, GuestChange>> {
    const all = await nodeFiles(reads, node, await rootOf(files));
    // Of two with the same path the later one counts.
    return new Map(all.map((change) => [change.path, change]));
  }

  const fileOf = (all: ReadonlyMap<string, GuestChange>, path: string): GuestFile => {
    const change = all.get(path);
    if (!change || !("content" in change)) {
      throw new Error(`no file ${path} in ${[...all.keys()].join(", ")}`);
    }
    return change;
  };
  const textOf = (all: ReadonlyMap<string, GuestChange>, path: string) => fileOf(all, path).content.toString();

  it("are vc-out.xml and the cluster's keys where something reads them, whatever else is there", async () => {
    const all = await changes(undefined, { "etc/network/interfaces": "auto eth0\n", "usr/bin/cloud-init": "" });
    expect(
      [...all.values()].map((change) => [change.path, "content" in change && change.mode.toString(8)]),
    ).to.deep.equal([
      ["/root/vc-out.xml", "644"],
      ["/etc/vc/id_ed25519", "600"],
      ["/etc/vc/id_ed25519.pub", "644"],
      ["/etc/vc/ssh_host_ed25519_key", "600"],
      ["/etc/vc/ssh_host_ed25519_key.pub", "644"],
    ]);
  });

  describe("for cloud-init", () => {
    interface UserData {
      readonly [key: string]: unknown;
      readonly write_files: ReadonlyArray<{ path: string; permissions: string; encoding: string; content: string }>;
    }
    const json = <T>(text: string) => JSON.parse(text) as T;
    const userDataOf = (all: ReadonlyMap<string, GuestChange>): UserData => {
      const text = textOf(all, `${SEED}/user-data`);
      expect(text).to.match(/^#cloud-config\n/);
      return json<UserData>(text.replace(/^#cloud-config\n/, ""));
    };

    it("say the network by MAC address, with the way out on the public NIC of a frontend", async () => {
      const all = await changes("cloud-init");
      expect(json(textOf(all, `${SEED}/network-config`))).to.deep.equal({
        version: 2,
        ethernets: {
          private: { match: { macaddress: "02:76:0a:54:07:01" }, addresses: ["10.84.7.1/24"], mtu: 1500 },
          public: {
            match: { macaddress: "02:76:c6:33:64:14" },
            addresses: ["198.51.100.20/24"],
            mtu: 1500,
            routes: [{ to: "0.0.0.0/0", via: "198.51.100.1" }],
            nameservers: { addresses: ["198.51.100.1", "198.51.100.2"], search: ["local"] },
          },
        },
      });
    });

    it("say the network of a compute: its way out is the frontend; an mtu and further networks too", async () => {
      const storage = {
        network: "storage",
        ip: "10.9.0.7",
        mac: "02:76:0a:09:00:07",
        mtu: 9000,
        netmask: "255.255.0.0",
      };
      const all = await changes("cloud-init", {}, setUp({ ...COMPUTE, nics: [...COMPUTE.nics, storage] }));
      expect(json(textOf(all, `${SEED}/network-config`))).to.deep.equal({
        version: 2,
        ethernets: {
          private: {
            match: { macaddress: "02:76:0a:54:07:fe" },
            addresses: ["10.84.7.254/24"],
            mtu: 1500,
            routes: [{ to: "0.0.0.0/0", via: "10.84.7.1" }],
            nameservers: { addresses: ["198.51.100.1", "198.51.100.2"], search: ["local"] },
          },
          storage: { match: { macaddress: "02:76:0a:09:00:07" }, addresses: ["10.9.0.7/16"], mtu: 9000 },
        },
      });
    });

    it("say who may log in, what the node is called and which host key it shows", async () => {
      const userData = userDataOf(await changes("cloud-init"));
      expect(userData).to.deep.include({
        ...{ hostname: "dock", fqdn: "dock.example.org", manage_etc_hosts: false, disable_root: false },
        ssh_authorized_keys: [FRONTEND.keys[0], "ssh-ed25519 AAAAroot"],
        ssh_deletekeys: true,
        ssh_keys: { ed25519_private: "the host's private key\n", ed25519_public: "ssh-ed25519 AAAAhost\n" },
      });
    });

    it("bring hosts, machinefile, the cluster's keys and the guest program along, the private ones for root alone", async () => {
      const { write_files: files } = userDataOf(await changes("cloud-init"));
      const byPath = new Map(files.map((file) => [file.path, file]));
      const text = (path: string) => Buffer.from(byPath.get(path)?.content ?? "", "base64").toString();
      expect(new Set(files.map(({ encoding }) => encoding))).to.deep.equal(new Set(["b64"]));
      expect(text("/etc/hosts")).to.match(/^10\.84\.7\.254\s.*\bcompute-0\b/m);
      expect(text("/etc/vc/machinefile")).to.equal("compute-0\ncompute-0\n");
      expect(text("/etc/ssh/ssh_known_hosts")).to.match(/compute-0,10\.84\.7\.254 ssh-ed25519 AAAAhost/);
      expect(text("/root/.ssh/id_ed25519")).to.equal("root's private key\n");
      expect(text("/usr/sbin/vc-guest")).to.match(/^#!\/bin\/sh\n/);
      expect(text("/root/vc-out.xml")).to.equal(setUp().vcOut);
      const readable = files
        .filter(({ permissions }) => permissions !== "0600" && permissions !== "0755")
        .map(({ path }) => path);
      expect(readable.filter((path) => /private key/.test(text(path)))).to.deep.equal([]);
      expect(byPath.get("/usr/sbin/vc-guest")?.permissions).to.equal("0755");
    });

    it("are for root alone, and have no character that YAML doesn't take", async () => {
      const all = await changes("cloud-init");
      for (const name of ["meta-data", "user-data", "network-config"]) {
        expect(fileOf(all, `${SEED}/${name}`).mode.toString(8), name).to.equal("600");
        expect(textOf(all, `${SEED}/${name}`).replaceAll(/[\u{10000}-\u{10ffff}]/gu, ""), name).to.match(
          /^[\n\x20-\x7e]+$/,
        );
      }
    });

    it("have the same instance at each boot, and another where another cluster has the same name", async () => {
      const instance = async (node: NodeSetUp) =>
        json<Record<string, string>>(textOf(await changes("cloud-init", {}, node), `${SEED}/meta-data`))["instance-id"];
      const first = await instance(setUp());
      expect(first).to.match(/^docking-dev-dock-frontend-[0-9a-f]{12}$/);
      expect(await instance(setUp({ ...FRONTEND, computes: [] }))).to.equal(first);
      const hostKey = { private: "x", public: "ssh-ed25519 AAAAnew" };
      expect(await instance({ ...setUp(), keys: { ...KEYS, hostKey } })).not.to.equal(first);
    });

    it("are the same in dialect A", async () => {
      const [one, other] = [await changes("cloud-init"), await changes("cloud-init", {}, setUp(FRONTEND, "A"))];
      for (const name of ["meta-data", "network-config"]) {
        expect(textOf(other, `${SEED}/${name}`)).to.equal(textOf(one, `${SEED}/${name}`));
      }
    });
  });

  describe("for an image that reads nothing", () => {
    const SYSTEMD = { "usr/lib/systemd/system/basic.target": "", lib: "->usr/lib" };

    it("are its configuration files, with what others have put there kept", async () => {
      const all = await changes("files", {
        ...SYSTEMD,
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/hostname": "debian\n",
        "root/.ssh/authorized_keys": "ssh-ed25519 AAAAadmin admin\n",
        "etc/ssh/ssh_host_rsa_key": "the image's own\n",
        "etc/ssh/ssh_host_rsa_key.pub": "the image's own\n",
        "etc/ssh/sshd_config": "PermitRootLogin yes\n",
      });
      expect(textOf(all, "/etc/hostname")).to.equal("dock.example.org\n");
      expect(textOf(all, "/etc/hosts")).to.match(/^10\.84\.7\.254\s.*\bcompute-0\b/m);
      expect(textOf(all, "/etc/resolv.conf")).to.match(/^nameserver 198\.51\.100\.2$/m);
      expect(textOf(all, "/root/.ssh/authorized_keys").split("\n")).to.include.members([
        "ssh-ed25519 AAAAadmin admin",
        FRONTEND.keys[0],
        "ssh-ed25519 AAAAroot",
      ]);
      expect(fileOf(all, "/root/.ssh/authorized_keys").mode).to.equal(0o600);
      expect(textOf(all, "/etc/ssh/ssh_host_ed25519_key")).to.equal("the host's private key\n");
      expect(fileOf(all, "/etc/ssh/ssh_host_ed25519_key").mode).to.equal(0o600);
      expect(all.get("/etc/ssh/ssh_host_rsa_key")).to.deep.equal({ path: "/etc/ssh/ssh_host_rsa_key", removed: true });
      expect(all.get("/tmp/machinefile")).to.deep.equal({ path: "/tmp/machinefile", target: "../etc/vc/machinefile" });
      expect([...all.keys()]).not.to.include("/etc/ssh/sshd_config");
    });

    it("give each NIC the name that the files have", async () => {
      const rules = textOf(await changes("files"), "/etc/udev/rules.d/70-persistent-net.rules");
      expect(rules).to.match(/ATTR\{address\}=="02:76:0a:54:07:01", NAME="eth0"/);
      expect(rules).to.match(/ATTR\{address\}=="02:76:c6:33:64:14", NAME="eth1"/);
    });

    it("start the guest program with systemd", async () => {
      const all = await changes("files", SYSTEMD);
      expect(fileOf(all, "/usr/sbin/vc-guest").mode).to.equal(0o755);
      expect(textOf(all, "/etc/systemd/system/vc-guest.service")).to.match(/ExecStart=\/usr\/sbin\/vc-guest boot/);
      expect(all.get("/etc/systemd/system/multi-user.target.wants/vc-guest.service")).to.have.property(
        "target",
        "../vc-guest.service",
      );
    });

    it("start the guest program with System V's init, right before the network", async () => {
      const all = await changes("files", {
        "etc/rcS.d/S12networking": "->../init.d/networking",
        "etc/init.d/networking": "",
      });
      expect(all.get("/etc/rcS.d/S11vc-guest")).to.have.property("target", "../init.d/vc-guest");
      expect(fileOf(all, "/etc/init.d/vc-guest").mode).to.equal(0o755);
      expect([...all.keys()]).not.to.include("/etc/rcS.d/S12networking");
    });

    const stacks: Record<string, [Record<string, string>, string, RegExp]> = {
      ifupdown: [
        {
          ...{ "etc/network/interfaces": "auto lo\niface lo inet loopback\n", "usr/sbin/ifup": "" },
          "etc/systemd/system/multi-user.target.wants/networking.service": "->/lib/systemd/system/networking.service",
        },
        "/etc/network/interfaces",
        /iface eth1 inet static\n\s+address 198\.51\.100\.20/,
      ],
      "systemd-networkd": [
        {
          "etc/systemd/system/multi-user.target.wants/systemd-networkd.service":
            "->/lib/systemd/system/systemd-networkd.service",
        },
        "/etc/systemd/network/00-vc-private.network",
        /10\.84\.7\.1\/24/,
      ],
      netplan: [
        { "etc/netplan/50-cloud-init.yaml": "network: {version: 2}\n", "usr/sbin/netplan": "" },
        "/etc/netplan/90-vc.yaml",
        /198\.51\.100\.20\/24/,
      ],
      NetworkManager: [
        {
          "etc/systemd/system/multi-user.target.wants/NetworkManager.service":
            "->/lib/systemd/system/NetworkManager.service",
          "etc/NetworkManager/NetworkManager.conf": "[main]\nplugins=keyfile\n",
        },
        "/etc/NetworkManager/system-connections/vc-public.nmconnection",
        /198\.51\.100\.20\/24/,
      ],
      "Red Hat's ifcfg files": [
        { "etc/rc.d/rc3.d/S10network": "->../init.d/network", "etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n" },
        "/etc/sysconfig/network-scripts/ifcfg-eth1",
        /IPADDR="?198\.51\.100\.20/,
      ],
    };
    for (const [stack, [files, path, content]] of Object.entries(stacks)) {
      it(`have the network as ${stack} reads it`, async () => {
        expect(textOf(await changes("files", { ...SYSTEMD, ...files }), path)).to.match(content);
      });
    }

    it("keep others' files of the network aside in the disk, to the last byte", async () => {
      const stale = "# Z\u00fcrich \ud83d\udc33\nTYPE=Ethernet\nDEVICE=eth0\nBOOTPROTO=dhcp\n\n";
      const all = await changes("files", {
        ...{ "etc/rc.d/rc3.d/S10network": "->../init.d/network", "etc/sysconfig/network-scripts/ifcfg-eth0": stale },
      });
      expect(textOf(all, "/etc/sysconfig/network-scripts/ifcfg-eth0")).to.match(/10\.84\.7\.1/);
      expect(textOf(all, "/etc/vc/before-vc/etc/sysconfig/network-scripts/ifcfg-eth0")).to.equal(stale);
    });

    it("keep what a compute has learnt of its siblings", async () => {
      const cluster =
        "frontend dock 10.84.7.1\ncompute compute-0 10.84.7.254 2\ncompute compute-1 10.84.7.253 1\nend\n";
      const all = await changes("files", { "etc/vc/cluster": cluster }, setUp(COMPUTE));
      expect(textOf(all, "/etc/hosts")).to.match(/^10\.84\.7\.253\s.*\bcompute-1\b/m);
    });

    it("follow no link of the image's to anything of this machine", async () => {
      const secret = join(folder, "secret");
      await writeFile(secret, "ssh-ed25519 AAAAsecret of the host\n");
      const all = await changes("files", {
        "etc/resolv.conf": `->${secret}`,
        "root/.ssh/authorized_keys": `->${secret}`,
        "etc/hosts": `->${secret}`,
        "etc/vc": `->${folder}`,
        "etc/network": "->../../../../../../../../etc/network",
      });
      expect(await readFile(secret, "utf8")).to.equal("ssh-ed25519 AAAAsecret of the host\n");
      expect(
        [...all.values()].filter((change) => "content" in change && /secret/.test(change.content.toString())),
      ).to.deep.equal([]);
    });

    it("run nothing of the image's", async () => {
      const ran = join(folder, "ran");
      const script = `#!/bin/sh\ntouch ${ran}\n`;
      const tree = {
        "etc/vc/hooks.d/hook": script,
        "usr/sbin/netplan": script,
        "sbin/ifup": script,
        "usr/bin/awk": script,
      };
      const root = await rootOf(tree);
      for (const path of Object.keys(tree)) {
        await chmod(join(folder, `tree-${serial}`, path), 0o755);
      }
      await execa("mke2fs", [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-d",
        join(folder, `tree-${serial}`),
        join(folder, `image-${serial}`),
        "8M",
      ]);
      await nodeFiles("files", setUp(), root);
      expect(await readdir(folder)).not.to.include("ran");
    });

    it("are refused where the network makes no sense, with what the guest program says", async () => {
      const vcOut = setUp().vcOut.replace('name="dock"', 'name="no name"');
      const error = await changes("files", {}, { ...setUp(), vcOut }).catch((reason: unknown) => reason);
      expect(error).to.be.instanceOf(Error);
      expect((error as Error).message).to.include("no name");
    });
  });
});
