import { readFileSync, writeFileSync } from "node:fs";
import { LIFE_CYCLE, withPolicies } from "./policy-tables";
import { IMAGE_STANDARD, withRules } from "./rule-table";

/** Pages with tables that are made from the code, and what makes them. */
export const PAGES: ReadonlyArray<readonly [file: string, withTables: (page: string) => string]> = [
  [LIFE_CYCLE, withPolicies],
  [IMAGE_STANDARD, withRules],
];

if (require.main === module) {
  for (const [file, withTables] of PAGES) {
    writeFileSync(file, withTables(readFileSync(file, "utf8")));
  }
}
