import { posix } from "node:path";
import { hasSataDrivers } from "../disk/devices";
import { type Initramfs, initramfsAt } from "../disk/initramfs";
import { hasVirtioDrivers } from "../disk/kernels";
import { type BootFolder, type RootFacts, throughLinks } from "./root-facts";
import { finding, type Rule } from "./rule";
import { isForeignName, isMissing, ourName } from "./system";

const ADD_DRIVERS =
  "Rebuild it inside: update-initramfs -u with MODULES=most, or dracut --force --add-drivers 'virtio_pci virtio_blk'";

/** What a machine needs to start from the disk. */
export const BOOT_RULES: readonly Rule<RootFacts>[] = [
  {
    id: "boot-configuration",
    level: "error",
    asks: "There is a boot loader's configuration: of GRUB (`/boot/grub`, `/boot/grub2`), extlinux, syslinux or LILO.",
    find: ({ boot }) =>
      boot.isElsewhere
        ? undefined
        : finding(
            boot.configurations.size === 0,
            "has no boot loader's configuration",
            "Run grub-mkconfig inside the image",
            "/boot",
          ),
  },
  {
    id: "boot-kernel",
    level: "error",
    asks: "There is a kernel in `/boot`, and the boot loader's configuration names one that is there.",
    find: async ({ boot, root }) => {
      if (boot.isElsewhere) {
        return undefined;
      }
      if (boot.kernels.length === 0) {
        return finding(true, "has no kernel", "Install one into the image (linux-image-amd64, kernel)", "/boot");
      }
      const named = namedIn(
        boot,
        /^\s*(?:(?:linux|linux16|linuxefi|kernel)\s+|image\s*=\s*)["']?(?:\([^)]*\))?([^\s"'$]+)["']?(?:\s|$)/gim,
      );
      const there = await Promise.all([...named].flatMap((path) => placesOf(path)).map((path) => root.has(path)));
      return finding(
        named.size > 0 && !there.includes(true),
        `its boot loader is to start ${[...named].join(", ")}, which isn't there`,
        "Run grub-mkconfig inside the image",
        [...boot.configurations.keys()].join(", "),
      );
    },
  },
  {
    id: "boot-root",
    level: "error",
    asks: "The kernel is told a root file system that is on this disk, by a name that it has on the machine.",
    find: ({ boot, tags, partitions, diskName }) => {
      const roots = namedIn(boot, /(?:^|[\s"'])root=["']?([^\s"'$]+)/gm);
      return [...roots].flatMap((source) => {
        const where = [...boot.configurations.keys()].join(", ");
        const fix = "Name the root by its UUID: run grub-mkconfig inside the image";
        return isForeignName(source, diskName)
          ? finding(
              true,
              `the kernel is told root=${source}, which the machine calls ${ourName(source, diskName)}`,
              fix,
              where,
            )
          : finding(
              isMissing(source, tags, partitions, diskName),
              `the kernel is told root=${source}, which isn't on this disk`,
              fix,
              where,
            );
      });
    },
  },
  {
    id: "serial-console",
    level: "warning",
    asks: "The kernel writes to `ttyS0`: that is what `vc console` and a failed `up` show.",
    find: ({ boot }) =>
      boot.isElsewhere || boot.configurations.size === 0
        ? undefined
        : finding(
            ![...boot.configurations.values()].some((text) => /\bconsole=ttyS0\b/.test(text)),
            "its kernel writes nothing to the serial port",
            "Add console=tty0 console=ttyS0 to the kernel's options",
            [...boot.configurations.keys()].join(", "),
          ),
  },
  {
    id: "virtio",
    level: "warning",
    asks: "A kernel has drivers for virtio disks and NICs; without, nodes get SATA and e1000.",
    find: ({ kernels }) =>
      finding(
        !kernels.some(hasVirtioDrivers),
        kernels.length > 0
          ? "no kernel in it has drivers for virtio (virtio_blk, virtio_net): its nodes get a SATA disk and e1000 NICs"
          : "has no kernel modules that could be looked at: its nodes get a SATA disk and e1000 NICs",
        "Install a kernel with them: any of a distribution since 2010",
        "/lib/modules",
      ),
  },
  {
    id: "virtio-initramfs",
    level: "warning",
    asks: "A kernel that has virtio drivers as modules finds them in its initramfs, where that can be seen; with those for SATA alone nodes get SATA and e1000.",
    find: async (facts) => {
      const found = await foundDisks(facts);
      return (
        found &&
        finding(
          found.disks === "sata",
          "its initramfs has drivers for a SATA disk and none for a virtio disk: its nodes get a SATA disk and e1000 NICs",
          ADD_DRIVERS,
          found.paths.join(", "),
        )
      );
    },
  },
  {
    id: "disk-initramfs",
    level: "error",
    asks: "An initramfs finds one of the disks that a node can have: virtio or SATA.",
    find: async (facts) => {
      const found = await foundDisks(facts);
      return (
        found &&
        finding(
          found.disks === "none",
          "its initramfs has no driver for a virtio or SATA disk, so that a node wouldn't find its root",
          ADD_DRIVERS,
          found.paths.join(", "),
        )
      );
    },
  },
  {
    id: "initramfs-readable",
    level: "info",
    asks: "Each initramfs is whole, and packed in a way that can be looked into here.",
    find: async (facts) => {
      const seen = facts.boot.isElsewhere ? [] : await initramfsOf(facts);
      return seen.flatMap(([path, { problem }]) =>
        finding(
          problem !== undefined,
          `its initramfs can't be looked into: ${problem}`,
          "Install the program that unpacks it; if it isn't whole, rebuild it inside the image",
          path,
        ),
      );
    },
  },
];

