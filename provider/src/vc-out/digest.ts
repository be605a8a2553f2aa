import { createHash } from "node:crypto";

/** By which a guest says which vc-out.xml it follows. */
export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
