import { join } from "node:path";
import { execa } from "execa";
import { withOverlay } from "../../images/disk/overlay";
import type { GuestFileSystem } from "../../images/root/file-system";
import { rootOf } from "../../images/root/root";
import { nodeFiles } from "../../node-files/node-files";
import type { NodeSetUp, PrivateKeys } from "../../node-files/set-up";
import { inTemporaryFolder } from "../../temporary-folder";
import { sha256 } from "../../vc-out/digest";
import type { BootRequest, ClusterRecord, DiskImage, ExaminedDisk, ForeseenImages, NodeRef } from "../driver";
import { ForeignOwner, NotSupported } from "../errors";
import type { OpenNebulaSettings } from "../settings";
import { servingFile } from "./image-server";
import { type Images, localDisk, mayHoldData, refuseForeignDisk, refuseUnwantedData } from "./images";
import { nodeTags } from "./machines";
import { diskOf } from "./names";
import { type Image, markTags, TAG } from "./objects";
import { templateText } from "./template-text";

const MIB = 1024 * 1024;

/** Whether a node's disk is made for it alone, since nothing in its image reads a context disc. */
export function isInjected({ delivery }: OpenNebulaSettings, image: ExaminedDisk): boolean {
  return (delivery ?? (image.takesContext ? "context" : "image")) === "image";
}

/** How it is learned that a node of this image is ready: where nothing tells OneGate, it counts as ready when it runs. */
export function readinessOf(settings: OpenNebulaSettings, image: ExaminedDisk): OpenNebulaSettings["readiness"] {
  const isHeard = !isInjected(settings, image) && image.reportsReady === true;
  return settings.readiness === "oneGate" && !isHeard ? "running" : settings.readiness;
}

/** What a preview says of nodes of these images. @throws NotSupported where they can't be brought here */
export function foresee(settings: OpenNebulaSettings, images: ForeseenImages): string[] {
  refuseUndeliverable(settings, images);
  const { vcName, frontend, compute, retainDisks } = images;
  if (retainDisks && isInjected(settings, frontend)) {
    throw new NotSupported(
      `retainDisks with image ${vcName} at this site`,
      "it reads no context disc, so that nothing could tell a disk that is kept its new addresses",
      "Leave retainDisks out, or install one-context or vc-guest in the image",
    ).about("retainDisks");
  }
  const injected = [frontend, compute].filter((image) => isInjected(settings, image));
  const isDeaf = [frontend, compute].some((image) => readinessOf(settings, image) !== settings.readiness);
  return [
    ...(injected.length > 0
      ? [
          `${injected.length > 1 ? "each node" : isInjected(settings, frontend) ? "the frontend" : "each compute"} gets a disk of its own, made here: OpenNebula's front-end must reach this machine at ${settings.imageServer}`,
        ]
      : []),
    ...(isDeaf
      ? [
          `nothing in its image tells OneGate that a node is ready: it counts as ready when it runs; readiness "ssh" asks it`,
        ]
      : []),
  ];
}

/** @throws NotSupported where the front-end has no way to such disks */
export function refuseUndeliverable(
  settings: OpenNebulaSettings,
  { vcName, frontend, compute }: Pick<ForeseenImages, "vcName" | "frontend" | "compute">,
): void {
  const needsServer = [frontend, compute].some((image) => isInjected(settings, image));
  if (needsServer && settings.imageServer === undefined) {
    throw new NotSupported(
      `image ${vcName} at this site`,
      "reads no context disc, so each node needs a disk of its own, which OpenNebula can't fetch from here",
      "Say in site.imageServer under which address the front-end reaches this machine, or install one-context or vc-guest in the image",
    ).about("site");
  }
}

/**
 * Disks of nodes whose image reads no context disc: the base with what it does read written in, made here and registered as
 * a persistent image `<cluster>-<node>`, which goes with its node.
 */
export class InjectedImages {
  constructor(
    private readonly images: Images,
    private readonly settings: OpenNebulaSettings,
  ) {}

  /**
   * A compute's disk is always made anew; a frontend's that a machine has had may hold data, and stays as it is.
   * @throws ForeignOwner for one that may hold data, and isn't to be kept
   */
  async ensure(ref: NodeRef<ClusterRecord>, request: BootRequest, keys: PrivateKeys): Promise<Image> {
    const present = await this.images.disk(ref);
    if (present) {
      refuseForeignDisk(present, ref.cluster);
      if (request.role === "frontend" && mayHoldData(present)) {
        refuseUnwantedData(present, request.keepDisk);
        await this.images.revive(present);
        return present;
      }
      await this.images.remove(present);
    }
    return this.make(ref, request, keys);
  }

  private async make(ref: NodeRef<ClusterRecord>, request: BootRequest, keys: PrivateKeys): Promise<Image> {
    const { cluster, node } = ref;
    const { vcOut, progress } = request;
    refuseUndeliverable(this.settings, cluster.image);
    const { imageServer = "" } = this.settings;
    const image = cluster.image[request.role];
    const name = diskOf(cluster.name, node);
    progress("making the node's own disk");
    const setUp = { name, vcOut, keys };
    const bytes = (request.plan.diskSize ?? 0) * MIB;
    return withInjectedDisk(image, bytes, setUp, (disk) =>
      servingFile(disk, imageServer, async (path) => {
        const template = templateText({
          NAME: name,
          TYPE: "OS",
          PATH: path,
          FORMAT: "raw",
          PERSISTENT: "YES",
          DEV_PREFIX: image.devices === "virtio" ? "vd" : "sd",
          ...markTags(cluster.name, cluster.mark),
          ...nodeTags(node),
          [TAG.vcOutDigest]: sha256(vcOut),
        });
        const id = await this.images.registerAs(name, template, path);
        if ((await this.images.disk(ref))?.id !== id) {
          throw new ForeignOwner(
            `image ${name}`,
            "exists and carries no mark of a virtual cluster",
            "Give this cluster another clusterName",
          );
        }
        return this.images.copied(id, name, progress);
      }),
    );
  }
}

/** Hands over a sparse RAW file, the base with the node's files in it, and removes it with its secrets. */
async function withInjectedDisk<T>(
  image: DiskImage,
  bytes: number,
  setUp: NodeSetUp,
  use: (file: string) => Promise<T>,
): Promise<T> {
  const base = await localDisk(image.digest);
  const size = Math.max(image.size, bytes);
  const changes = (root: GuestFileSystem) => nodeFiles(image.reads, setUp, root);
  return inTemporaryFolder(async (folder) => {
    const disk = join(folder, "disk.raw");
    await withOverlay({ base, baseAtSite: base, size, root: rootOf(image), changes }, async (overlay) => {
      await execa("qemu-img", ["convert", "-q", "-f", "qcow2", "-O", "raw", overlay, disk]);
    });
    return use(disk);
  });
}
