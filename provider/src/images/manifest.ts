import { z } from "zod";
import { NETWORK_CONTRACTS } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { DIALECTS } from "../vc-out/vc-out";

/** What a `manifest.json` beside a vc-in.xml may say of the network; what else is in it belongs to whoever made the image. */
const manifest = z.object({
  /** By which way the network contract reaches what is inside. Absent: as the disk looks. */
  reads: z.enum(NETWORK_CONTRACTS).optional(),
  /** In which dialect. Absent: as the disk looks. */
  vcOutDialect: z.enum(DIALECTS).optional(),
});
export type Manifest = z.output<typeof manifest>;

/** @throws InvalidImage that names the property and its value */
export function parseManifest(text: string, origin: string): Manifest {
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch (error) {
    throw new InvalidImage(origin, `is not JSON: ${(error as Error).message}`);
  }
  const parsed = manifest.safeParse(said, { reportInput: true });
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const property = issue?.path.join(".") || "it";
    throw new InvalidImage(
      origin,
      `${property} is ${JSON.stringify(issue?.input)}, which nobody knows`,
      `reads is one of ${NETWORK_CONTRACTS.join(", ")}; vcOutDialect is ${DIALECTS.join(" or ")}; both may be left out`,
    );
  }
  return parsed.data;
}
