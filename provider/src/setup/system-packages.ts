import { readFile } from "node:fs/promises";
import { execa } from "execa";
import { rootPrefix } from "./privilege";
import { type Progress, SetupError } from "./setup-error";
import { steadyProgress } from "./steady-progress";

/** What something needs of the system: Debian packages, each with the programs of it that are run. */
export interface SystemNeed {
  readonly purpose: "the default site" | "the libvirt driver" | "nodes' disks" | "ssh" | "the demo image";
  readonly packages: Readonly<Record<string, readonly string[]>>;
}

export const SYSTEM_NEEDS: readonly SystemNeed[] = [
  {
    // libvirt and QEMU, its namespaces, its reaping parent.
    purpose: "the default site",
    packages: {
      "libvirt-daemon-system": ["libvirtd"],
      "libvirt-daemon-driver-qemu": [],
      "dnsmasq-base": ["dnsmasq"],
      "qemu-system-x86": ["qemu-system-x86_64"],
      iproute2: ["ip"],
      iptables: ["iptables"],
      mount: ["mount"],
      tini: ["tini"],
    },
  },
  { purpose: "the libvirt driver", packages: { "libvirt-clients": ["virsh"] } },
  {
    // Overlays, and what is written into them (FUSE for users other than root).
    purpose: "nodes' disks",
    packages: {
      "qemu-utils": ["qemu-img"],
      "qemu-system-common": ["qemu-storage-daemon"],
      e2fsprogs: ["debugfs", "e2fsck", "resize2fs"],
      fdisk: ["sfdisk"],
      fuse3: ["fusermount3"],
    },
  },
  { purpose: "ssh", packages: { "openssh-client": ["ssh", "scp", "ssh-keygen"] } },
  {
    purpose: "the demo image",
    packages: { mmdebstrap: ["mmdebstrap"], "grub-common": ["grub-mkimage"], "grub-pc-bin": [] },
  },
];

/** The Debian packages that the default site, the driver and the demo image need. */
export const SYSTEM_PACKAGES = SYSTEM_NEEDS.flatMap(({ packages }) => Object.keys(packages));

/**
 * Installs its arguments, as root. The packages' own libvirtd (or sshd) is neither started nor enabled where it wasn't
 * there before: a policy for package scripts forbids to start anything meanwhile, and is taken away however this ends.
 */
const INSTALL_SCRIPT = `
policy=/usr/sbin/policy-rc.d
mark='# Temporary, of the virtual cluster set-up'
status_of() { dpkg-query -W -f '\${db:Status-Status}' "$1" 2>/dev/null || true; }
had_libvirt=$(status_of libvirt-daemon-system)
had_sshd=$(status_of openssh-server)
disable_services_of() {
  dpkg-query -L "$@" 2>/dev/null |
    sed -nE 's#^(/usr)?/lib/systemd/system/([^/@]+[.](service|socket))$#\\2#p' |
    DPKG_MAINTSCRIPT_PACKAGE=$1 xargs -r deb-systemd-helper disable >/dev/null 2>&1 || true
}
finish() {
  if grep -qsF "$mark" "$policy"; then rm -f "$policy"; fi
  if [ "$had_libvirt" != installed ]; then
    disable_services_of libvirt-daemon-system-systemd libvirt-daemon-system libvirt-daemon
  fi
  if [ "$had_sshd" != installed ]; then
    disable_services_of openssh-server
  fi
}
trap finish EXIT
trap 'exit 130' HUP INT TERM
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\\n%s\\nexit 101\\n' "$mark" >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
dpkg --configure --pending
apt-get -q -o DPkg::Lock::Timeout=120 update
apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install "$@"
`;

/** Those of the packages that aren't installed. */
async function missingSystemPackages(packages: readonly string[]): Promise<string[]> {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the placeholders are dpkg-query's
  const query = ["-W", "-f", "${Package} ${db:Status-Status}\\n", ...packages];
  const { stdout } = await execa("dpkg-query", query, { lines: true, reject: false });
  const installed = new Set(stdout);
  return packages.filter((name) => !installed.has(`${name} installed`));
}

/**
 * Installs the system packages that are missing, and none that is there.
 *
 * @throws SetupError on another distribution than Debian, without root, or when a package can't be had
 */
export async function installSystemPackages(
  progress: Progress,
  packages: readonly string[] = SYSTEM_PACKAGES,
): Promise<void> {
  const release = await readFile("/etc/os-release", "utf8").catch(() => "");
  if (!/^ID="?debian"?$/m.test(release)) {
    throw new SetupError(
      `Only Debian is set up by itself: on another distribution install what Debian calls ${packages.join(" ")}, and use a site and an image of your own instead of the quickstart.`,
    );
  }
  const missing = await missingSystemPackages(packages);
  if (missing.length === 0) {
    return;
  }
  progress(`installing ${missing.join(" ")}`);
  const prefix = await rootPrefix(`install Debian packages (${missing.join(" ")})`);
  const [program = "", ...args] = [...prefix, "sh", "-euc", INSTALL_SCRIPT, "install", ...missing];
  const installation = execa(program, args, { stdin: "inherit", lines: true, all: true, reject: false });
  const report = steadyProgress(progress);
  for await (const line of installation.iterable({ from: "all" })) {
    if (/^(Get:|Unpacking|Setting up|Processing)/.test(line)) {
      report(line);
    }
  }
  const { failed, all } = await installation;
  if (failed) {
    const reasons = all.filter((line) => /^(E:|dpkg: error)/.test(line)).join(" ") || all.at(-1);
    throw new SetupError(`Debian packages could not be installed (${missing.join(" ")}): ${reasons}`);
  }
}
