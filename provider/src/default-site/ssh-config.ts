import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { home } from "../home";
import type { SitePaths } from "./paths";

/**
 * Writes the ssh configuration that reaches guests of the default site from outside its namespace. Host keys come from
 * a cluster's outputs, never from the user's known hosts: the same addresses are dealt again and again here.
 */
export function writeSshConfig(site: SitePaths): void {
  const command = [process.execPath, join(__dirname, "gate-client.js"), site.gate].map(shellQuoted);
  const text = `# Written at every start of the default site.
Host *
  ProxyCommand ${command.join(" ")} %h %p
  IdentityFile ~/.ssh/id_ed25519
  IdentityFile ~/.ssh/id_rsa
  IdentityFile "${withoutTokens(home("id_ed25519"))}"
  StrictHostKeyChecking yes
  UserKnownHostsFile none
  GlobalKnownHostsFile none
`;
  if (existsSync(site.sshConfig) && readFileSync(site.sshConfig, "utf8") === text) {
    return;
  }
  const unfinished = `${site.sshConfig}.${process.pid}`;
  writeFileSync(unfinished, text, { mode: 0o600 });
  renameSync(unfinished, site.sshConfig);
}

/** ssh hands a ProxyCommand to the user's shell, after it has replaced its %-tokens. */
function shellQuoted(text: string): string {
  return `'${withoutTokens(text).replaceAll("'", `'\\''`)}'`;
}

function withoutTokens(text: string): string {
  return text.replaceAll("%", "%%");
}
