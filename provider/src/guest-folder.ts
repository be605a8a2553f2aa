import { join } from "node:path";

/** `guest/` of this package, what runs inside images; seen from `src/` and from `dist/` alike. */
export const GUEST_FOLDER = join(__dirname, "..", "guest");
