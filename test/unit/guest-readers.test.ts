import { chmod, cp, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { home } from "../../provider/src/home";
import { CARDS } from "./guest-machine";

const TREES = join(__dirname, "..", "fixtures", "guest");
/** Debian's packages of the stacks, unpacked by test/set-up.mjs. */
const STACKS = home("test-stacks");
const LIBRARIES = { LD_LIBRARY_PATH: join(STACKS, "usr", "lib", "x86_64-linux-gnu") };

const EXPECTED = {
  "B-frontend": [
    { name: "private", mac: CARDS["B-frontend"].eth0, address: "10.1.1.1/16", gateway: undefined },
    { name: "public", mac: CARDS["B-frontend"].eth1, address: "198.51.100.61/24", gateway: "198.51.100.1" },
  ],
  "A-compute": [{ name: "private", mac: CARDS["A-compute"].ens3, address: "10.1.1.254/16", gateway: "10.1.1.1" }],
} as const;

/** `SECTION.KEY` → values, of an ini-like file. */
function settingsOf(text: string): Map<string, string[]> {
  const settings = new Map<string, string[]>();
  let section = "";
  for (const line of text.split("\n")) {
    const [key = "", value] = line.split(/=(.*)/s);
    if (/^\[.*\]$/.test(line)) {
      section = line.slice(1, -1);
    } else if (value !== undefined) {
      settings.set(`${section}.${key}`, [...(settings.get(`${section}.${key}`) ?? []), value]);
    }
  }
  return settings;
}

describe("the programs of the network stacks read what the guest program writes", () => {
  for (const sample of ["B-frontend", "A-compute"] as const) {
    it(`netplan, on a ${sample.slice(2)}, and makes files of it that come first`, async function () {
      const tree = await mkdtemp(join(tmpdir(), "guest-netplan-"));
      try {
        await cp(join(TREES, "netplan", sample, "after"), tree, { recursive: true });
        for (const file of await readdir(join(tree, "etc/netplan"))) {
          await chmod(join(tree, "etc/netplan", file), 0o600);
        }
        const generator = join(STACKS, "usr", "libexec", "netplan", "generate");
        const { code, stderr } = await execa(generator, ["--root-dir", tree], { env: LIBRARIES, reject: false });
        if (code === "ENOENT") {
          // It couldn't be downloaded (test/set-up.mjs).
          this.skip();
        }
        expect(stderr).to.equal("");
        const folder = join(tree, "run/systemd/network");
        const files = (await readdir(folder)).filter((file) => file.endsWith(".network")).sort();
        for (const [index, card] of EXPECTED[sample].entries()) {
          expect(files[index]).to.equal(`10-netplan-00-vc-${card.name}.network`);
          const settings = settingsOf(await readFile(join(folder, files[index] ?? ""), "utf8"));
          expect(settings.get("Match.PermanentMACAddress")).to.deep.equal([card.mac]);
          expect(settings.get("Network.Address")).to.deep.equal([card.address]);
          expect(settings.get("Route.Gateway")).to.deep.equal(card.gateway && [card.gateway]);
          expect(settings.get("Network.DNS")).to.deep.equal(card.gateway && ["8.8.8.8"]);
          expect(settings.get("Network.DHCP")).to.equal(undefined);
        }
      } finally {
        await rm(tree, { recursive: true });
      }
    });

    it(`NetworkManager's nmcli, on a ${sample.slice(2)}, and finds nothing to ignore`, async function () {
      const folder = join(TREES, "networkmanager", sample, "after/etc/NetworkManager/system-connections");
      for (const card of EXPECTED[sample]) {
        const input = await readFile(join(folder, `vc-${card.name}.nmconnection`), "utf8");
        const nmcli = join(STACKS, "usr", "bin", "nmcli");
        // It prints the profile as NetworkManager has understood it.
        const args = ["--offline", "connection", "modify", "connection.autoconnect", "yes"];
        const { code, stdout, stderr, failed } = await execa(nmcli, args, { env: LIBRARIES, input, reject: false });
        if (code === "ENOENT") {
          // It couldn't be downloaded (test/set-up.mjs).
          this.skip();
        }
        expect(failed, stderr).to.equal(false);
        const [written, understood] = [settingsOf(input), settingsOf(stdout)];
        expect(understood.get("ipv4.address1")).to.deep.equal([[card.address, card.gateway].filter(Boolean).join()]);
        expect(understood.get("ethernet.mac-address")).to.deep.equal([card.mac.toUpperCase()]);
        for (const [key, [value = ""] = []] of written) {
          expect(understood.get(key)?.[0]?.toLowerCase(), key).to.equal(value.toLowerCase());
        }
      }
    });
  }
});
