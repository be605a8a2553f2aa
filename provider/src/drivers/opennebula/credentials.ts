import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { Denied } from "../errors";

let configured: string | undefined;

/** The stack's own credentials, `user:password` or `user:token`; they are kept in this process alone. */
export function configureOneAuth(session: string | undefined): void {
  configured = session?.trim() || undefined;
}

/**
 * Who we are to OpenNebula: the stack's configuration first, then the file that ONE_AUTH names, then `~/.one/one_auth`.
 * @throws Denied
 */
export function oneSession(): string {
  const file = process.env.ONE_AUTH ?? join(homedir(), ".one", "one_auth");
  const session = configured ?? firstLine(file);
  if (!session?.includes(":")) {
    throw new Denied(
      "OpenNebula's credentials",
      session === undefined ? `there are none: no file ${file}` : "they are not user:password",
      "Set them with `pulumi config set --secret virtual-cluster:oneAuth user:password`, or put them into ~/.one/one_auth",
    ).about("site");
  }
  return session;
}

function firstLine(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").split("\n")[0]?.trim();
  } catch {
    return undefined;
  }
}
