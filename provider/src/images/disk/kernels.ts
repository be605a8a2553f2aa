import type { GuestFileSystem } from "../root/file-system";

/** More than any image has. */
const MOST_KERNELS = 16;

/** A kernel of an image, with its drivers for a virtio disk and NIC. */
export interface Kernel {
  /** As below /lib/modules. */
  readonly version: string;
  readonly disk: Driver;
  readonly nic: Driver;
}

type Driver = "builtin" | "module" | "missing";

/** Kernels that have a list of their modules. */
export async function kernelsOf(root: GuestFileSystem): Promise<Kernel[]> {
  const versions = (await root.list("/lib/modules")).map(({ name }) => name).filter((name) => /^\d/.test(name));
  return Promise.all(
    versions.slice(0, MOST_KERNELS).map(async (version) => {
      const [builtin = "", modules = ""] = await Promise.all(
        ["modules.builtin", "modules.dep"].map((list) => root.read(`/lib/modules/${version}/${list}`)),
      );
      const driver = (name: string): Driver =>
        builtin.includes(`/${name}.ko`) ? "builtin" : modules.includes(`/${name}.ko`) ? "module" : "missing";
      return { version, disk: driver("virtio_blk"), nic: driver("virtio_net") };
    }),
  );
}

export function hasVirtioDrivers({ disk, nic }: Kernel): boolean {
  return disk !== "missing" && nic !== "missing";
}
