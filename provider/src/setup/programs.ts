import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/** All programs of that name on PATH, in its order. */
export function onPath(name: string, path = process.env.PATH ?? ""): string[] {
  const folders = path.split(delimiter).filter((folder) => folder !== "");
  return folders.map((folder) => join(folder, name)).filter(isProgram);
}

export function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}
