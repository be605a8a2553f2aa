import { tagIn } from "../disk/tags";
import type { GuestFileSystem } from "../root/file-system";
import { type FstabEntry, type RootFacts, throughLinks } from "./root-facts";
import { finding, type Rule } from "./rule";

const INITS = [
  "/sbin/init",
  "/usr/sbin/init",
  "/usr/lib/systemd/systemd",
  "/lib/systemd/systemd",
  "/bin/init",
  "/init",
];
/** What isn't there until somebody puts it into the machine. */
const REMOVABLE = /^\/dev\/(sr|cdrom|dvd|fd|floppy)/;

/** What a root file system must hold to be one. */
export const SYSTEM_RULES: readonly Rule<RootFacts>[] = [
  {
    id: "root-tree",
    level: "error",
    asks: "The root file system holds a system: `/etc`, and an init.",
    find: async ({ root }) => {
      // A link that leads nowhere, or to itself, has the name alone.
      const [etc, init] = await Promise.all([root.list("/etc"), findInit(root)]);
      const missing = [
        ...(etc.length > 0 ? [] : ["/etc with something in it"]),
        ...(init ? [] : ["an init (/sbin/init or systemd)"]),
      ].join(" and ");
      return finding(
        missing !== "",
        `its root file system lacks ${missing}`,
        "Put the root partition first on the disk",
      );
    },
  },
  {
    id: "x86-64",
    level: "error",
    asks: "Its init is a program for x86_64.",
    find: async ({ root }) => {
      const init = await findInit(root);
      const machine = init === undefined ? undefined : await machineOf(root, init);
      return machine === undefined
        ? undefined
        : finding(machine !== "x86_64", `its init is a program for ${machine}`, "Only x86_64 images can be run", init);
    },
  },
  {
    id: "fstab-devices",
    level: "error",
    asks: "`/etc/fstab` names no file system that isn't on this disk, unless with `nofail` or `noauto`.",
    find: ({ fstab, tags, partitions, diskName }) =>
      needed(fstab)
        .filter(({ source }) => isMissing(source, tags, partitions, diskName))
        .flatMap(({ source, target }) =>
          finding(
            true,
            `${target} is to be mounted from ${source}, which isn't on this disk`,
            "Name what is there by its UUID, or take the line out",
            "/etc/fstab",
          ),
        ),
  },
  {
    id: "fstab-names",
    level: "error",
    asks: "`/etc/fstab` calls the disk by a UUID or label, or as the machine calls it (`vda`; `sda` without virtio): not by names from Xen or IDE times.",
    find: ({ fstab, diskName }) =>
      needed(fstab)
        .filter(({ source }) => isForeignName(source, diskName))
        .flatMap(({ source, target }) =>
          finding(
            true,
            `${target} is to be mounted from ${source}, which the machine calls ${ourName(source, diskName)}`,
            `Name it by its UUID, or ${ourName(source, diskName)}`,
            "/etc/fstab",
          ),
        ),
  },
  {
    id: "clean-journal",
    level: "info",
    asks: "The root file system was unmounted before it was copied.",
    find: ({ fileSystem }) =>
      finding(
        fileSystem.isDirty === true,
        "its root file system was in use when it was copied: each node brings it in order first",
        "Shut the machine down before its disk is copied, or run e2fsck on the copy",
      ),
  },
];

/** Names that the machine has for a disk of another bus: Xen's, IDE's, SCSI's or virtio's. */
const OTHER_NAMES = /^\/dev\/(xvda|hda|sda|vda)(\d*)$/;

/** Whether it is this disk, under a name that it doesn't have on the machine. */
export function isForeignName(source: string, diskName: RootFacts["diskName"]): boolean {
  const [, name] = OTHER_NAMES.exec(source) ?? [];
  return name !== undefined && name !== diskName;
}

export function ourName(source: string, diskName: RootFacts["diskName"]): string {
  return source.replace(OTHER_NAMES, `/dev/${diskName}$2`);
}

/** Whether it is a device that isn't there, by whatever it is named. */
export function isMissing(
  source: string,
  tags: RootFacts["tags"],
  partitions: RootFacts["partitions"],
  diskName: RootFacts["diskName"],
): boolean {
  const tag = tagIn(source);
  if (tag !== undefined) {
    return !tags.has(tag);
  }
  if (isForeignName(source, diskName)) {
    return !partitions.has(Number(OTHER_NAMES.exec(source)?.[2]));
  }
  const [, number] = new RegExp(`^/dev/${diskName}(\\d+)$`).exec(source) ?? [];
  return number === undefined
    ? source.startsWith("/dev/") && !REMOVABLE.test(source) && !/^\/dev\/(shm|pts|root|null)\b/.test(source)
    : !partitions.has(Number(number));
}

function needed(fstab: readonly FstabEntry[]): readonly FstabEntry[] {
  return fstab.filter(({ options }) => !options.some((option) => option === "nofail" || option === "noauto"));
}

async function findInit(root: GuestFileSystem): Promise<string | undefined> {
  for (const path of INITS) {
    if (await root.has(path)) {
      return path;
    }
  }
  return undefined;
}

/** What processor a program is for, by its ELF header (System V ABI); undefined for a script, or where it can't be seen. */
async function machineOf(root: GuestFileSystem, path: string): Promise<string | undefined> {
  const MACHINES: Readonly<Record<number, string>> = {
    3: "i386",
    8: "mips",
    21: "ppc64",
    22: "s390",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
  };
  const header = await root.readBytes(await throughLinks(root, path), 64);
  if (header.length < 20 || header.toString("latin1", 0, 4) !== "\x7fELF") {
    return undefined;
  }
  const machine = header.readUInt8(5) === 2 ? header.readUInt16BE(18) : header.readUInt16LE(18);
  return MACHINES[machine] ?? `processor ${machine} of ELF`;
}
