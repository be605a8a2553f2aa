import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { home } from "../home";
import { shellWord, withoutTokens } from "../shell-word";
import type { SitePaths } from "./paths";

/**
 * Writes the ssh configuration that reaches guests of the default site from outside its namespace. Host keys come from
 * a cluster's outputs, never from the user's known hosts: the same addresses are dealt again and again here.
 */
export function writeSshConfig(site: SitePaths): void {
  const identities = identityFiles().map((file) => `  IdentityFile "${withoutTokens(file)}"\n`);
  const command = [process.execPath, join(__dirname, "gate-client.js"), site.gate].map((word) =>
    shellWord(withoutTokens(word)),
  );
  const text = `# Written at every start of the default site.
Host *
  ProxyCommand ${command.join(" ")} %h %p
${identities.join("")}  StrictHostKeyChecking yes
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

/**
 * The user's usual keys and the one that the quickstart made. Without that one there is nothing to name: ssh knows the
 * usual ones by itself, but only until the first is named, and it complains about each named one that isn't there.
 */
function identityFiles(): string[] {
  const own = home("id_ed25519");
  const usual = ["id_ed25519", "id_ecdsa", "id_rsa"].map((name) => join(homedir(), ".ssh", name));
  return existsSync(own) ? [...usual, own].filter((file) => existsSync(file)) : [];
}
