import type { Shape } from "../../drivers/driver";
import type { PackedDisk } from "./vc-in";

/** What a vc-in.xml is to say of a node type. */
export interface DescribedNode {
  readonly disk: PackedDisk;
  readonly shape: Shape;
}

/**
 * A vc-in.xml for PRAGMA's own tools too: how disks are packed stands in `files` (2014) and in the node parts (since 2015),
 * and `driver` and the domains' elements are there although few look at them. Disks that are packed have a name each.
 * @param vcName letters, digits and `.`, `_`, `-` only
 */
export function vcInText(vcName: string, frontend: DescribedNode, compute: DescribedNode): string {
  const disks = [frontend.disk, compute.disk];
  return `<?xml version="1.0"?>
<vc version="0.1">
  <virtualization engine="kvm" type="hvm" arch="x86_64"/>
  <driver>rocks6_client</driver>
${disks.every(isPlain) ? "" : `  <files>${disks.map((disk) => fileElement(disk, "    ")).join("")}\n  </files>\n`}  <frontend>${fileElement(frontend.disk, "    ")}
    ${domain(`${vcName}-frontend`, frontend, ["private", "public"])}
  </frontend>
  <compute>
    <boot_dependency parent="frontend">
      <wait type="clock" value="0"/>
    </boot_dependency>${fileElement(compute.disk, "    ")}
    ${domain(`${vcName}-compute`, compute, ["private"])}
  </compute>
  <networks>
    <network name="private">
      <ipaddress>10.1.1.1</ipaddress>
      <netmask>255.255.0.0</netmask>
    </network>
    <frontend>
      <public>eth1</public>
    </frontend>
  </networks>
</vc>
`;
}

/** A RAW disk as it is: the domain alone says where. */
function isPlain({ name, parts, isGzip }: PackedDisk): boolean {
  return !isGzip && parts.length === 1 && parts[0] === name;
}

function fileElement(disk: PackedDisk, indent: string): string {
  if (isPlain(disk)) {
    return "";
  }
  const { name, parts, isGzip } = disk;
  const type = isGzip && parts.length === 1 && parts[0] === `${name}.gz` ? "gzip" : "splited_gzip";
  const lines = parts.map((part) => `${indent}  <part>${part}</part>`);
  return [`\n${indent}<file type="${type}" filename="${name}">`, ...lines, `${indent}</file>`].join("\n");
}

/** libvirt's domain XML, as the standard wants it. */
function domain(name: string, { disk, shape }: DescribedNode, networks: readonly string[]): string {
  const interfaces = networks.map(
    (network) => `
        <interface type="network">
          <source network="${network}"/>
          <model type="virtio"/>
        </interface>`,
  );
  return `<domain type="kvm">
      <name>${name}</name>
      <memory unit="KiB">${shape.memory * 1024}</memory>
      <vcpu>${shape.cpus}</vcpu>
      <os>
        <type arch="x86_64">hvm</type>
        <boot dev="hd"/>
      </os>
      <features>
        <acpi/>
      </features>
      <devices>
        <disk type="file" device="disk">
          <driver name="qemu" type="raw"/>
          <source file="${disk.name}"/>
          <target dev="vda" bus="virtio"/>
        </disk>${interfaces.join("")}
        <console type="pty"/>
      </devices>
    </domain>`;
}
