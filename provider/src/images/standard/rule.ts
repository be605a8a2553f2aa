/** What a rule's findings mean: the image can't be run; it can, with care; just so that it is known. */
export type Level = "error" | "warning" | "info";

/** Where an image isn't as a rule asks. */
export interface Finding {
  /** What was found: the rest of a sentence that the disk, or the vc-in.xml, begins. */
  readonly found: string;
  /** A file or place inside. */
  readonly where?: string;
  /** What to do about it. */
  readonly fix: string;
}

/** One rule of the image standard, or of what is good to know beside it. */
export interface Rule<Subject> {
  readonly id: string;
  readonly level: Level;
  /** What it asks, as one sentence of Markdown. */
  readonly asks: string;
  /** @returns undefined where it can't be looked at, since what it needs isn't there */
  readonly find: (subject: Subject) => Found | Promise<Found>;
}

type Found = readonly Finding[] | undefined;

/** The one finding, if there is something to be said. */
export function finding(isWrong: boolean, found: string, fix: string, where?: string): readonly Finding[] {
  return isWrong ? [{ found, fix, ...(where && { where }) }] : [];
}
