import { accessSync, constants, readFileSync } from "node:fs";

/**
 * Whether guests can run on KVM here. `/dev/kvm` alone doesn't tell: on some para-virtual hosts it is there and every
 * guest hangs, so the CPU has to show `vmx` or `svm` too. Permission isn't asked for: the guests run as another user.
 */
export function kvmUsable(device = "/dev/kvm", cpuinfo = "/proc/cpuinfo"): boolean {
  try {
    accessSync(device, constants.F_OK);
    return /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync(cpuinfo, "utf8"));
  } catch {
    return false;
  }
}
