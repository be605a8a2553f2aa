/** What `vc-guest status` says. */
export interface GuestSays {
  readonly state: "ready" | "configuring" | "failed";
  readonly message: string;
  /** SHA-256 of its vc-out.xml, hex. */
  readonly digest: string;
}

/** A guest may say anything; only what is understood counts. */
export function parseGuestStatus(output: string): GuestSays | undefined {
  try {
    const { state, message, digest } = JSON.parse(output) as Record<string, unknown>;
    return state === "ready" || state === "configuring" || state === "failed"
      ? { state, message: printable(message), digest: printable(digest) }
      : undefined;
  } catch {
    return undefined; // Not our guest program, or not whole yet.
  }
}

function printable(value: unknown): string {
  return typeof value === "string" ? value.replaceAll(/[^\x20-\x7e]/g, "?").slice(0, 500) : "";
}
