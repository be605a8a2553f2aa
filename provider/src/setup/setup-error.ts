/** Something that set-up needs can't be had. The message is one sentence that says what is missing and what to do. */
export class SetupError extends Error {
  override readonly name = "SetupError";
}

/** Receives one plain line for each thing that is being done. */
export type Progress = (line: string) => void;