/**
 * Which disk a kernel with virtio drivers finds by its initramfs.
 * @returns undefined where that can't be seen, or doesn't matter
 */
async function foundDisks(
  facts: RootFacts,
): Promise<{ readonly disks: "virtio" | "sata" | "none"; readonly paths: readonly string[] } | undefined> {
  const { kernels, boot } = facts;
  if (boot.isElsewhere || boot.initramfs.length === 0 || !kernels.some(hasVirtioDrivers)) {
    return undefined;
  }
  const seen = await initramfsOf(facts);
  const paths = seen.map(([path]) => path);
  if (kernels.some(({ disk }) => disk === "builtin") || seen.some(([, { modules }]) => modules.has("virtio_blk"))) {
    return { disks: "virtio", paths };
  }
  if (seen.some(([, { problem }]) => problem !== undefined)) {
    return undefined;
  }
  return { disks: seen.some(([, { modules }]) => hasSataDrivers(modules)) ? "sata" : "none", paths };
}

/** Seen from the file system that holds them, or from the folder of the configuration. */
function placesOf(path: string): string[] {
  return path.startsWith("/")
    ? [path, `/boot${path}`]
    : ["", "/boot", "/boot/extlinux"].map((at) => posix.normalize(`${at}/${path}`));
}

const looked = new WeakMap<RootFacts, Promise<[path: string, Initramfs][]>>();

/** Each initramfs in /boot once, and for more than one rule. */
function initramfsOf(facts: RootFacts): Promise<[path: string, Initramfs][]> {
  const known = looked.get(facts) ?? lookInto(facts);
  looked.set(facts, known);
  return known;
}

async function lookInto({ boot, root }: RootFacts): Promise<[path: string, Initramfs][]> {
  const files = await Promise.all(boot.initramfs.map((path) => throughLinks(root, path)));
  const seen: [path: string, Initramfs][] = [];
  for (const path of new Set(files)) {
    seen.push([path, await initramfsAt(root, path)]);
  }
  return seen;
}

/** What a pattern's first group finds in the boot loaders' configurations; nothing with variables in it. */
function namedIn({ configurations }: BootFolder, pattern: RegExp): ReadonlySet<string> {
  const lines = [...configurations.values()].flatMap((text) =>
    text.split("\n").filter((line) => !/^\s*#/.test(line) && line.length < 4096),
  );
  return new Set([...lines.join("\n").matchAll(pattern)].map(([, name = ""]) => name).slice(0, 32));
}
