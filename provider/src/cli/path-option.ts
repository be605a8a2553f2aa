import { InvalidArgumentError } from "commander";

/** A variable of a shell that isn't set would be this folder. */
export function parsePath(text: string): string {
  if (text === "") {
    throw new InvalidArgumentError("it is empty");
  }
  return text;
}
