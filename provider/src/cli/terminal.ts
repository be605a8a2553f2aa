/** Where a command's text goes: one call is one line, or several. */
export interface Terminal {
  /** What was asked for. */
  readonly out: (text: string) => void;
  /** Progress beside a program's output, and what went wrong. */
  readonly err: (text: string) => void;
  /** Shows a text in the place of the one that it has shown before. Absent where that can't be done: in a pipe. */
  readonly redraw?: (text: string) => void;
  /** Ends what would go on forever. Default: the process is ended. */
  readonly ended?: AbortSignal;
}

/** Has a command end with that code, when all of it has been tried. Default 1. */
export type Fail = (exitCode?: number) => void;

export const TERMINAL: Terminal = {
  out: (text) => void process.stdout.write(`${text}\n`),
  err: (text) => void process.stderr.write(`${text}\n`),
  ...(process.stdout.isTTY && { redraw: redrawing(process.stdout) }),
};

const ESCAPE = "\u001b[";

/** Lines that are too long for the terminal are cut off: broken in two, they would be more than are taken back. */
export function redrawing(screen: Pick<NodeJS.WriteStream, "write" | "columns">): (text: string) => void {
  let height = 0;
  return (text) => {
    // A terminal that doesn't know how wide it is says 0.
    const lines = text.split("\n").map((line) => line.slice(0, screen.columns || undefined));
    screen.write(`${height > 0 ? `${ESCAPE}${height}A` : ""}\r${ESCAPE}J${lines.join("\n")}\n`);
    height = lines.length;
  };
}

/** What somebody else has written, without what would move the cursor or change colours. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replaceAll(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "");
}
