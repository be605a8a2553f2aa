import { access, chmod, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { home } from "../../provider/src/home";
import { CARDS, GUEST_FOLDER, Machine, SAMPLES, type Sample, VC_OUT_SAMPLES } from "./guest-machine";

const IFUP = home("test-stacks", "sbin", "ifup");
const WANTS = "etc/systemd/system/multi-user.target.wants";

/** Namespaces of their own for network, mounts, host name and processes; root inside, whoever asks. */
const NAMESPACES = ["--map-root-user", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];

/** The machine's cards, and its root file system with what the kernel shows of this namespace. */
const SET_UP = `
set -eu
mount -t sysfs sysfs "$VC_ROOT/sys"
mount --rbind /proc "$VC_ROOT/proc"
ip link set lo up
while [ "$1" != -- ]; do
  ip link add "$1" type veth peer name "peer-$1"
  ip link set "$1" address "$2"
  ip link set "peer-$1" up
  shift 2
done
guest() { sh "$VC_LIB/vc-guest" "$@"; }
# ifupdown looks for scripts in /etc, and keeps its state in /run.
ifup_all() {
  mount -t tmpfs tmpfs /mnt
  cp -a /etc/alternatives /mnt
  mount --bind /mnt /etc
  mount -t tmpfs tmpfs /run
  mkdir -p /etc/network/if-pre-up.d /etc/network/if-up.d /run/network
  "$IFUP" --all --interfaces="$1" --state-dir=/run/network
}
state() { ip -o -4 addr show | sed 's/^[0-9]*: *//; s/\\\\.*//'; ip -4 route show; }
`;

describe("the guest program on a running machine", () => {
  const machines: Machine[] = [];

  async function make(sample: Sample): Promise<Machine> {
    const machine = await Machine.make(sample);
    machines.push(machine);
    await machine.write("proc/here", "");
    return machine;
  }

  /** What a script says that runs as root on this machine. */
  async function on(machine: Machine, sample: Sample, script: string): Promise<string> {
    const cards = Object.entries(CARDS[sample]).flat();
    const command = ["sh", "-c", `${SET_UP}\n${script}`, "sh", ...cards, "--"];
    const env = { VC_ROOT: machine.root, VC_LIB: GUEST_FOLDER, IFUP };
    const { stdout, failed, stderr } = await execa("unshare", [...NAMESPACES, ...command], { env, reject: false });
    expect(failed, stdout + stderr).to.equal(false);
    return stdout;
  }

  before(async function () {
    const { failed } = await execa("unshare", [...NAMESPACES, "ip", "link", "add", "eth0", "type", "veth"], {
      reject: false,
    });
    if (failed) {
      // Not everybody may make namespaces.
      this.skip();
    }
  });
  afterEach(() => Promise.all(machines.splice(0).map((machine) => machine.remove())));

  it("gives a frontend its addresses and its route, and lets the computes out", async () => {
    const machine = await make("B-frontend");
    const said = await on(
      machine,
      "B-frontend",
      `guest apply; state; cat /proc/sys/net/ipv4/ip_forward; cat "$VC_ROOT/run/vc/forward"`,
    );
    expect(said).to.include("eth0    inet 10.1.1.1/16");
    expect(said).to.include("eth1    inet 198.51.100.61/24");
    expect(said).to.include("default via 198.51.100.1 dev eth1");
    expect(said).to.match(/^1$/m);
    expect(said).to.match(/masquerade/i);
  });

  it("takes no address away that stays, whatever else changes", async () => {
    const machine = await make("B-frontend");
    const said = await on(
      machine,
      "B-frontend",
      `guest apply
       ip -4 monitor address >"$VC_ROOT/events" & monitor=$!
       sleep 0.2
       sed 's/198.51.100.61/198.51.100.62/; s/count="2"/count="1"/; /name="compute-1"/,/node>/d' "$VC_ROOT/root/vc-out.xml" |
         guest replace
       sleep 0.2
       kill $monitor
       state
       cat "$VC_ROOT/events"`,
    );
    expect(said).to.include("eth1    inet 198.51.100.62/24").and.include("Deleted");
    expect(said).to.not.match(/^eth1 .*198\.51\.100\.61/m);
    expect(said).to.not.match(/Deleted.*\b10\.1\.1\.1\b/);
    expect(await machine.read("etc/vc/cluster"))
      .to.include("compute-0")
      .and.not.include("compute-1");
  });

  it("keeps the machine reachable as it was when vc-out.xml is broken", async () => {
    const machine = await make("B-frontend");
    const said = await on(
      machine,
      "B-frontend",
      `guest apply
       state >"$VC_ROOT/before"
       echo "<vc><frontend" >"$VC_ROOT/root/vc-out.xml"
       guest apply && exit 1
       state | cmp - "$VC_ROOT/before" && echo same`,
    );
    expect(said).to.include("same");
  });

  describe("with ifupdown", () => {
    before(async function () {
      await access(IFUP).catch(() => {
        // It couldn't be downloaded (test/set-up.mjs).
        this.skip();
      });
    });

    for (const sample of SAMPLES) {
      it(`ends up where what vc-out-parser writes puts it: ${sample}`, async () => {
        const theirs = join(VC_OUT_SAMPLES, sample, "written", "etc", "network", "interfaces");
        const [ours, parser] = [await make(sample), await make(sample)];
        await ours.write("sbin/ifup", "");
        await ours.link(`${WANTS}/networking.service`, "/nowhere");
        const said = await on(
          ours,
          sample,
          `VC_DRY_RUN=1 guest apply >&2; ifup_all "$VC_ROOT/etc/network/interfaces"; state`,
        );
        expect(said.split("\n").sort()).to.deep.equal(
          (await on(parser, sample, `ifup_all ${theirs}; state`)).split("\n").sort(),
        );
        expect(said).to.include("default via");
      });
    }

    it("lets it bring up the network at boot, then does the rest, and runs the hooks after that", async () => {
      const machine = await make("B-frontend");
      await machine.write("sbin/ifup", "");
      await machine.write("etc/ssh/ssh_host_ed25519_key", "is there");
      await machine.link(`${WANTS}/networking.service`, "/nowhere");
      const hook = "etc/vc/hooks.d/say";
      await machine.write(hook, `#!/bin/sh\nip -o -4 addr show dev eth1 >"$VC_ROOT/hook"\n`);
      await chmod(join(machine.root, hook), 0o755);
      await on(
        machine,
        "B-frontend",
        `guest boot
         ip -o -4 addr show dev eth1
         ifup_all "$VC_ROOT/etc/network/interfaces"
         tries=0
         until [ -e "$VC_ROOT/hook" ] || [ $tries = 100 ]; do sleep 0.2; tries=$((tries + 1)); done
         [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ]`,
      );
      expect(await machine.read("hook")).to.include("198.51.100.61/24");
      const log = await readFile(join(machine.root, "var/log/vc-guest.log"), "utf8");
      expect(log).to.not.match(/fail|exists/i);
    });
  });
});
