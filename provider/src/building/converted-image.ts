import { rename, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import type { ExaminedDisk, Progress, Shape } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { withBytes } from "../images/disk/bytes";
import { containerOf } from "../images/disk/container";
import { hashOf } from "../images/disk/digests";
import { refuseInUse } from "../images/disk/in-use";
import type { GuestChange } from "../images/disk/inject";
import { readQcow2Header } from "../images/disk/qcow2";
import { examineDisk, withDisk } from "../images/examine";
import { applyFixes, copySparsely, refuseHopeless } from "../images/fixes/fixed-disk";
import { findFixes } from "../images/fixes/fixes";
import { FORMAT_VERSION } from "../images/repository/manifest";
import { addToRepository, type NewImage } from "../images/repository/repository-folder";
import { MOST_UNPACKED } from "../images/repository/unpack";
import { vcInText } from "../images/repository/vc-in-text";
import type { GuestFileSystem } from "../images/root/file-system";
import { whatInstallWrites } from "../node-files/configured-files";

const DISK = "disk.raw";
const CONVERT_LIMIT_MS = 3600_000;

/** Where the makers of disks leave what only one machine may have. */
const OF_ONE_MACHINE = {
  folder: "/etc/ssh",
  names: /^ssh_host_.*key(\.pub)?$/,
  files: ["/etc/udev/rules.d/70-persistent-net.rules", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed"],
};
const MACHINE_ID = "/etc/machine-id";
const CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled";

export interface Conversion extends NewImage {
  /** A disk that a virtual machine starts from: RAW, or qcow2 without a backing file. */
  readonly from: string;
  /** MiB; default: the disk's. */
  readonly diskSize?: number;
  readonly shape: Shape;
}

/**
 * Turns a virtual machine's disk into an image, for frontend and computes alike: with the guest program, without what only
 * one machine may have, and with what would keep it from running put right. The disk itself is only read.
 * @returns the image's folder
 * @throws InvalidImage for a disk that can't be run, SiteFailure, Locked
 */
export async function convertImage(conversion: Conversion, progress: Progress): Promise<string> {
  const { vcName, from, diskSize, shape } = conversion;
  const tell = (line: string) => progress(`image ${vcName}: ${line}`);
  return addToRepository(conversion, progress, async (folder) => {
    const disk = join(folder, DISK);
    tell(`copying ${from}`);
    await copyRaw(from, disk);
    const { size } = await stat(disk);
    const grows = diskSize !== undefined && diskSize * 1024 * 1024 > size;
    if (diskSize !== undefined && diskSize * 1024 * 1024 < size) {
      throw new InvalidImage(
        `disk ${from}`,
        `has ${Math.ceil(size / 1024 / 1024)} MiB already`,
        "Ask for at least that: a disk only grows",
      );
    }
    if (grows) {
      await truncate(disk, diskSize * 1024 * 1024);
    }
    const examined = await adapt(disk, grows, tell).catch((error: unknown) => {
      // It is the disk that was given that has to be mended.
      throw error instanceof InvalidImage ? new InvalidImage(`disk ${from}`, error.detail, error.hint) : error;
    });
    tell("working out its checksum");
    const content = { size: examined.size, sha256: await hashOf(disk, `image ${vcName}`, progress) };
    const manifest = { formatVersion: FORMAT_VERSION, disks: { [DISK]: content }, files: { [DISK]: content } };
    const node = { disk: { name: DISK, parts: [DISK], isGzip: false }, shape };
    await writeFile(join(folder, "manifest.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
    await writeFile(join(folder, "vc-in.xml"), vcInText(vcName, node, node));
  });
}

/** By content and never by name; no other file is read, whatever the disk says. */
async function copyRaw(from: string, to: string): Promise<void> {
  const container = await withBytes(from, containerOf);
  await refuseInUse(from);
  if (container && (container.name !== "qcow2" || container.reads)) {
    const { name, reads, fix } = container;
    const more = reads ? `, and has its ${reads.what} ${JSON.stringify(reads.name)}` : "";
    throw new InvalidImage(
      `disk ${from}`,
      `is ${name}${more}: neither RAW nor qcow2 in one file`,
      reads ? "Copy it into one file: qemu-img convert -O raw, where all of them are yours" : fix,
    );
  }
  if (!container) {
    await copySparsely(from, to);
    return;
  }
  const { size } = await readQcow2Header(from);
  if (size > MOST_UNPACKED) {
    throw new InvalidImage(`disk ${from}`, `says that it has ${size} bytes`, "An image has at most 256 GiB");
  }
  const image = { driver: "qcow2", file: { driver: "file", filename: from }, backing: null };
  await execa("qemu-img", ["convert", "-q", "-O", "raw", `json:${JSON.stringify(image)}`, `${to}.part`], {
    timeout: CONVERT_LIMIT_MS,
  });
  await rename(`${to}.part`, to);
}

async function adapt(disk: string, grows: boolean, tell: Progress): Promise<ExaminedDisk> {
  const { fixes, changes } = await withDisk(disk, async (opened) => ({
    fixes: await findFixes(opened),
    changes: [...(await withoutOneMachine(opened.root)), ...(await whatInstallWrites(opened.root))],
  }));
  refuseHopeless(disk, fixes);
  for (const line of [...fixes.said, "vc-guest is installed, which configures machines from vc-out.xml"]) {
    tell(line);
  }
  await applyFixes(disk, fixes, { changes, grows });
  return examineDisk(disk);
}

/** Each machine gets its own of these; and only one program may configure the network. */
async function withoutOneMachine(root: GuestFileSystem): Promise<GuestChange[]> {
  const keys = (await root.list(OF_ONE_MACHINE.folder)).filter(({ name }) => OF_ONE_MACHINE.names.test(name));
  const named = await Promise.all(OF_ONE_MACHINE.files.map(async (path) => ((await root.has(path)) ? [path] : [])));
  const removed = [...keys.map(({ name }) => `${OF_ONE_MACHINE.folder}/${name}`), ...named.flat()];
  return [
    ...removed.map((path) => ({ path, removed: true }) as const),
    ...((await root.has(MACHINE_ID)) ? [{ path: MACHINE_ID, content: "", mode: 0o444 }] : []),
    ...((await root.has("/etc/cloud")) ? [{ path: CLOUD_INIT_OFF, content: "", mode: 0o644 }] : []),
  ];
}
