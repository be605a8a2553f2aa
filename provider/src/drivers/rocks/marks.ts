import type { Mark } from "../driver";

/** The attribute of a cluster's frontend in Rocks' tables that says whose it is. */
export const MARK_ATTRIBUTE = "virtual_cluster";

/** Rocks pastes values into SQL and prints them in columns: letters, digits, dashes and underscores come through. */
export function encodeMark(mark: Mark): string {
  return Buffer.from(JSON.stringify(mark)).toString("base64url");
}

/** @returns undefined for what is no mark of ours */
export function decodeMark(value: string | undefined): Mark | undefined {
  try {
    const mark = JSON.parse(Buffer.from(value ?? "", "base64url").toString("utf8")) as Partial<Mark>;
    return mark.version === 1 && typeof mark.owner === "string" ? (mark as Mark) : undefined;
  } catch {
    return undefined;
  }
}
