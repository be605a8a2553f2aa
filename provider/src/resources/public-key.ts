import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { NotFound, VirtualClusterError } from "../drivers/errors";
import { home } from "../home";

const TYPES = /^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)$/;

/** A text given as a public key that isn't one. */
class InvalidKey extends VirtualClusterError {}

/**
 * One public ssh key in OpenSSH's form, comment included, checked as far as the key's own bytes say what they are.
 * @param origin the file it comes from, for messages
 */
export function parsePublicKey(text: string, origin?: string): string {
  const invalid = (detail: string, hint: string) =>
    new InvalidKey(origin ? `publicKey (${origin})` : "publicKey", detail, hint).about("publicKey");
  const line = text.trim();
  if (/PRIVATE KEY/.test(line)) {
    throw invalid(
      "is a private key",
      "Give the public one, the file that ends with .pub; keep the private one to yourself",
    );
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\x00-\x1f\x7f]/.test(line)) {
    throw invalid("is more than one line of text", "Give one key");
  }
  const [type = "", data = ""] = line.split(" ");
  const bytes = Buffer.from(data, "base64");
  const declared = bytes.length > 4 ? bytes.subarray(4, 4 + bytes.readUInt32BE(0)).toString("latin1") : "";
  if (!TYPES.test(type) || declared !== type) {
    throw invalid("is not a public ssh key", "It looks like `ssh-ed25519 AAAA… comment`");
  }
  return line;
}

/**
 * This user's public key: `~/.ssh/id_ed25519.pub`, `~/.ssh/id_rsa.pub`, else the one that the quickstart made.
 * @throws NotFound when there is none
 */
export async function findPublicKey(): Promise<string> {
  const files = [
    join(homedir(), ".ssh", "id_ed25519.pub"),
    join(homedir(), ".ssh", "id_rsa.pub"),
    home("id_ed25519.pub"),
  ];
  for (const file of files) {
    const text = await readFile(file, "utf8").catch(() => undefined);
    if (text !== undefined) {
      return parsePublicKey(text, file);
    }
  }
  throw new NotFound(
    "publicKey",
    `none is given, and there is no ${files[0]} or ${files[1]}`,
    "Make one with ssh-keygen -t ed25519",
  ).about("publicKey");
}
