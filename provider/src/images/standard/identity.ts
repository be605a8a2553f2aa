import type { GuestFileSystem } from "../root/file-system";
import type { RootFacts } from "./root-facts";
import { finding, type Rule } from "./rule";

/** More homes than an image has. */
const MOST_HOMES = 64;

/** What must not be the same on every node that is made of an image, or everybody would know it. */
export const IDENTITY_RULES: readonly Rule<RootFacts>[] = [
  {
    id: "ssh-host-keys",
    level: "error",
    asks: "No ssh host keys are baked in: each cluster gets its own.",
    find: async ({ root }) => {
      const keys = [
        ...(await filesIn(root, "/etc/ssh", /^ssh_host_\w*key$/)),
        ...(await filesIn(root, "/etc/dropbear", /^dropbear_\w+_host_key$/)),
        ...(await filesIn(root, "/etc/vc", /^ssh_host_\w*key$/)),
      ];
      return baked(keys, "ssh host keys are baked in: whoever has the image can pose as any of its nodes");
    },
  },
  {
    id: "private-keys",
    level: "error",
    asks: "No private ssh keys of users are baked in.",
    find: async ({ root }) => {
      const homes = await homesOf(root);
      const keys = await Promise.all([
        ...homes.map((home) => filesIn(root, `${home}/.ssh`, /^(id_\w+|identity)$/)),
        filesIn(root, "/etc/vc", /^id_\w+$/),
      ]);
      return baked(keys.flat(), "private keys are baked in: whoever has the image has them");
    },
  },
  {
    id: "authorized-keys",
    level: "warning",
    asks: "Nobody's public keys are baked in: who may log in is the cluster's owner's to say.",
    find: async ({ root }) => {
      const paths = (await homesOf(root)).map((home) => `${home}/.ssh/authorized_keys`);
      const texts = await Promise.all(paths.map((path) => root.read(path)));
      const open = paths.filter((_, index) => /^\s*[^\s#]/m.test(texts[index] ?? ""));
      return finding(open.length > 0, "lets somebody's keys in on every node", "Empty the file", open.join(", "));
    },
  },
  {
    id: "empty-passwords",
    level: "warning",
    asks: "No account has an empty password.",
    find: async ({ root }) => {
      const users = (await root.read("/etc/shadow"))
        .split("\n")
        .flatMap((line) => /^([\w.-]+)::/.exec(line)?.[1] ?? [])
        .slice(0, 8);
      return finding(
        users.length > 0,
        `${users.join(", ")} can log in without a password`,
        `Lock the account: passwd -l ${users[0] ?? "NAME"}`,
        "/etc/shadow",
      );
    },
  },
  {
    id: "machine-id",
    level: "info",
    asks: "Neither a machine id nor a random seed is baked in.",
    find: async ({ root }) => {
      const ids = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
      const seeds = ["/var/lib/systemd/random-seed", "/var/lib/random-seed", "/var/lib/urandom/random-seed"];
      const texts = await Promise.all(ids.map((path) => root.read(path)));
      const there = await Promise.all(seeds.map((path) => root.has(path)));
      const found = [
        ...ids.filter((_, index) => /^[\da-f]{32}\s*$/.test(texts[index] ?? "")),
        ...seeds.filter((_, index) => there[index]),
      ];
      return finding(
        found.length > 0,
        "all its nodes have the same machine id or random seed",
        "Empty /etc/machine-id, and remove the others: they are made at the first boot",
        found.join(", "),
      );
    },
  },
];

function baked(keys: readonly string[], found: string) {
  return finding(keys.length > 0, found, "Remove the files", keys.join(", "));
}

async function filesIn(root: GuestFileSystem, folder: string, name: RegExp): Promise<string[]> {
  const files = (await root.list(folder)).filter((entry) => entry.kind === "file" && entry.size > 0);
  return files.filter((entry) => name.test(entry.name)).map((entry) => `${folder}/${entry.name}`);
}

async function homesOf(root: GuestFileSystem): Promise<string[]> {
  const homes = (await root.list("/home")).filter(({ kind, name }) => kind === "folder" && !name.startsWith("."));
  return ["/root", ...homes.slice(0, MOST_HOMES).map(({ name }) => `/home/${name}`)];
}
