import { join } from "node:path";
import { buildDebianImage, type DebianRecipe } from "../../provider/src/building/debian-image";
import { home } from "../../provider/src/home";

/** What every machine here needs that starts as Debian's do. */
const SYSTEMD = [
  ...["linux-image-cloud-amd64", "kmod", "busybox-static", "systemd-sysv", "udev", "dbus", "e2fsprogs", "fdisk"],
  ...["iproute2", "iputils-ping", "nftables", "openssh-client", "openssh-server", "qemu-guest-agent"],
];

/** Images whose network is configured otherwise than the demo image's. */
const RECIPES = {
  networkd: { packages: SYSTEMD, diskSize: 1024 },
  ifupdown: { packages: [...SYSTEMD, "ifupdown"], diskSize: 1024 },
  // As clouds offer them: without a guest agent.
  "cloud-init": {
    packages: [...SYSTEMD.filter((name) => name !== "qemu-guest-agent"), "ifupdown", "cloud-init"],
    diskSize: 1024,
  },
  plain: { packages: [...SYSTEMD, "ifupdown"], diskSize: 1024 },
} as const satisfies Record<string, Omit<DebianRecipe, "vcName" | "customize">>;

/** A repository with the images of the tests that need more than the demo image, each made when it is first asked for. */
export async function testImages(...names: (keyof typeof RECIPES)[]): Promise<string> {
  const folder = home("test-images");
  for (const vcName of names) {
    const recipe = { vcName, customize: join(__dirname, vcName, "customize"), ...RECIPES[vcName] };
    await buildDebianImage(recipe, { folder, progress: (line) => process.stdout.write(`${line}\n`) });
  }
  return folder;
}
