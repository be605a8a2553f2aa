import { delimiter } from "node:path";

/** Where programs for administrators lie, `debugfs` and `e2fsck` among them: Debian leaves them out of other users' PATH. */
const FOLDERS = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/** Lets this process and those that it starts find such programs too. Again is harmless. */
export function searchSystemFolders(environment: NodeJS.ProcessEnv = process.env): void {
  const present = (environment.PATH ?? "").split(delimiter).filter(Boolean);
  const added = FOLDERS.filter((folder) => !present.includes(folder));
  environment.PATH = [...present, ...added].join(delimiter);
}
