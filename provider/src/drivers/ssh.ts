import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

/** Runs ssh so that all of a user's runs share one connection; see there. */
export const SHARED_SSH = join(__dirname, "..", "..", "ssh", "shared-ssh");

/** An sshd that has too many log-ins at a time hangs up before it knows who asks: nothing has run there. */
export const SSHD_BUSY = /kex_exchange_identification|Connection closed by remote host/;

/** As long as a site that has died takes to be back, or a busy sshd to let one in. */
export const RETRY = { retries: 4, minTimeout: 200, factor: 2, randomize: true } as const;

/** A connection that nobody uses is open for longer than this. */
const OPEN_MS = 10_000;
/** Opening one takes about this long; only then do others open their own. */
const OPENING_MS = 2000;

/** Where no shared connection is open, the first run opens it and the others wait for that instead of opening their own. */
export class SharedConnection {
  private opening: Promise<unknown> = Promise.resolve();
  private openUntil = 0;

  async run<T>(run: () => Promise<T>): Promise<T> {
    return this.afterOpening(run).finally(() => {
      this.openUntil = Date.now() + OPEN_MS;
    });
  }

  private async afterOpening<T>(run: () => Promise<T>): Promise<T> {
    if (Date.now() > this.openUntil) {
      this.openUntil = Number.POSITIVE_INFINITY;
      const first = run();
      this.opening = Promise.race([first.catch(() => undefined), setTimeout(OPENING_MS, undefined, { ref: false })]);
      return first;
    }
    await this.opening;
    return run();
  }
}

const HINTS: ReadonlyArray<readonly [RegExp, string]> = [
  [
    /has changed and you have requested strict checking/,
    "That host shows another key than it used to: find out why, then remove the old one (ssh-keygen -R) and log in once by hand",
  ],
  [/Host key verification failed/, "ssh doesn't know that host's key: log in once by hand and compare it"],
  [/Could not resolve hostname/, "See whether the host in … is written right"],
  [/connect to host/, "See whether that host is up and its sshd listens on that port"],
  [/(nc|virt-ssh-helper): (command )?not found/, "Install libvirt-daemon, which has virt-ssh-helper, on that host"],
];

/**
 * What to do about a connection over ssh that failed with these words.
 * @param setting where the host is named
 * @param proof what works there by hand when all is well
 */
export function unreachableHint(said: string, setting: string, proof: string): string {
  return (
    HINTS.find(([pattern]) => pattern.test(said))?.[1].replace("…", setting) ??
    `See whether you can log in there by hand, and \`${proof}\` works there`
  );
}

/** What to do when sshd refused us, undefined when it was somebody else. */
export function refusedKeyHint(said: string, keySetting = ""): string | undefined {
  return /Permission denied \([a-z,-]+\)/.test(said)
    ? `None of the keys that ssh offers is let in there: add yours (ssh-copy-id), or name the right one in your ssh configuration${keySetting}`
    : undefined;
}
