import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { DEFAULT_INTERPRETER, interpreters } from "./guest-interpreters";
import { Machine, SAMPLES, type Sample, VC_OUT_SAMPLES } from "./guest-machine";

const TREES = join(__dirname, "..", "fixtures", "guest");
const WANTS = "etc/systemd/system/multi-user.target.wants";

/** What an image of each kind has, beside its configuration: programs as empty files, and links by which services start. */
const STACKS = {
  ifupdown: { programs: ["sbin/ifup"], services: [`${WANTS}/networking.service`] },
  networkd: { programs: ["sbin/ifup"], services: [`${WANTS}/networking.service`, `${WANTS}/systemd-networkd.service`] },
  netplan: { programs: ["usr/sbin/netplan"], services: [`${WANTS}/systemd-networkd.service`] },
  networkmanager: { programs: [], services: [`${WANTS}/NetworkManager.service`] },
  ifcfg: { programs: ["sbin/ifup"], services: ["etc/rc.d/rc3.d/S10network", "etc/rc.d/rc3.d/S23NetworkManager"] },
} as const;
type Stack = keyof typeof STACKS;

const NETWORK_FOLDERS = ["etc/network", "etc/netplan", "etc/systemd/network", "etc/NetworkManager", "etc/sysconfig"];
const KEPT = "etc/vc/before-vc";

async function install(machine: Machine, stack: Stack): Promise<void> {
  for (const program of STACKS[stack].programs) {
    await machine.write(program, "");
  }
  for (const service of STACKS[stack].services) {
    await machine.link(service, "/nowhere");
  }
}

/** The files below some folders of a tree, with their contents. */
async function filesOf(tree: string, folders: readonly string[]): Promise<Record<string, string>> {
  const files: Record<string, string> = {};
  for (const folder of folders) {
    const entries = await readdir(join(tree, folder), { recursive: true, withFileTypes: true }).catch(() => []);
    for (const entry of entries.filter((each) => each.isFile())) {
      const path = join(entry.parentPath, entry.name);
      files[path.slice(tree.length + 1)] = await readFile(path, "utf8");
    }
  }
  return files;
}

