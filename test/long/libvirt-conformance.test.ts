import { libvirtBackend } from "../conformance/libvirt";
import { describeConformance } from "../conformance/suite";

describeConformance("libvirt, interrupted at every request", (context) =>
  libvirtBackend(context, { interruptEvery: 1 }),
);
