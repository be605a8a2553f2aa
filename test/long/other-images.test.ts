import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { execa } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import { Shell } from "../acceptance/shell";
import { World } from "../acceptance/world";
import { testImages } from "../images/recipes";

interface Outputs {
  readonly outputs: {
    readonly demo: { readonly sshArguments: string[]; readonly publicIp: string; readonly nodes: Node[] };
  };
}

interface Node {
  readonly name: string;
  readonly privateIp: string;
  readonly mac: string;
}

/** Debian's packages with no program of ours inside, so that the deployer has to tell them their network otherwise. */
const IMAGES = {
  "cloud-init": "an image with cloud-init",
  plain: "an image that knows of nothing",
} as const;

for (const [image, what] of Object.entries(IMAGES) as [keyof typeof IMAGES, string][]) {
  describe(what, function () {
    this.timeout(900_000);
    let world: World;
    let shell: Shell;
    let repository: string;
    let demo: Outputs["outputs"]["demo"];

    const wish = (numCpus: number, power: "on" | "off" = "on") => ({
      demo: {
        ...{ image, repository, numCpus, cpusPerNode: 1, memoryPerNode: 384, frontend: { memory: 384 }, power },
        timeouts: { create: 600, update: 600 },
      },
    });
    const up = async (numCpus: number, power?: "off") => {
      await world.configure("images", wish(numCpus, power));
      const { all } = await world.pulumi(["up", "--yes", "--skip-preview"]);
      demo = (await world.outputs<Outputs>()).outputs.demo;
      return all;
    };
    const computes = () => demo.nodes.slice(1).map(({ name }) => name);

    before(async () => {
      repository = await testImages(image);
      world = await World.create();
      await world.quickstart("--start-site");
    });

    after(async function () {
      await shell?.close();
      await world.pulumi(["destroy", "--yes", "--skip-preview"], { reject: false });
      if (this.currentTest?.state !== "failed") {
        expect(await world.leftovers()).to.deep.equal([]);
      }
      await world.dispose();
    });

    /** What must be true of each cluster, seen from inside. */
    async function expectWhole(): Promise<void> {
      const all = [...computes()];
      const addresses = await shell.runOnAll(
        all,
        "for card in /sys/class/net/*; do echo $(cat $card/address) $(ip -o -4 addr show dev $(basename $card)); done",
      );
      const places = demo.nodes.map(({ mac, privateIp }, index) => [
        index === 0 ? "frontend" : all[index - 1],
        mac,
        privateIp,
      ]);
      for (const [node = "", mac, ip] of places) {
        expect(addresses[node], node).to.match(new RegExp(`^${mac} .* ${ip}/24 `, "m"));
      }
      expect(addresses.frontend).to.include(` ${demo.publicIp}/24 `);

      const names = demo.nodes.map(({ name }) => name).join(" ");
      const resolved = await shell.runOnAll(all, `for name in ${names}; do getent ahostsv4 $name | head -n 1; done`);
      for (const [node, said] of Object.entries(resolved)) {
        expect(
          said.split("\n").map((line) => line.split(" ")[0]),
          node,
        ).to.deep.equal(demo.nodes.map(({ privateIp }) => privateIp));
      }

      expect(await shell.run("cat /etc/vc/machinefile")).to.equal(all.join("\n"));
      expect(await shell.run("cat /tmp/machinefile")).to.equal(all.join("\n"));
      expect(await shell.run("stat -c '%a %U' /root/.ssh/id_ed25519 /etc/ssh/ssh_host_ed25519_key")).to.equal(
        "600 root\n600 root",
      );

      const hop = (from: string, to: string) =>
        `ssh -n -o BatchMode=yes ${from} ssh -n -o BatchMode=yes ${to} hostname`;
      const [one = "", other = one] = all;
      const reached = await shell.run([hop(one, other), hop(other, demo.nodes[0]?.name ?? "")].join(" && "));
      expect(reached.split("\n").map((name) => name.split(".")[0])).to.deep.equal([other, demo.nodes[0]?.name]);
    }

    it("becomes a cluster", async () => {
      const all = await up(2);
      expect(all).to.match(/frontend: ready/);
      shell = Shell.open(world, demo.sshArguments);
      // The computes hear of each other from the frontend.
      await setTimeout(15_000);
      await expectWhole();
      expect((await world.pulumi(["preview"])).stdout).to.match(/6 unchanged|7 unchanged/);
    });

    it("has its frontend forward and masquerade for its computes", async () => {
      const listener = execa("ip", [
        ...["netns", "exec", sitePaths(world.home).namespace, process.execPath, "-e"],
        `require("net").createServer(s => { console.log(s.remoteAddress); s.end(); process.exit() }).listen(2222, "198.51.100.1")`,
      ]);
      await shell.run("ssh -n compute-0 ssh -o BatchMode=yes -o ConnectTimeout=20 -p 2222 198.51.100.1 true || true");
      expect((await listener).stdout.replace("::ffff:", "")).to.equal(demo.publicIp);
    });

    if (image === "cloud-init") {
      it("has taken a seed that cloud-init finds right", async () => {
        const { v1 } = JSON.parse(await shell.run("cat /run/cloud-init/result.json")) as {
          v1: { datasource: string; errors: string[] };
        };
        expect(v1.datasource).to.match(/DataSourceNoCloud \[seed=\/var\/lib\/cloud\/seed\/nocloud\]/);
        // Test images have no locales.
        expect(v1.errors.filter((error) => !/locale/.test(error))).to.deep.equal([]);
        const schema = await shell.run("cloud-init schema --config-file /var/lib/cloud/seed/nocloud/user-data");
        expect(schema).to.match(/Valid cloud-config/);
        expect(await shell.run("stat -c %a /var/lib/cloud/seed/nocloud/*")).to.equal("600\n600\n600");
      });
    }

    it("follows a resize while it runs", async () => {
      const boots = await shell.run("cat /proc/sys/kernel/random/boot_id");
      await up(3);
      await setTimeout(15_000);
      await expectWhole();
      await up(1);
      await setTimeout(5000);
      await expectWhole();
      expect(await shell.run("cat /proc/sys/kernel/random/boot_id")).to.equal(boots);
    });

    it("follows what has changed while it was off, and keeps its own", async () => {
      await shell.run("echo mine >/root/mine && echo '# by hand' >>/root/.ssh/authorized_keys && sync");
      await up(1, "off");
      await shell.close();
      await up(2);
      shell = Shell.open(world, demo.sshArguments);
      await setTimeout(15_000);
      await expectWhole();
      expect(await shell.run("cat /root/mine && grep -c hand /root/.ssh/authorized_keys")).to.equal("mine\n1");
    });
  });
}
