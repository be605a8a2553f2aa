import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { home } from "../../home";
import { sha256 } from "../../vc-out/digest";

/** After this an address may be free again. */
const REMEMBERED_MS = 24 * 3600 * 1000;

/**
 * Public addresses that were refused although nothing shows who has them: a plain user sees how many of a network's
 * addresses are taken, and only his own. Without this the next preview would plan with the same one again. Kept on this
 * machine, a day long.
 */
export class TakenAddresses {
  private readonly file: string;

  constructor(endpoint: string) {
    this.file = home("cache", "opennebula", `${sha256(endpoint)}.json`);
  }

  remember(network: number, ip: string): void {
    const known = { ...this.read(), [`${network} ${ip}`]: Date.now() };
    mkdirSync(dirname(this.file), { recursive: true });
    const part = `${this.file}.${process.pid}.part`;
    writeFileSync(part, JSON.stringify(known));
    renameSync(part, this.file);
  }

  of(network: number): string[] {
    const prefix = `${network} `;
    return Object.keys(this.read()).flatMap((key) => (key.startsWith(prefix) ? [key.slice(prefix.length)] : []));
  }

  private read(): Record<string, number> {
    try {
      const known = JSON.parse(readFileSync(this.file, "utf8")) as Record<string, number>;
      return Object.fromEntries(Object.entries(known).filter(([, since]) => Date.now() - since < REMEMBERED_MS));
    } catch {
      return {};
    }
  }
}
