import { XMLBuilder } from "fast-xml-parser";
import type { ClusterPlan } from "../../plan/plan";
import type { Shape } from "../driver";

/** Names of the disks beside the vc-in.xml: links to the image's own. */
export const DISK_FILES = { frontend: "frontend.raw", compute: "compute.raw" } as const;
const KIB_PER_MIB = 1024;

const builder = new XMLBuilder({
  ignoreAttributes: false,
  attributeNamePrefix: "@",
  format: true,
  suppressEmptyNode: true,
});

/** The vc-in.xml that a site's programs get: the image's disks, in machines of the shape that the program asks for. */
export function writeVcIn(name: string, plan: ClusterPlan): string {
  const computeShape = { cpus: plan.asked?.cpusPerNode ?? 1, memory: plan.computes[0]?.memory ?? plan.frontend.memory };
  const vc = {
    "@version": "0.1",
    virtualization: { "@engine": "kvm", "@type": "hvm", "@arch": "x86_64" },
    driver: "command",
    frontend: { domain: domain(name, plan.frontend, DISK_FILES.frontend) },
    compute: { domain: domain(`${name}-compute`, computeShape, DISK_FILES.compute) },
  };
  return `<?xml version="1.0" ?>\n${builder.build({ vc })}`;
}

function domain(name: string, { cpus, memory }: Pick<Shape, "cpus" | "memory">, file: string): object {
  return {
    "@type": "kvm",
    name,
    // libvirt's unit where none is written.
    memory: memory * KIB_PER_MIB,
    vcpu: cpus,
    os: { type: { "@arch": "x86_64", "#text": "hvm" } },
    devices: {
      disk: {
        "@type": "file",
        "@device": "disk",
        driver: { "@name": "qemu", "@type": "raw" },
        source: { "@file": file },
        target: { "@dev": "vda", "@bus": "virtio" },
      },
    },
  };
}
