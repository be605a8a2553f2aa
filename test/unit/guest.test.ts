import { chmod, readdir, readFile, readlink, stat } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { sha256 } from "../../provider/src/vc-out/digest";
import { readVcOut } from "../../provider/src/vc-out/read";
import { writeVcOut } from "../../provider/src/vc-out/write";
import { interpreters } from "./guest-interpreters";
import { Machine, SAMPLES, VC_OUT_SAMPLES } from "./guest-machine";

function resolvedNames(hosts: string): Map<string, string> {
  const lines = hosts.split("\n").filter((line) => line && !line.startsWith("#"));
  return new Map(
    lines.flatMap((line) => {
      const [ip = "", ...names] = line.split(/\s+/);
      return names.map((name) => [name, ip] as const);
    }),
  );
}

describe("the guest program", () => {
  const machines: Machine[] = [];
  const sample = () => readFile(join(VC_OUT_SAMPLES, "B-frontend", "vc-out.xml"), "utf8");
  const make = async (...args: Parameters<typeof Machine.make>) => {
    const machine = await Machine.make(...args);
    machines.push(machine);
    return machine;
  };
  after(() => Promise.all(machines.map((machine) => machine.remove())));

  const expected = {
    "A-frontend": {
      addresses: [/ip addr add 10\.1\.1\.1\/16 .*dev eth0/, /ip addr add 123\.123\.123\.123\/24 .*dev eth1/],
      route: "via 123.123.123.1 dev eth1",
    },
    "A-compute": { addresses: [/ip addr add 10\.1\.1\.254\/16 .*dev ens3/], route: "via 10.1.1.1 dev ens3" },
    "B-frontend": {
      addresses: [/ip addr add 10\.1\.1\.1\/16 .*dev eth0/, /ip addr add 198\.51\.100\.61\/24 .*dev eth1/],
      route: "via 198.51.100.1 dev eth1",
    },
    "B-compute": { addresses: [/ip addr add 10\.1\.255\.254\/16 .*dev ens3/], route: "via 10.1.1.1 dev ens3" },
  } as const;
  for (const sample of SAMPLES) {
    describe(`on a ${sample.slice(2)}, in dialect ${sample.slice(0, 1)}`, () => {
      let machine: Machine;
      let output: string;
      const written = (path: string) => readFile(join(VC_OUT_SAMPLES, sample, "written", path), "utf8");

      before(async () => {
        machine = await make(sample);
        const applied = await machine.run("apply");
        expect(applied.failed, applied.output).to.equal(false);
        output = applied.output;
      });

      for (const path of ["etc/hostname", "etc/resolv.conf", "root/.ssh/authorized_keys"]) {
        it(`writes /${path} as vc-out-parser does`, async () => {
          expect((await machine.read(path)).trimEnd()).to.equal((await written(path)).trimEnd());
        });
      }

      it("resolves every name that vc-out-parser resolves", async () => {
        const names = resolvedNames(await machine.read("etc/hosts"));
        for (const [name, ip] of resolvedNames(await written("etc/hosts"))) {
          expect(names.get(name), name).to.equal(ip);
        }
      });

      it("gives each network card its address, found by its MAC", () => {
        for (const address of expected[sample].addresses) {
          expect(output).to.match(address);
        }
      });

      it("routes to the outside, a compute through its frontend", () => {
        expect(output).to.include(`ip route replace default ${expected[sample].route}`);
      });

      it("changes no file when it is applied again", async () => {
        const files = ["etc/hosts", "etc/hostname", "etc/resolv.conf", "root/.ssh/authorized_keys"];
        // A file that is written again is another one.
        const inodes = () => Promise.all(files.map(async (file) => (await stat(join(machine.root, file))).ino));
        const before = await inodes();
        await machine.run("apply");
        expect(await inodes()).to.deep.equal(before);
      });

      it("leaves no half-written file behind", async () => {
        const files = await readdir(machine.root, { recursive: true });
        expect(files.filter((file) => file.endsWith(".vc-new"))).to.deep.equal([]);
      });

      it("says in its status what it follows", async () => {
        const vcOut = await machine.read("root/vc-out.xml");
        expect(await machine.status()).to.deep.include({ role: sample.slice(2), digest: sha256(vcOut) });
      });
    });
  }

  for (const sample of SAMPLES) {
    it(`does the same with what we write of PRAGMA's ${sample}`, async () => {
      const theirs = await readFile(join(VC_OUT_SAMPLES, sample, "vc-out.xml"), "utf8");
      const { dialect, vcOut } = readVcOut(theirs);
      const ours = writeVcOut(vcOut, dialect);
      const [left, right] = [await make(sample, theirs), await make(sample, ours)];
      const said = await Promise.all([left, right].map(async (machine) => (await machine.run("apply")).output));
      expect(said[1]).to.equal(said[0]?.replaceAll(left.root, right.root));
      for (const path of ["etc/hosts", "etc/hostname", "etc/resolv.conf", "root/.ssh/authorized_keys"]) {
        expect(await right.read(path)).to.equal(await left.read(path));
      }
    });
  }

  it("on a frontend lists the computes once per cpu, where MPI programs look for them", async () => {
    const machine = await make("B-frontend");
    await machine.run("apply");
    const link = await readlink(join(machine.root, "tmp", "machinefile"));
    const list = await readFile(join(machine.root, "tmp", link), "utf8");
    expect(list).to.equal(await readFile(join(VC_OUT_SAMPLES, "B-frontend", "written", "tmp", "machinefile"), "utf8"));
  });

  it("on a frontend lets the computes out and nobody in", async () => {
    const { output } = await (await make("B-frontend")).run("apply");
    expect(output).to.match(/ip saddr 10\.1\.0\.0\/16 oifname "eth1" masquerade/);
    expect(output).to.match(/iifname "eth1" oifname "eth0" drop/);
    expect(output).to.include("sysctl net/ipv4/ip_forward 1");
  });

  it("installs the cluster's own keys so that only root can read the private ones", async () => {
    const machine = await make("B-compute");
    await machine.write("etc/vc/id_ed25519", "private root key\n");
    await machine.write("etc/vc/id_ed25519.pub", "ssh-ed25519 AAAAroot\n");
    await machine.write("etc/vc/ssh_host_ed25519_key", "private host key\n");
    await machine.write("etc/vc/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAAhost\n");
    await machine.write("etc/ssh/ssh_host_rsa_key", "the image's own");
    await machine.run("apply");
    expect(await machine.read("root/.ssh/id_ed25519")).to.equal("private root key\n");
    expect(await machine.read("etc/ssh/ssh_host_ed25519_key")).to.equal("private host key\n");
    expect(await machine.mode("root/.ssh/id_ed25519")).to.equal(0o600);
    expect(await machine.mode("etc/ssh/ssh_host_ed25519_key")).to.equal(0o600);
    expect(await machine.mode("root/.ssh/authorized_keys")).to.equal(0o600);
    expect(await machine.read("root/.ssh/authorized_keys")).to.include("ssh-ed25519 AAAAroot");
    expect(await readdir(join(machine.root, "etc", "ssh"))).to.not.include("ssh_host_rsa_key");
  });

  it("keeps keys that the image or an administrator put there", async () => {
    const machine = await make("B-compute");
    await machine.write("root/.ssh/authorized_keys", "ssh-ed25519 AAAAadmin admin\n");
    await machine.run("apply");
    const keys = (await machine.read("root/.ssh/authorized_keys")).trim().split("\n");
    expect(keys[0]).to.equal("ssh-ed25519 AAAAadmin admin");
    expect(keys).to.have.length(2);
  });

  const key = (name: string) => `ssh-ed25519 AAAA${name} ${name}@example.org`;
  const withKeys = async (...keys: string[]) =>
    (await sample()).replace(/<key>.*<\/key>/, keys.map((each) => `<key>${each}</key>`).join(""));

  it("withdraws the keys that it gave and the cluster no longer has, and no others", async () => {
    const machine = await make("B-frontend", await withKeys(key("first"), key("both")));
    await machine.write("root/.ssh/authorized_keys", `# Ours\n${key("both")}\n`);
    const listed = async () => (await machine.read("root/.ssh/authorized_keys")).trimEnd().split("\n");
    await machine.run("apply");
    expect(await listed()).to.deep.equal(["# Ours", key("both"), key("first")]);

    // Somebody adds one by hand, and whole groups of keys change.
    await machine.write("root/.ssh/authorized_keys", `${(await listed()).join("\n")}\n${key("admin")}`);
    await machine.run("replace", await withKeys(key("second")));
    expect(await listed()).to.deep.equal(["# Ours", key("both"), key("admin"), key("second")]);
    await machine.run("replace", await withKeys(key("third"), key("second")));
    expect(await listed()).to.deep.equal(["# Ours", key("both"), key("admin"), key("second"), key("third")]);
  });

  it("gives root's keys the permissions that sshd asks for, whatever they were", async () => {
    const machine = await make("B-compute");
    await machine.write("root/.ssh/authorized_keys", (await sample()).match(/ssh-rsa .*(?=<)/)?.[0] ?? "");
    await chmod(join(machine.root, "root/.ssh/authorized_keys"), 0o666);
    await chmod(join(machine.root, "root/.ssh"), 0o777);
    await machine.run("apply");
    expect(await machine.mode("root/.ssh/authorized_keys")).to.equal(0o600);
    expect(await machine.mode("root/.ssh")).to.equal(0o700);
  });

  it("on a frontend without nft forwards by iptables, with chains of its own", async () => {
    const machine = await make("B-frontend");
    await machine.write("usr/sbin/iptables-restore", "");
    const { output } = await machine.run("apply");
    expect(output).to.include("iptables-restore --noflush").and.not.include("nft");
    expect(output).to.include("-A VC-POSTROUTING -s 10.1.0.0/16 -o eth1 -j MASQUERADE");
    expect(output).to.include("iptables -t nat -I POSTROUTING -j VC-POSTROUTING");
    expect(output).to.include("iptables -t filter -I FORWARD -j VC-FORWARD");
  });

  it("takes a new vc-out.xml whole", async () => {
    const machine = await make("B-frontend");
    await machine.run("apply");
    const sample = await machine.read("root/vc-out.xml");
    const grown = sample
      .replace('count="2"', 'count="3"')
      .replace(
        "</compute>",
        '<node cpus="1" gw="10.1.1.1" name="compute-2"><private ip="10.1.255.252" mac="0a:64:33:80:00:07" netmask="255.255.0.0"/></node></compute>',
      );
    const { failed } = await machine.run("replace", grown);
    expect(failed).to.equal(false);
    expect(await machine.read("root/vc-out.xml")).to.equal(grown);
    expect(resolvedNames(await machine.read("etc/hosts")).get("compute-2")).to.equal("10.1.255.252");
    expect(await machine.status()).to.deep.include({ digest: sha256(grown), computes: 3 });

    await machine.run("replace", sample);
    expect(resolvedNames(await machine.read("etc/hosts")).has("compute-2"), "after a shrink").to.equal(false);
  });

  const refused: Record<string, (xml: string) => string> = {
    "is empty": () => "",
    "is cut off": (xml) => xml.slice(0, xml.length / 2),
    "is another document": () => "<domain/>",
    "names a MAC that no network card has": (xml) => xml.replace("80:00:03", "80:00:99"),
    "has an address that is none": (xml) => xml.replace('ip="10.1.1.1"', 'ip="10.1.1.256"'),
    "has a netmask with holes": (xml) => xml.replace('netmask="255.255.0.0"', 'netmask="255.0.255.0"'),
    "has a command for a name": (xml) => xml.replace('name="compute-0"', 'name="$(touch x)"'),
    "has a line break in a name": (xml) => xml.replace('name="compute-0"', 'name="a\nb"'),
    "has a path for a domain": (xml) => xml.replace('search="local"', 'search="../x"'),
    "lists a compute twice": (xml) => xml.replace('name="compute-1"', 'name="compute-0"'),
    "counts other computes than it lists": (xml) => xml.replace('count="2"', 'count="5"'),
    "has an address that could be octal": (xml) => xml.replace('ip="10.1.1.1"', 'ip="10.1.1.010"'),
    "has a gateway outside of its network": (xml) => xml.replace('gw="198.51.100.1"', 'gw="198.51.101.1"'),
    "has an mtu that is none": (xml) => xml.replace('mtu="1500"', 'mtu="1500; reboot"'),
    "has a name server that is none": (xml) => xml.replace('ip="8.8.8.8"', 'ip="8.8.8.8,$(reboot)"'),
    "has one network twice": (xml) =>
      xml.replace("<public", "<private").replace('mask="255.255.255.0"', 'mask="255.0.0.0"'),
    "has one card twice": (xml) => xml.replace("80:00:04", "80:00:03"),
    "has a control character in a key": (xml) => xml.replace("<key>", "<key>\u001b[2J"),
    "has a comment without an end": (xml) => xml.replace("<compute", "<!-- <compute"),
    "has a network named like a path": (xml) => xml.replace("<public ", "<../public "),
    "goes on after its end": (xml) => `${xml.trimEnd()}</vc>`,
    "has something behind its end": (xml) => `${xml}reboot`,
    "is huge": (xml) => xml.replace("<compute", `${`<!--${"x".repeat(99)}\n-->`.repeat(12_000)}<compute`),
    "is huge, in one line": (xml) => xml.replace("<compute", `<!--${"x".repeat(2_000_000)}--><compute`),
  };

  for (const [name, interpreter] of interpreters()) {
    it(`refuses every kind of broken vc-out.xml with ${name}`, async () => {
      const machine = await make("B-frontend");
      machine.interpreter = interpreter;
      await machine.run("apply");
      const before = await machine.read("etc/hosts");
      for (const [what, spoil] of Object.entries(refused)) {
        const { output, failed } = await machine.run("replace", spoil(await sample()));
        expect(failed, `one that ${what} is taken: ${output}`).to.equal(true);
      }
      expect(await machine.read("etc/hosts")).to.equal(before);
      expect(await machine.read("root/vc-out.xml")).to.equal(await sample());
    });
  }

  for (const [what, spoil] of Object.entries(refused)) {
    it(`refuses a new vc-out.xml that ${what}, and leaves the machine as it was`, async () => {
      const machine = await make("B-frontend");
      await machine.run("apply");
      const before = await machine.read("etc/hosts");
      const original = await machine.read("root/vc-out.xml");
      const { output, failed } = await machine.run("replace", spoil(await sample()));
      expect(failed, output).to.equal(true);
      expect(JSON.parse(output.split("\n").at(-1) ?? "")).to.deep.include({ state: "failed" });
      expect(await machine.read("etc/hosts")).to.equal(before);
      expect(await machine.read("root/vc-out.xml")).to.equal(original);
    });

    it(`fails at boot with a vc-out.xml that ${what}, and says why`, async () => {
      const machine = await make("B-frontend", spoil(await sample()));
      await machine.write("dev/console", "");
      const { output, failed } = await machine.run("boot");
      expect(failed).to.equal(true);
      expect(output, "what it would change").to.not.match(/^(ip|sysctl|nft) /m);
      const { state, message } = await machine.status();
      expect(state).to.equal("failed");
      expect(message).to.match(/^\/root\/vc-out\.xml: \S/);
      for (const place of ["dev/console", "var/log/vc-guest.log"]) {
        expect(await machine.read(place), place).to.include(`failed: ${message}`);
      }
      // biome-ignore lint/suspicious/noControlCharactersInRegex: none may reach a console
      expect(await machine.read("dev/console")).to.not.match(/[\x00-\x09\x0b-\x1f]/);
    });
  }

  it("finds its network cards although the file has its MACs in upper case", async () => {
    const machine = await make("B-frontend", (await sample()).replaceAll("0a:64:33", "0A:64:33"));
    expect((await machine.run("apply")).output).to.include("ip addr add 10.1.1.1/16");
  });
});
