import { join } from "node:path";
import { RULES } from "../../provider/src/images/standard/check";
import { table, withTable } from "./tables";

export const IMAGE_STANDARD = join(__dirname, "..", "..", "docs", "image-standard.md");

/** docs/image-standard.md with its table of rules made anew. */
export function withRules(page: string): string {
  const rows = Object.entries(RULES).flatMap(([about, rules]) =>
    rules.map(({ id, level, asks }, index) => [index === 0 ? about : "", `\`${id}\``, level, asks]),
  );
  return withTable(page, "rules", table(["about", "rule", "level", "asks"], rows));
}
