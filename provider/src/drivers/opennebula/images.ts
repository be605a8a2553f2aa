import { setTimeout } from "node:timers/promises";
import { locateDisk } from "../../images/disk/digests";
import { steadyProgress } from "../../setup/steady-progress";
import type { ClusterRef, DiskImage, Mark, NodeRef, Progress } from "../driver";
import { ForeignOwner, InvalidImage, NotFound, NotSupported, SiteFailure } from "../errors";
import { isOurs } from "../ownership";
import type { OpenNebulaSettings } from "../settings";
import type { OneClient } from "./client";
import { servingFile } from "./image-server";
import { baseOf, diskOf, named } from "./names";
import { IMAGE, type Image, markOf, markTags, parseDatastores, TAG } from "./objects";
import type { Pools } from "./pools";
import { NameTaken } from "./refusals";
import { templateText } from "./template-text";
import { eventually, whenAllowed } from "./waiting";
import { ConnectionLost } from "./xml-rpc";

const COPY_SECONDS = 6 * 3600;
const COPY_POLL_MS = 1000;
const REMOVE_SECONDS = 120;
const MIB = 1024 * 1024;

/** Images in OpenNebula's datastore: bases, one per digest, which machines share; and frontends' own disks. */
export class Images {
  constructor(
    private readonly client: OneClient,
    private readonly pools: Pools,
    private readonly settings: OpenNebulaSettings,
    private readonly uid: () => Promise<number>,
  ) {}

  // ── Bases ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A base that is whole, undefined where there is none. */
  async base(digest: string): Promise<Image | undefined> {
    return (await this.pools.images()).find((image) => image.name === baseOf(digest) && isWhole(image));
  }

  /** Whether the datastore of the settings is there and takes images. @throws NotFound */
  async datastore(): Promise<number> {
    const { datastore = "" } = this.settings;
    const stores = parseDatastores(await this.client.text("datastorepool.info"));
    return named(
      "datastore",
      datastore,
      stores.filter(({ isForImages }) => isForImages),
      await this.uid(),
    ).id;
  }

  /** Registers a disk under its digest, unless that is done or under way; waits until it is copied. */
  async ensureBase(image: DiskImage, progress: Progress): Promise<void> {
    const present = (await this.pools.images()).find(({ name }) => name === baseOf(image.digest));
    if (present && isWhole(present)) {
      return;
    }
    if (present && isBeingCopied(present)) {
      progress("waiting for another copy of the base image to the site");
      await this.copied(present.id, baseOf(image.digest), progress);
      return;
    }
    if (present) {
      await this.remove(present);
    }
    progress("copying the base image to the site");
    await this.withPath(image.digest, async (path) => {
      const id = await this.register(image, path);
      await this.copied(id, baseOf(image.digest), progress);
    });
  }

  private async register(image: DiskImage, path: string): Promise<number> {
    const name = baseOf(image.digest);
    const template = templateText({
      NAME: name,
      TYPE: "OS",
      PATH: path,
      FORMAT: "raw",
      PERSISTENT: "NO",
      DEV_PREFIX: image.devices === "virtio" ? "vd" : "sd",
      DESCRIPTION: "Base image of virtual clusters: it goes with the last of them",
      [TAG.base]: image.digest,
    });
    return this.registerAs(name, template, path);
  }

  /** @returns the id of the image that is being copied now, or that has the name already */
  async registerAs(name: string, template: string, path: string): Promise<number> {
    const datastore = await this.datastore();
    try {
      return await this.client.id("image.allocate", template, datastore);
    } catch (error) {
      if (error instanceof NameTaken) {
        return error.id;
      }
      if (error instanceof ConnectionLost) {
        const made = (await this.pools.images()).find((one) => one.name === name);
        if (made) {
          return made.id;
        }
      }
      const said = (error as Error).message;
      if (error instanceof SiteFailure && /cannot access|Cannot parse image SIZE/.test(said)) {
        throw new NotFound(
          `image ${name}`,
          `OpenNebula's front-end can't read it at ${path}: ${said}`,
          "Say in site.images where it finds disks, or in site.imageServer under which address it reaches this machine",
        ).about("site");
      }
      throw error;
    }
  }

