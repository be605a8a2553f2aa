import { z } from "zod";
import { NETWORK_CONTRACTS } from "../../drivers/driver";
import { InvalidImage } from "../../drivers/errors";
import { DIALECTS } from "../../vc-out/vc-out";

/** Of what `vc image pack` writes. */
export const FORMAT_VERSION = 1;

/** What a `manifest.json` beside a vc-in.xml may say of the network; what else is in it belongs to whoever made the image. */
const network = {
  /** By which way the network contract reaches what is inside. Absent: as the disk looks. */
  reads: z.enum(NETWORK_CONTRACTS).optional(),
  /** In which dialect. Absent: as the disk looks. */
  vcOutDialect: z.enum(DIALECTS).optional(),
};
const content = z.strictObject({
  /** Bytes. */
  size: z.int().min(0),
  /** Hex. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
export type Content = z.output<typeof content>;

const foreign = z.object({ ...network, formatVersion: z.undefined().optional() });
const ours = z.object({
  ...network,
  formatVersion: z.literal(FORMAT_VERSION),
  /** Of each disk, unpacked, by its name in the vc-in.xml. */
  disks: z.record(z.string(), content),
  /** Of each file that a disk is packed in, by its name in the vc-in.xml. */
  files: z.record(z.string(), content),
});
export type Manifest = z.output<typeof foreign> & Partial<Pick<z.output<typeof ours>, "disks" | "files">>;

/** @throws InvalidImage that names the property and its value */
export function parseManifest(text: string, origin: string): Manifest {
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch (error) {
    throw new InvalidImage(origin, `is not JSON: ${(error as Error).message}`);
  }
  const isOurs = typeof said === "object" && said !== null && "formatVersion" in said;
  const parsed = (isOurs ? ours : foreign).safeParse(said, { reportInput: true });
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const property = issue?.path.join(".") || "it";
    throw new InvalidImage(
      origin,
      `${property} is ${JSON.stringify(issue?.input)}, which nobody knows`,
      `reads is one of ${NETWORK_CONTRACTS.join(", ")}; vcOutDialect is ${DIALECTS.join(" or ")}; both may be left out. ` +
        `With formatVersion ${FORMAT_VERSION} disks and files give each a size and a sha256`,
    );
  }
  const { formatVersion: _, ...manifest } = parsed.data;
  return manifest;
}
