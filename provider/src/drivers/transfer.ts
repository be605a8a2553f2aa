import { setTimeout } from "node:timers/promises";
import type { Progress } from "./driver";

const REPORT_MS = 5000;
const MEBIBYTE = 1024 * 1024;

export interface Transfer {
  /** What is being done, to what. */
  readonly what: string;
  /** Bytes to transfer, holes left out; undefined where nobody knows. */
  readonly bytes: number | undefined;
  /** Bytes that have arrived so far; undefined where that isn't known. */
  readonly arrived: () => Promise<number | undefined>;
}

/** Says every few seconds how far `work` has got, until it is done. */
export async function reporting<T>(transfer: Transfer, progress: Progress, work: () => Promise<T>): Promise<T> {
  const done = new AbortController();
  const reports = report(transfer, progress, done.signal);
  try {
    return await work();
  } finally {
    done.abort();
    await reports;
  }
}

async function report(transfer: Transfer, progress: Progress, done: AbortSignal): Promise<void> {
  const aborted = new Promise<undefined>((resolve) => done.addEventListener("abort", () => resolve(undefined)));
  for (let before = 0; ; ) {
    await setTimeout(REPORT_MS, undefined, { signal: done }).catch(() => undefined);
    // A look at a site that hangs doesn't hold up the work's own failure.
    const arrived = done.aborted ? undefined : await Promise.race([transfer.arrived().catch(() => undefined), aborted]);
    if (done.aborted) {
      return;
    }
    if (arrived !== undefined) {
      progress(describe(transfer, arrived, (arrived - before) / (REPORT_MS / 1000)));
      before = arrived;
    }
  }
}

/** One line. A rate that isn't positive says nothing: what arrived may have been there from a broken transfer. */
function describe({ what, bytes }: Transfer, arrived: number, bytesPerSecond: number): string {
  const mebibytes = (count: number) => Math.ceil(count / MEBIBYTE);
  if (bytes === undefined) {
    const sofar = `${what}: ${mebibytes(arrived)} MiB`;
    return bytesPerSecond > 0 ? `${sofar}, ${mebibytes(bytesPerSecond)} MiB/s` : sofar;
  }
  const sofar = `${what}: ${mebibytes(Math.min(arrived, bytes))} of ${mebibytes(bytes)} MiB`;
  const left = Math.ceil((bytes - arrived) / bytesPerSecond);
  return bytesPerSecond > 0 && left >= 0 ? `${sofar}, ${mebibytes(bytesPerSecond)} MiB/s, ${left} s left` : sofar;
}
