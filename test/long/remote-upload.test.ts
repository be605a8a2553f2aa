import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { execa } from "execa";
import type { ClusterRecord, DiskImage } from "../../provider/src/drivers/driver";
import { baseVolume, Clusters } from "../../provider/src/drivers/libvirt/clusters";
import { Virsh } from "../../provider/src/drivers/libvirt/virsh";
import { Volumes } from "../../provider/src/drivers/libvirt/volumes";
import { digestOf } from "../../provider/src/images/disk/digests";
import { missingPrograms, RemoteSite } from "../acceptance/remote-site";

const MEBIBYTE = 1024 * 1024;
const POOL = "virtual-cluster";

describe("base images over a slow line", () => {
  const { PATH: pathBefore, VIRTUAL_CLUSTER_HOME: homeBefore } = process.env;
  let site: RemoteSite;
  let home: string;

  before(async function () {
    if ((await missingPrograms()).length > 0) {
      this.skip();
    }
    site = await RemoteSite.start();
    home = await mkdtemp("/tmp/vc-upload-");
    process.env.VIRTUAL_CLUSTER_HOME = home;
    process.env.PATH = `${await site.ssh({ bytesPerSecond: 4 * MEBIBYTE })}:${process.env.PATH}`;
  });

  after(async () => {
    process.env.PATH = pathBefore;
    if (homeBefore === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    } else {
      process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
    }
    await site?.remove();
    await rm(home, { recursive: true, force: true });
  });

  /** 32 MiB, most of it a hole. */
  async function anyDisk(name: string, mebibytes: number): Promise<DiskImage & { readonly file: string }> {
    const file = join(home, name);
    await writeFile(file, randomBytes(mebibytes * MEBIBYTE));
    await execa("truncate", ["--size", "32M", file]);
    return { file, digest: await digestOf(file), size: 32 * MEBIBYTE, devices: "virtio", rootOffset: MEBIBYTE };
  }

  /** As a process of its own would. */
  function uploader(): { readonly lines: string[]; fixImages(image: DiskImage): Promise<void>; clusters: Clusters } {
    const virsh = new Virsh(site.uri);
    const clusters = new Clusters(
      virsh,
      new Volumes(virsh, POOL),
      async () => new Set(),
      async () => undefined,
    );
    const lines: string[] = [];
    const fixImages = (image: DiskImage) =>
      clusters.fixImages({ image: { vcName: "any", frontend: image, compute: image } } as ClusterRecord, (line) =>
        lines.push(line),
      );
    return { lines, fixImages, clusters };
  }

  const hashOf = async (file: string) =>
    createHash("sha256")
      .update(await readFile(file))
      .digest("hex");
  const hashAtSite = (image: DiskImage) => hashOf(join(site.images, baseVolume(image.digest)));

  it("go over once, holes left out, when two come at the same time", async () => {
    const image = await anyDisk("both.raw", 12);
    const [one, other] = [uploader(), uploader()];
    const started = Date.now();
    await Promise.all([one.fixImages(image), other.fixImages(image)]);
    expect(Date.now() - started, "ms for 12 MiB at 4 MiB/s").to.be.lessThan(6000);
    const said = [...one.lines, ...other.lines].join("\n");
    expect(said.match(/copying the base image to the site \(12 MiB/g)).to.have.lengthOf(1);
    expect(said).to.match(/somebody else is copying this base image to the site: waiting/);
    expect(await hashAtSite(image)).to.equal(image.digest);
  });

  it("go over again when an uploader was killed, with a line every few seconds", async () => {
    const image = await anyDisk("killed.raw", 28);
    const virsh = new Virsh(site.uri);
    await new Volumes(virsh, POOL).create(baseVolume(image.digest), image.size);
    const killed = execa(
      "virsh",
      ["-c", site.uri, "vol-upload", "--pool", POOL, baseVolume(image.digest), image.file],
      {
        reject: false,
      },
    );
    await setTimeout(1500);
    killed.kill("SIGKILL");
    const next = uploader();
    await next.fixImages(image);
    // What the killed one had sent may still be on its way.
    const [first, second, ...more] = next.lines.filter((line) => !line.startsWith("somebody else"));
    expect(first).to.match(/^copying the base image to the site \(28 MiB/);
    expect(second).to.match(/^copying the base image: \d+ of 28 MiB, \d+ MiB\/s, \d+ s left$/);
    expect(more).to.have.lengthOf(1);
    expect(await hashAtSite(image)).to.equal(image.digest);
  });

  it("are fetched back once for all that need them, and leave nothing here", async () => {
    const image = await anyDisk("lost.raw", 8);
    const { fixImages, clusters, lines } = uploader();
    await fixImages(image);
    await rm(image.file);
    const fetched = await Promise.all(
      [1, 2, 3].map(() =>
        clusters.withLocalBase(
          image,
          (line) => lines.push(line),
          async (file) => ({
            file,
            digest: createHash("sha256")
              .update(await readFile(file))
              .digest("hex"),
          }),
        ),
      ),
    );
    expect(new Set(fetched.map(({ file }) => file))).to.have.lengthOf(1);
    expect(fetched.map(({ digest }) => digest)).to.deep.equal([image.digest, image.digest, image.digest]);
    expect(lines.filter((line) => line.startsWith("fetching the base image back"))).to.have.lengthOf(1);
    expect((await execa("test", ["-e", fetched[0]?.file ?? ""], { reject: false })).exitCode).to.equal(1);
  });
});
