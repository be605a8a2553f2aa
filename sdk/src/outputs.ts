import { createHash } from "node:crypto";
import type { CustomResourceOptions } from "@pulumi/pulumi";

/** What the provider fills in of a node; the SDK makes an output only of what it is given, `undefined` included. */
export const NODE_OUTPUTS = {
  cpus: undefined,
  memory: undefined,
  privateIp: undefined,
  ready: undefined,
} as const;

/** A node says only that it is off: what is on by default takes no room in the state. */
export function powerOf(power: "on" | "off"): { power?: "off" } {
  return power === "off" ? { power } : {};
}

/**
 * The start of what `ssh-keygen -l` shows of a public key, behind `SHA256:`. It is all that a compute needs, to be told of
 * another: each compute's state has it.
 */
export function fingerprintOf(publicKey: string): string {
  const [, key = ""] = publicKey.split(" ");
  const digest = createHash("sha256").update(Buffer.from(key, "base64")).digest("base64");
  return digest.slice(0, 12);
}

export function dialectOf(vcOutDialect: "A" | "B" | undefined): { vcOutDialect?: "A" | "B" } {
  return vcOutDialect === undefined ? {} : { vcOutDialect };
}

/**
 * Names, addresses and MACs are pinned, so the old object goes before the new one comes. The provider's `diff` says so
 * too, but isn't asked about what a user replaces with `--replace`.
 */
export function pinned(opts: CustomResourceOptions | undefined): CustomResourceOptions {
  return { ...opts, deleteBeforeReplace: true };
}
