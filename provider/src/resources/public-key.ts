import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { NotFound, VirtualClusterError } from "../drivers/errors";
import { home } from "../home";

const TYPES = /^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)$/;

/** A text given as a public key that isn't one. */
class InvalidKey extends VirtualClusterError {}

/**
 * One public ssh key in OpenSSH's form, comment included. Checked as far as its bytes tell: its type is the one it says,
 * and it is whole.
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
  const [declared, ...key] = fieldsOf(data);
  if (!TYPES.test(type) || declared?.toString("latin1") !== type || key.length === 0) {
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

/** The fields of a key, each after its length in 4 bytes (RFC 4251, `string`); none where that doesn't work out. */
function fieldsOf(base64: string): Buffer[] {
  const bytes = Buffer.from(base64, "base64");
  if (bytes.toString("base64") !== base64) {
    return [];
  }
  const fields: Buffer[] = [];
  let at = 0;
  while (at + 4 <= bytes.length) {
    const end = at + 4 + bytes.readUInt32BE(at);
    fields.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return at === bytes.length ? fields : [];
}
