import { createHash } from "node:crypto";
import type { GuestFile } from "../images/disk/inject";
import { subnetOf } from "../plan/addresses";
import { readVcOut } from "../vc-out/read";
import { type Nic, PRIVATE, PUBLIC, type VcOut } from "../vc-out/vc-out";
import { whatGuestWrites } from "./configured-files";
import type { NodeSetUp } from "./set-up";

const SEED_FOLDER = "/var/lib/cloud/seed/nocloud";
/** cloud-init runs what lies there at the end of each boot, whatever starts services in the image. */
const PER_BOOT = "/var/lib/cloud/scripts/per-boot/vc-guest";
/** Of what the guest program writes, what nothing of cloud-init's does, and what the first log-in and the first job need. */
const AT_FIRST_BOOT = /^\/(etc\/(hosts$|vc\/|ssh\/ssh_known_hosts$)|root\/\.ssh\/id_|usr\/)/;

/**
 * A seed for cloud-init's datasource NoCloud in the node's own disk, for cloud-init 20.1 or later (its documentation,
 * "NoCloud", "Networking config version 2" and "Module reference"). cloud-init takes it at the first boot; from then on the
 * guest program, which comes with it, follows the node's vc-out.xml.
 */
export async function cloudInitSeed(setUp: NodeSetUp, contract: readonly GuestFile[]): Promise<readonly GuestFile[]> {
  const { vcOut } = readVcOut(setUp.vcOut);
  const cards = vcOut.nics.map(({ mac }, index) => ({ name: `eth${index}`, mac }));
  const written = (await whatGuestWrites(contract, cards)).filter((change) => "content" in change);
  const hostName =
    written
      .find(({ path }) => path === "/etc/hostname")
      ?.content.toString()
      .trim() ?? "";
  const files = [
    ...contract,
    ...written.filter(({ path }) => AT_FIRST_BOOT.test(path)),
    { path: PER_BOOT, content: "#!/bin/sh\nexec /usr/sbin/vc-guest boot\n", mode: 0o755 },
  ];
  const seed = (name: string, content: string): GuestFile => ({ path: `${SEED_FOLDER}/${name}`, content, mode: 0o600 });
  return [
    // Else an image that was made for one cloud would look for that alone. ds-identify reads one line only.
    {
      path: "/etc/cloud/cloud.cfg.d/99_virtual-cluster.cfg",
      content: "datasource_list: [ NoCloud, None ]\n",
      mode: 0o644,
    },
    seed("meta-data", metaData(setUp, hostName)),
    seed("user-data", userData(setUp, vcOut, hostName, files)),
    seed("network-config", networkConfig(vcOut)),
  ];
}

/** The same id at each boot, so that cloud-init does its work once; a new disk's cluster has other keys, and so another id. */
function metaData({ name, keys }: NodeSetUp, hostName: string): string {
  const cluster = createHash("sha256").update(keys.hostKey.public).digest("hex").slice(0, 12);
  return yaml({ "instance-id": `${name}-${cluster}`, "local-hostname": hostName });
}

function userData({ keys }: NodeSetUp, vcOut: VcOut, hostName: string, files: readonly GuestFile[]): string {
  const config = {
    fqdn: hostName,
    hostname: hostName.split(".")[0],
    prefer_fqdn_over_hostname: true,
    manage_etc_hosts: false,
    disable_root: false,
    ssh_authorized_keys: [...vcOut.keys, keys.rootKey.public],
    // All nodes of a cluster show this key, so it must be the only one.
    ssh_deletekeys: true,
    ssh_keys: { ed25519_private: keys.hostKey.private, ed25519_public: `${keys.hostKey.public}\n` },
    write_files: files.map(({ path, content, mode }) => ({
      path,
      owner: "root:root",
      permissions: `0${mode.toString(8)}`,
      encoding: "b64",
      content: Buffer.from(content as string).toString("base64"),
    })),
  };
  return `#cloud-config\n${yaml(config)}`;
}

/** NICs are known by their MAC addresses, whatever the image calls them. */
function networkConfig({ role, nics, gateway, dns }: VcOut): string {
  const wayOut = role === "frontend" ? PUBLIC : PRIVATE;
  const ethernet = ({ network, ip, mac, mtu, netmask }: Nic) => ({
    match: { macaddress: mac },
    addresses: [`${ip}/${subnetOf(ip, netmask).prefix}`],
    mtu,
    ...(network === wayOut && {
      routes: [{ to: "0.0.0.0/0", via: gateway }],
      nameservers: { addresses: dns.servers, search: dns.search.split(" ").filter(Boolean) },
    }),
  });
  return yaml({ version: 2, ethernets: Object.fromEntries(nics.map((nic) => [nic.network, ethernet(nic)])) });
}

/** JSON is YAML, as long as it has only characters that YAML calls printable. */
function yaml(value: object): string {
  const json = JSON.stringify(value, undefined, 2);
  return `${json.replaceAll(/[\u007f-\ud7ff\ue000-\uffff]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`)}\n`;
}