  /** Where the front-end finds a disk while `use` is at work. */
  private async withPath<T>(digest: string, use: (path: string) => Promise<T>): Promise<T> {
    const { images, imageServer } = this.settings;
    if (images !== undefined) {
      return use(`${images.replace(/\/$/, "")}/${digest}.raw`);
    }
    const file = await localDisk(digest);
    return imageServer === undefined ? use(file) : servingFile(file, imageServer, use);
  }

  /** Removes bases that nobody needs: the caller knows that no record names them. */
  async removeBases(digests: readonly string[]): Promise<void> {
    const names = new Set(digests.map(baseOf));
    for (const image of await this.pools.images()) {
      if (names.has(image.name) && image.vms.length === 0) {
        await this.remove(image);
      }
    }
  }

  // ── A node's own disk ────────────────────────────────────────────────────────────────────────────────────────────

  /** A frontend's disk, whoever's; a compute's only where it isn't its machine's, and with a mark. */
  async disk({ cluster, node }: NodeRef): Promise<Image | undefined> {
    return (await this.pools.images()).find(
      (image) =>
        image.name === diskOf(cluster.name, node) &&
        image.state !== IMAGE.DELETE &&
        (node === "frontend" || markOf(image) !== undefined),
    );
  }

  /** Removes computes' own disks that a `boot` which was cut off has left. */
  async removeLeftovers(cluster: ClusterRef): Promise<void> {
    for (const image of await this.pools.images()) {
      const isOfCompute = image.attributes.get(TAG.cluster) === cluster.name && image.attributes.has(TAG.index);
      if (isOfCompute && image.state !== IMAGE.DELETE && isOurs(markOf(image), cluster)) {
        await this.remove(image);
      }
    }
  }

  /**
   * A disk that outlives its machine, cloned from the base. One that a machine has had before is used again where
   * `keepDisk` says so.
   * @throws ForeignOwner for one that may hold data, and isn't to be kept; NotSupported for one of another image
   */
  async ensureDisk(
    ref: NodeRef<ClusterRef & { readonly mark: Mark }>,
    base: Image,
    keepDisk: boolean,
    progress: Progress,
  ): Promise<Image> {
    const { cluster } = ref;
    const name = diskOf(cluster.name);
    let disk = await this.disk(ref);
    if (disk) {
      refuseForeignDisk(disk, cluster);
      refuseUnwantedData(disk, keepDisk);
      refuseOtherBase(disk, base);
      if (mayHoldData(disk)) {
        await this.revive(disk);
      } else if (disk.state === IMAGE.ERROR) {
        await this.remove(disk);
        disk = undefined;
      }
    }
    if (!disk) {
      progress("copying the frontend's disk from the base image");
    }
    const id = disk?.id ?? (await this.clone(base, name));
    if (!disk || !markOf(disk)) {
      // What the base says of itself has come along.
      await this.client.append("image", id, { ...markTags(cluster.name, cluster.mark), [TAG.role]: "frontend" });
    }
    const whole = await this.copied(id, name, progress);
    if (!whole.persistent) {
      await this.client.call("image.persistent", id, true);
    }
    return whole;
  }

  /** OpenNebula takes a disk for broken whose machine was removed after a failure; what is on it is as it was. */
  async revive({ id, state }: Image): Promise<void> {
    if (state === IMAGE.ERROR) {
      await this.client.call("image.enable", id, true);
    }
  }

  /** Says that a machine has the disk: from now on there may be data on it. */
  async markUsed(disk: Image): Promise<void> {
    if (!mayHoldData(disk)) {
      await this.client.append("image", disk.id, { [TAG.used]: "YES" });
    }
  }

  private async clone(base: Image, name: string): Promise<number> {
    try {
      return await this.client.id("image.clone", base.id, name, -1);
    } catch (error) {
      if (error instanceof ConnectionLost) {
        const made = (await this.pools.images()).find((image) => image.name === name);
        if (made) {
          return made.id;
        }
      }
      throw error;
    }
  }

