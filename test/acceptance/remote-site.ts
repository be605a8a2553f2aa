import { randomBytes, randomUUID } from "node:crypto";
import { access, chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { execa, type ResultPromise } from "execa";
import {
  libvirtdConf,
  POOL,
  POOL_XML,
  PUBLIC_NETWORK,
  PUBLIC_NETWORK_XML,
  QEMU_CONF,
} from "../../provider/src/default-site/configuration";
import { kvmUsable } from "../../provider/src/kvm";

export const REMOTE_PROGRAMS = ["sshd", "ssh", "libvirtd", "virtlogd", "virsh", "ip", "tini", "unshare", "nsenter"];
const SLOW_LINK = join(__dirname, "slow-link.mjs");
const PORT = 2222;
const CLOSED_PORT = 2223;
const START_LIMIT_MS = 30_000;

/**
 * Another host, but for its kernel: own mounts, network and processes. All that its libvirt keeps, sockets and images
 * included, lies on file systems in memory that only its processes see, and vanishes with them.
 */
const HOST_SCRIPT = `
for folder in /root /run /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
  mount -t tmpfs -o mode=755 tmpfs "$folder"
done
mkdir -p /run/sshd /run/libvirt /var/lib/libvirt/images /var/lib/libvirt/dnsmasq
cp "$1/libvirtd.conf" "$1/qemu.conf" /etc/libvirt/
cp "$1/host_key" "$1/authorized_keys" /run/sshd/
# root may log in with a key, whatever this machine says of its password.
echo 'root:*:19000:0:99999:7:::' >/run/shadow
mount --bind /run/shadow /etc/shadow
if mountpoint -q /sys/fs/cgroup; then umount --recursive --lazy /sys/fs/cgroup; fi
if [ "$2" = without-kvm ] && [ -e /dev/kvm ]; then : >/run/no-kvm; chmod 0 /run/no-kvm; mount --bind /run/no-kvm /dev/kvm; fi
ip link set lo up
/usr/sbin/sshd -f "$1/sshd_config" -E /var/log/libvirt/sshd.log
virtlogd --daemon
exec libvirtd
`;

const SSHD_CONFIG = `Port ${PORT}
ListenAddress 127.0.0.1
HostKey /run/sshd/host_key
AuthorizedKeysFile /run/sshd/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
`;

const HOST_OPTIONS = {
  reject: false,
  all: true,
  // libvirt would register its guests with the machine's own systemd.
  env: { DBUS_SYSTEM_BUS_ADDRESS: "unix:path=/nonexistent" },
} as const;

/** How somebody's ssh is set up. */
export interface SshSetUp {
  readonly identity?: "ours" | "stranger";
  readonly knownHosts?: "ours" | "none" | "stranger";
  /** As fast as can be when absent. */
  readonly bytesPerSecond?: number;
}

/** A libvirt that is reached over ssh only. Needs root. */
export class RemoteSite {
  /** Where this side finds the host's files, with its own tools and not as the driver would. */
  readonly root: string;

  private constructor(
    /** This side's folder of keys and of what stands in ssh's place. */
    readonly folder: string,
    /** Name of the host, and of its network namespace. */
    readonly name: string,
    private readonly host: ResultPromise<typeof HOST_OPTIONS>,
  ) {
    this.root = join("/proc", String(host.pid), "root");
  }

  static async start(): Promise<RemoteSite> {
    const folder = await mkdtemp("/tmp/vc-remote-");
    const name = `vc-remote-${randomBytes(4).toString("hex")}`;
    for (const key of ["host_key", "stranger_host_key", "id", "stranger_id"]) {
      await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", join(folder, key)]);
    }
    await cp(join(folder, "id.pub"), join(folder, "authorized_keys"));
    await writeFile(join(folder, "sshd_config"), SSHD_CONFIG);
    await writeFile(join(folder, "libvirtd.conf"), libvirtdConf(randomUUID(), 0));
    // As most hosts have it: consoles are written by virtlogd.
    await writeFile(join(folder, "qemu.conf"), QEMU_CONF.replace(/^stdio_handler.*$/m, `stdio_handler = "logd"`));
    await execa("ip", ["netns", "add", name]);
    const script = ["sh", "-euc", HOST_SCRIPT, "host", folder, kvmUsable() ? "with-kvm" : "without-kvm"];
    const host = execa(
      "ip",
      [
        ...["netns", "exec", name],
        ...["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"],
        ...["tini", "--", ...script],
      ],
      HOST_OPTIONS,
    );
    const site = new RemoteSite(folder, name, host);
    try {
      await site.prepare();
    } catch (error) {
      await site.remove();
      throw error;
    }
    return site;
  }

  get uri(): string {
    return this.uriOf(PORT);
  }

  /** Nobody listens there. */
  get closedUri(): string {
    return this.uriOf(CLOSED_PORT);
  }

  /** The folder of the pool. */
  get images(): string {
    return join(this.root, POOL.path);
  }

  /** The host's own virsh. */
  async virsh(...args: string[]): Promise<string> {
    return (await this.onHost(["virsh", "-q", ...args])).stdout;
  }

  /** How often somebody has logged in so far. */
  async logins(): Promise<number> {
    const log = await readFile(join(this.root, "var/log/libvirt/sshd.log"), "utf8");
    return log.match(/Accepted publickey/g)?.length ?? 0;
  }

  /**
   * A folder with an `ssh` that knows the way to this host, as an entry in the user's own configuration would: that
   * one is in the home folder of the passwd file, where no test may write.
   * @returns a folder for PATH
   */
  async ssh({ identity = "ours", knownHosts = "ours", bytesPerSecond }: SshSetUp = {}): Promise<string> {
    const path = await mkdtemp(join(this.folder, "bin-"));
    const known = join(path, "known_hosts");
    const hostKey = await readFile(join(this.folder, `${knownHosts === "stranger" ? "stranger_" : ""}host_key.pub`));
    await writeFile(known, knownHosts === "none" ? "" : `[127.0.0.1]:${PORT} ${hostKey}`);
    const key = join(this.folder, identity === "ours" ? "id" : "stranger_id");
    const { stdout: real } = await execa("which", ["ssh"]);
    const options = {
      HostName: "127.0.0.1",
      UserKnownHostsFile: known,
      GlobalKnownHostsFile: "none",
      IdentityFile: key,
      IdentitiesOnly: "yes",
      IdentityAgent: "none",
      ...(bytesPerSecond && { ProxyCommand: `${process.execPath} ${SLOW_LINK} %p ${bytesPerSecond}` }),
    };
    const words = Object.entries(options).map(([option, value]) => `-o '${option}=${value}'`);
    const script = `#!/bin/sh
case " $* " in
  *" ${this.name} "*) exec ip netns exec ${this.name} ${real} ${words.join(" ")} "$@" ;;
esac
exec ${real} "$@"
`;
    await writeFile(join(path, "ssh"), script);
    await chmod(join(path, "ssh"), 0o755);
    return path;
  }

  async remove(): Promise<void> {
    this.host.kill("SIGKILL");
    await this.host;
    const processes = async () => (await execa("ip", ["netns", "pids", this.name], { lines: true })).stdout.map(Number);
    for (let pids = await processes(); pids.length > 0; pids = await processes()) {
      // The shared connections, which wait for the next one.
      pids.forEach((pid) => {
        try {
          process.kill(pid);
        } catch {
          // It has ended by itself.
        }
      });
      await setTimeout(50);
    }
    await execa("ip", ["netns", "delete", this.name]);
    await rm(this.folder, { recursive: true, force: true });
  }

  private async prepare(): Promise<void> {
    await this.whenItAnswers();
    await mkdir(join(this.folder, "xml"));
    for (const [kind, name, xml] of [
      ["pool", POOL.name, POOL_XML],
      ["net", PUBLIC_NETWORK.name, PUBLIC_NETWORK_XML],
    ] as const) {
      const file = join(this.folder, "xml", name);
      await writeFile(file, xml);
      await this.virsh(`${kind}-define`, file);
      await this.virsh(`${kind}-start`, name);
      await this.virsh(`${kind}-autostart`, name);
    }
  }

  private async whenItAnswers(): Promise<void> {
    const ended = this.host.then(({ all }) => {
      throw new Error(`the remote site didn't start: ${all}`);
    });
    const answers = async () => {
      for (const limit = Date.now() + START_LIMIT_MS; Date.now() < limit; await setTimeout(50)) {
        // Not before its own /run is there: until then this machine's libvirt, if any, would answer.
        if (
          await access(join(this.root, "run/shadow"))
            .then(() => this.virsh("list"))
            .then(
              () => true,
              () => false,
            )
        ) {
          return;
        }
      }
      throw new Error(`the remote site didn't answer in ${START_LIMIT_MS / 1000} s`);
    };
    await Promise.race([answers(), ended]);
  }

  private uriOf(port: number): string {
    return `qemu+ssh://root@${this.name}:${port}/system`;
  }

  private onHost(command: readonly string[]) {
    return execa("nsenter", ["--target", String(this.host.pid), "--mount", "--net", ...command]);
  }
}

/** What a remote site takes and isn't here. */
export async function missingPrograms(): Promise<string[]> {
  const env = { PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  const found = await Promise.all(REMOTE_PROGRAMS.map((program) => execa("which", [program], { env, reject: false })));
  const missing = REMOTE_PROGRAMS.filter((_, index) => found[index]?.failed);
  return process.getuid?.() === 0 ? missing : ["root", ...missing];
}
