import { libvirtBackend } from "./libvirt";
import { describeConformance } from "./suite";

describeConformance("libvirt", (context) => libvirtBackend(context));