  /** Already gone is success; it is gone when this returns. */
  async remove({ id, name }: Pick<Image, "id" | "name">): Promise<void> {
    const present = async () => (await this.pools.images()).find((image) => image.id === id);
    await whenAllowed(async () => {
      try {
        await this.client.call("image.delete", id);
      } catch (error) {
        if (!(error instanceof NotFound) && (await present())?.state !== IMAGE.DELETE) {
          throw error;
        }
      }
    }, REMOVE_SECONDS);
    const isGone = async () => ((await present()) ? undefined : true);
    if (!(await eventually(isGone, REMOVE_SECONDS))) {
      throw new SiteFailure(
        `image ${name}`,
        `OpenNebula hasn't removed it within ${REMOVE_SECONDS} s`,
        "See what `oneimage show` says of it",
      );
    }
  }

  /** @throws InvalidImage with what OpenNebula says of an image that it could not copy */
  async copied(id: number, name: string, progress: Progress): Promise<Image> {
    const steady = steadyProgress(progress);
    const end = Date.now() + COPY_SECONDS * 1000;
    for (let pause = 20; Date.now() < end; pause = Math.min(pause * 2, COPY_POLL_MS)) {
      const image = (await this.pools.images()).find((one) => one.id === id);
      if (!image) {
        throw new NotFound(`image ${name}`, "is gone again", "Run `pulumi up` again");
      }
      if (isWhole(image)) {
        return image;
      }
      if (image.state === IMAGE.ERROR) {
        throw new InvalidImage(
          `image ${name}`,
          `OpenNebula could not copy it: ${image.attributes.get("ERROR") ?? "it says no reason"}`,
          "A path must be in the datastore's SAFE_DIRS, and a URL one that the front-end reaches: docs/sites/opennebula.md",
        );
      }
      steady(`OpenNebula is copying ${name}`);
      await setTimeout(pause);
    }
    throw new SiteFailure(`image ${name}`, `isn't copied after ${COPY_SECONDS} s`);
  }
}

function isBeingCopied({ state }: Image): boolean {
  return state === IMAGE.LOCKED || state === IMAGE.LOCKED_USED || state === IMAGE.LOCKED_USED_PERS;
}

export function isWhole({ state }: Pick<Image, "state">): boolean {
  return state === IMAGE.READY || state === IMAGE.USED || state === IMAGE.USED_PERS;
}

/** @throws ForeignOwner */
export function refuseUnwantedData(disk: Image, keepDisk: boolean): void {
  if (mayHoldData(disk) && !keepDisk) {
    throw new ForeignOwner(
      `the frontend's disk ${disk.name}`,
      "is there without a machine, and may hold data",
      "To use it again set adopt: true; if nobody needs it, remove it with `oneimage delete`",
    );
  }
}

/** A clone has its base's digest. */
function refuseOtherBase(disk: Image, base: Image): void {
  const [has, wanted] = [disk, base].map(({ attributes }) => attributes.get(TAG.base));
  if (mayHoldData(disk) && has !== undefined && has !== wanted) {
    throw new NotSupported(
      `the frontend's disk ${disk.name}`,
      "was kept from a cluster of another image",
      "Take it up again with that image; or, if nobody needs it, remove it with `oneimage delete`",
    );
  }
}

/** @throws NotFound */
export async function localDisk(digest: string): Promise<string> {
  const file = await locateDisk(digest);
  if (file === undefined) {
    throw new NotFound(
      "the base image",
      `neither this machine nor the site has the disk ${digest.slice(0, 16)}…`,
      "Put the image back into its repository",
    );
  }
  return file;
}

export function mayHoldData({ attributes, vms }: Image): boolean {
  return attributes.get(TAG.used) === "YES" || vms.length > 0;
}

/** An image of a base's, with a frontend's name and no mark yet, is one whose cloning was cut off. */
export function refuseForeignDisk(disk: Image, cluster: ClusterRef): void {
  const mark = markOf(disk);
  const isUnmarkedClone = mark === undefined && Boolean(disk.attributes.get(TAG.base));
  if (!isUnmarkedClone && !isOurs(mark, cluster)) {
    throw new ForeignOwner(
      `image ${disk.name}`,
      mark
        ? `belongs to ${mark.owner} (cluster ${mark.cluster} of stack ${mark.organization}/${mark.project}/${mark.stack})`
        : "exists and carries no mark of a virtual cluster",
      "Give this cluster another clusterName",
    );
  }
}

/** MiB that a disk image needs. */
export function mibOf({ size }: DiskImage): number {
  return Math.ceil(size / MIB);
}
