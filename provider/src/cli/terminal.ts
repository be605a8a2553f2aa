/** Where a command's text goes: one call is one line, or several. */
export interface Terminal {
  /** What was asked for. */
  readonly out: (text: string) => void;
  /** Progress beside a program's output, and what went wrong. */
  readonly err: (text: string) => void;
}

export const TERMINAL: Terminal = {
  out: (text) => void process.stdout.write(`${text}\n`),
  err: (text) => void process.stderr.write(`${text}\n`),
};
