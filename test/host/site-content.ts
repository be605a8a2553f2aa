import type { MemorySite } from "../../provider/src/drivers/memory/site";

/** What an in-memory site holds, as it goes from one process to the next. */
export type SiteContent = Pick<MemorySite, "networks" | "leases" | "keys" | "bases" | "disks" | "machines">;

/** A lock is nobody's as soon as its holder is gone. */
const GONE_WITH_THE_PROCESS = new Set(["locks"]);

export function contentOf(site: MemorySite): SiteContent {
  const things = Object.entries(site).filter(
    ([name, thing]) => typeof thing !== "function" && !GONE_WITH_THE_PROCESS.has(name),
  );
  return structuredClone(Object.fromEntries(things)) as SiteContent;
}
