import { InvalidArgumentError } from "commander";

const UNITS: ReadonlyMap<string, number> = new Map([
  ["K", 1024],
  ["M", 1024 ** 2],
  ["G", 1024 ** 3],
]);

/** `512M` and the like. @returns bytes */
export function parseSize(text: string): number {
  const [, number = "", unit = ""] = /^([1-9]\d{0,6})([KMG])$/.exec(text) ?? [];
  const factor = UNITS.get(unit);
  if (factor === undefined) {
    throw new InvalidArgumentError("it must be a whole number of K, M or G, such as 512M or 2G");
  }
  return Number(number) * factor;
}

export function parseCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1) {
    throw new InvalidArgumentError("it must be a whole number from 1 on");
  }
  return count;
}

/** Bytes for people. */
export function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 1024 ** 2)} MiB`;
}
