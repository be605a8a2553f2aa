import type { GuestFileSystem } from "../root/file-system";
import type { RootFacts } from "./root-facts";
import { type Finding, finding, type Rule } from "./rule";

/** Of each folder. */
const MOST_FILES = 64;

/** How a node gets to know its network. */
export const NETWORK_RULES: readonly Rule<RootFacts>[] = [
  {
    id: "reads-vc-out",
    level: "warning",
    asks: "Something inside configures the network from `/root/vc-out.xml`.",
    find: ({ reader: { contract, program } }) =>
      finding(
        contract.reads !== undefined,
        contract.reads === "cloud-init"
          ? `nothing in it reads /root/vc-out.xml, but ${program}: its nodes get a seed for that`
          : "nothing in it reads /root/vc-out.xml: the deployer writes its network's configuration files",
        "Install vc-guest into it (docs/guest.md), as sites without this deployer need it",
      ),
  },
  {
    id: "both-dialects",
    level: "info",
    asks: "What reads vc-out.xml takes both of its dialects.",
    find: ({ reader: { contract, program, dialects } }) =>
      contract.reads === undefined
        ? finding(
            dialects.length !== 2,
            dialects.length === 0
              ? "nobody can tell which dialects of vc-out.xml it takes: it gets B, unless its manifest.json says A"
              : `it takes dialect ${dialects.join()} of vc-out.xml only`,
            "Nothing has to be done here; other sites may write the other one",
            program,
          )
        : undefined,
  },
  {
    id: "udev-net-rules",
    level: "error",
    asks: "No rules for udev name NICs by the MAC addresses of another machine.",
    find: async ({ root }) =>
      inFiles(root, "/etc/udev/rules.d", /\.rules$/, (text, where) =>
        finding(
          uncommented(text).some((line) => /ATTRS?\{address\}=="[\da-f]{2}(:[\da-f]{2}){5}"/i.test(line)),
          "rules for udev name NICs by MAC address, so that a node's are called otherwise",
          "Remove the file",
          where,
        ),
      ),
  },
  {
    id: "network-files-by-mac",
    level: "warning",
    asks: "No network configuration is bound to the MAC address of another machine.",
    find: async ({ root }) => {
      const found = await Promise.all(
        MAC_BOUND.map(([folder, name, words]) =>
          inFiles(root, folder, name, (text, where) =>
            finding(
              uncommented(text).some((line) => words.test(line)),
              "its network configuration is bound to a MAC address",
              "Take the line out, or remove the file: a node's configuration comes from vc-out.xml",
              where,
            ),
          ),
        ),
      );
      return found.flat();
    },
  },
];

const MAC = String.raw`["']?[\da-f]{2}([:-][\da-f]{2}){5}`;
const MAC_BOUND: ReadonlyArray<readonly [folder: string, name: RegExp, words: RegExp]> = [
  ["/etc/sysconfig/network-scripts", /^ifcfg-/, new RegExp(`^\\s*HWADDR\\s*=\\s*${MAC}`, "i")],
  ["/etc/netplan", /\.ya?ml$/, new RegExp(`\\bmacaddress:\\s*${MAC}`, "i")],
  ["/etc/systemd/network", /\.(network|link)$/, new RegExp(`^\\s*(Permanent)?MACAddress\\s*=\\s*${MAC}`, "i")],
  ["/etc/NetworkManager/system-connections", /./, new RegExp(`^\\s*mac-address\\s*=\\s*${MAC}`, "i")],
];

function uncommented(text: string): string[] {
  return text.split("\n").filter((line) => !/^\s*#/.test(line));
}

async function inFiles(
  root: GuestFileSystem,
  folder: string,
  name: RegExp,
  find: (text: string, where: string) => readonly Finding[],
): Promise<readonly Finding[]> {
  const files = (await root.list(folder)).filter((entry) => entry.kind === "file" && name.test(entry.name));
  const found = await Promise.all(
    files.slice(0, MOST_FILES).map(async (entry) => {
      const path = `${folder}/${entry.name}`;
      return find(await root.read(path), path);
    }),
  );
  return found.flat();
}