describe("the guest program and the image's network stack", () => {
  const machines: Machine[] = [];
  const make = async (stack: Stack, sample: Sample, vcOut?: string) => {
    const machine = await Machine.make(sample, vcOut);
    machines.push(machine);
    await install(machine, stack);
    // Both are in use only where they have a file.
    if (stack === "netplan") {
      await machine.write("etc/netplan/01-renderer.yaml", "network:\n  version: 2\n  renderer: networkd\n");
    }
    if (stack === "ifcfg") {
      await machine.write("etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\n");
    }
    return machine;
  };
  const apply = async (machine: Machine) => {
    const { output, failed } = await machine.run("apply");
    expect(failed, output).to.equal(false);
    return output;
  };
  afterEach(() => Promise.all(machines.splice(0).map((machine) => machine.remove())));

  for (const stack of Object.keys(STACKS) as Stack[]) {
    for (const sample of ["B-frontend", "A-compute"] as const) {
      const tree = join(TREES, stack, sample);
      for (const [name, interpreter] of sample === "B-frontend" ? interpreters() : [DEFAULT_INTERPRETER]) {
        it(`writes ${stack}'s files on a ${sample.slice(2)}, in dialect ${sample.slice(0, 1)}, with ${name}`, async () => {
          const machine = await make(stack, sample);
          machine.interpreter = interpreter;
          await machine.add(join(tree, "before"));
          const before = await filesOf(machine.root, NETWORK_FOLDERS);
          await apply(machine);
          const after = await filesOf(machine.root, NETWORK_FOLDERS);
          expect(after).to.deep.equal(await filesOf(join(tree, "after"), NETWORK_FOLDERS));

          const kept = await filesOf(join(machine.root, KEPT), NETWORK_FOLDERS);
          const changed = Object.entries(before).filter(([path, text]) => after[path] !== text);
          expect(kept, "what was set aside").to.deep.equal(Object.fromEntries(changed));
        });
      }
    }
  }

  for (const stack of Object.keys(STACKS) as Stack[]) {
    for (const [what, tree] of [
      ["others' files were there", "before"],
      ["there was nothing", undefined],
    ] as const) {
      it(`changes nothing of ${stack}'s when it is applied again, where ${what}`, async () => {
        const machine = await make(stack, "B-frontend");
        if (tree) {
          await machine.add(join(TREES, stack, "B-frontend", tree));
        }
        await apply(machine);
        const files = () => filesOf(machine.root, ["etc", "root"]);
        const before = await files();
        await machine.write("var/log/vc-guest.log", "");
        await apply(machine);
        expect(await files()).to.deep.equal(before);
        expect(await machine.read("var/log/vc-guest.log"), "what it says it did").to.equal("");
      });
    }

    it(`follows a new address in ${stack}'s files, and keeps no copy of its own old ones`, async () => {
      const machine = await make(stack, "B-frontend");
      await apply(machine);
      const vcOut = (await machine.read("root/vc-out.xml")).replace('ip="10.1.1.1"', 'ip="10.1.7.7"');
      const { failed, output } = await machine.run("replace", vcOut);
      expect(failed, output).to.equal(false);
      const written = Object.values(await filesOf(machine.root, NETWORK_FOLDERS)).join();
      expect(written).to.include("10.1.7.7").and.not.include("10.1.1.1");
      expect(await filesOf(machine.root, [KEPT])).to.deep.equal({});
    });

    it(`takes a network that is gone out of ${stack}'s files again`, async () => {
      const extra = '<storage ip="192.0.2.7" mac="0a:64:33:80:00:07" netmask="255.255.255.0"/>';
      const sample = await readFile(join(VC_OUT_SAMPLES, "B-compute", "vc-out.xml"), "utf8");
      const machine = await make(stack, "B-compute", sample.replace("</compute>", `${extra}</compute>`));
      await machine.write("sys/class/net/ens4/address", "0a:64:33:80:00:07\n");
      await apply(machine);
      const written = async () => Object.values(await filesOf(machine.root, NETWORK_FOLDERS)).join();
      expect(await written()).to.include("192.0.2.7");
      await machine.run("replace", sample);
      expect(await written()).to.not.include("192.0.2.7");
    });

    it(`leaves ${stack}'s files as they were when vc-out.xml is broken`, async () => {
      const machine = await make(stack, "B-frontend", "<vc><frontend");
      await machine.add(join(TREES, stack, "B-frontend", "before"));
      const before = await filesOf(machine.root, NETWORK_FOLDERS);
      expect((await machine.run("apply")).failed).to.equal(true);
      expect(await filesOf(machine.root, [...NETWORK_FOLDERS, KEPT])).to.deep.equal(before);
    });

    it(`lets ${stack} configure the machine at boot`, async () => {
      const machine = await make(stack, "B-frontend");
      await machine.link("run/systemd/system", "/");
      const { output } = await machine.run("boot");
      expect(output).to.not.match(/\bip |reload|reapply|nft/);
      expect(await machine.status()).to.deep.include({ state: "configuring" });
      expect(Object.values(await filesOf(machine.root, NETWORK_FOLDERS)).join()).to.include("10.1.1.1");
    });
  }

  it("configures the running machine too, and tells the stack if that runs", async () => {
    const handedOver = {
      ifupdown: [],
      networkd: ["networkctl reload"],
      netplan: ["netplan generate", "networkctl reload", "nmcli connection reload"],
      networkmanager: ["nmcli connection reload", "nmcli device reapply eth0", "nmcli device reapply eth1"],
      ifcfg: ["nmcli connection reload"],
    } satisfies Record<Stack, string[]>;
    for (const stack of Object.keys(STACKS) as Stack[]) {
      const machine = await make(stack, "B-frontend");
      await machine.link("run/systemd/system", "/");
      const output = await apply(machine);
      expect(output, stack).to.include("ip addr add 10.1.1.1/16").and.include("masquerade");
      const told = output.split("\n").filter((line) => /^(networkctl|netplan|nmcli|systemctl)/.test(line));
      expect(told, stack).to.deep.equal(handedOver[stack]);
    }
  });

  it("runs no further program where no stack is enabled", async () => {
    const machine = await Machine.make("B-frontend");
    machines.push(machine);
    await machine.add(join(TREES, "networkd", "B-frontend", "before"));
    await machine.link("etc/systemd/system/systemd-networkd.service", "/dev/null");
    await machine.link(`${WANTS}/systemd-networkd.service`, "/nowhere");
    const before = await filesOf(machine.root, NETWORK_FOLDERS);
    expect(await apply(machine)).to.include("ip addr add 10.1.1.1/16");
    expect(await filesOf(machine.root, NETWORK_FOLDERS)).to.deep.equal(before);
  });

  const choices: Record<string, { of: Stack[]; config?: string; chosen: string }> = {
    "netplan before what it writes for": {
      of: ["netplan", "networkd"],
      config: "etc/netplan/1.yaml",
      chosen: "netplan",
    },
    "networkd where netplan has no file": { of: ["netplan", "networkd"], chosen: "networkd" },
    "NetworkManager before networkd": { of: ["networkd", "networkmanager"], chosen: "NetworkManager" },
    "NetworkManager before ifupdown": { of: ["ifupdown", "networkmanager"], chosen: "NetworkManager" },
    "networkd before ifupdown": { of: ["ifupdown", "networkd"], chosen: "networkd" },
  };
  const chosenFile: Record<string, string> = {
    netplan: "etc/netplan/90-vc.yaml",
    networkd: "etc/systemd/network/00-vc-private.network",
    NetworkManager: "etc/NetworkManager/system-connections/vc-private.nmconnection",
  };
  for (const [what, { of, config, chosen }] of Object.entries(choices)) {
    it(`of several stacks chooses ${what}`, async () => {
      const machine = await Machine.make("B-frontend");
      machines.push(machine);
      for (const stack of of) {
        await install(machine, stack);
      }
      if (config) {
        await machine.write(config, "network:\n  version: 2\n");
      }
      await apply(machine);
      const files = Object.keys(await filesOf(machine.root, NETWORK_FOLDERS)).filter((path) => path !== config);
      expect(files).to.include(chosenFile[chosen]);
      expect(
        files.every((path) => path.split("/")[1] === chosenFile[chosen]?.split("/")[1]),
        files.join(),
      ).to.equal(true);
    });
  }

  /** What an interfaces(5) file says of each card: options in any order, ours of names beside those of addresses. */
  function interfacesOf(text: string): Record<string, Record<string, string>> {
    const cards: Record<string, Record<string, string>> = {};
    let card: Record<string, string> = {};
    for (const words of text.split("\n").map((line) => line.trim().split(/\s+/))) {
      const [keyword = "", name = "", ...rest] = words;
      if (keyword === "auto") {
        cards[name] = { ...cards[name], auto: "yes" };
      } else if (keyword === "iface") {
        card = { ...cards[name], method: rest.join(" ") };
        cards[name] = card;
      } else if (name && !keyword.startsWith("#") && !keyword.startsWith("dns-")) {
        card[keyword] = [name, ...rest].join(" ");
      }
    }
    return cards;
  }

  /** What a sysconfig file sets. Lines on names are ours alone: vc-out-parser leaves them to /etc/resolv.conf. */
  function settingsOf(text: string): Record<string, string> {
    const lines = text.split("\n").filter((line) => /^\w+=/.test(line) && !/^(DNS\d|DOMAIN)=/.test(line));
    return Object.fromEntries(lines.map((line) => line.split("=") as [string, string]));
  }

  for (const sample of SAMPLES) {
    const written = (path: string) => readFile(join(VC_OUT_SAMPLES, sample, "written", path), "utf8");

    it(`puts ifupdown where vc-out-parser puts it: ${sample}`, async () => {
      const machine = await make("ifupdown", sample);
      await apply(machine);
      const ours = interfacesOf(await machine.read("etc/network/interfaces"));
      expect(ours).to.deep.equal(interfacesOf(await written("etc/network/interfaces")));
    });

    it(`puts Red Hat's initscripts where vc-out-parser puts them: ${sample}`, async () => {
      const machine = await make("ifcfg", sample);
      await apply(machine);
      const cards = await readdir(join(VC_OUT_SAMPLES, sample, "written/etc/sysconfig/network-scripts"));
      for (const path of ["network", ...cards.map((card) => `network-scripts/${card}`)]) {
        const ours = settingsOf(await machine.read(`etc/sysconfig/${path}`));
        expect(ours, path).to.deep.equal(settingsOf(await written(`etc/sysconfig/${path}`)));
      }
    });
  }

  it("gives files with secrets' places the permissions that their readers ask for", async () => {
    const keyfile = "etc/NetworkManager/system-connections/vc-public.nmconnection";
    for (const [stack, path] of [
      ["networkmanager", keyfile],
      ["netplan", "etc/netplan/90-vc.yaml"],
    ] as const) {
      const machine = await make(stack, "B-frontend");
      await machine.add(join(TREES, stack, "B-frontend", "before"));
      await apply(machine);
      expect(await machine.mode(path), path).to.equal(0o600);
    }
  });

  describe("and who writes /etc/resolv.conf", () => {
    it("gives systemd-resolved its name servers, and leaves the link to it", async () => {
      const machine = await make("ifupdown", "B-compute");
      await machine.link(`${WANTS}/systemd-resolved.service`, "/nowhere");
      await machine.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
      await machine.write("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n");
      await apply(machine);
      expect(await machine.read("etc/resolv.conf")).to.equal("nameserver 127.0.0.53\n");
      expect(await machine.read("etc/systemd/resolved.conf.d/vc.conf")).to.match(/^DNS=8\.8\.8\.8\nDomains=local$/m);
    });

    it("leaves it to NetworkManager where that has linked it to its own", async () => {
      const machine = await make("networkmanager", "B-compute");
      await machine.link("etc/resolv.conf", "/run/NetworkManager/resolv.conf");
      await apply(machine);
      expect((await filesOf(machine.root, ["etc"]))["etc/resolv.conf"]).to.equal(undefined);
    });

    it("tells resolvconf", async () => {
      const machine = await make("ifupdown", "B-compute");
      await machine.write("sbin/resolvconf", "");
      await machine.link("etc/resolv.conf", "/run/resolvconf/resolv.conf");
      expect(await apply(machine)).to.include("resolvconf -a vc-guest");
    });

    it("puts a file in the place of a link that nobody fills, and keeps the link", async () => {
      const machine = await make("ifupdown", "B-compute");
      await machine.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
      await apply(machine);
      expect(await machine.read("etc/resolv.conf")).to.include("nameserver 8.8.8.8");
      expect(await readdir(join(machine.root, KEPT, "etc"))).to.deep.equal(["network", "resolv.conf"].slice(1));
    });

    it("leaves a file that says the same in other words", async () => {
      const machine = await make("networkmanager", "B-compute");
      const text = "# Generated by NetworkManager\nsearch local\nnameserver 8.8.8.8\n";
      await machine.write("etc/resolv.conf", text);
      await apply(machine);
      expect(await machine.read("etc/resolv.conf")).to.equal(text);
    });
  });
});
