import { join } from "node:path";

/** Runs ssh so that all of a user's runs share one connection; see there. */
const SHARED_SSH = join(__dirname, "..", "..", "..", "ssh", "shared-ssh");

/** Whether virsh reaches this libvirt by running ssh. */
export function goesOverSsh(uri: string): boolean {
  return /^[a-z]+\+ssh:/.test(uri);
}

/**
 * The URI for virsh: over ssh nobody is ever asked for anything, and the connection is shared unless the user's URI names
 * a `command` of its own.
 */
export function connectionUri(uri: string): string {
  if (!goesOverSsh(uri)) {
    return uri;
  }
  const [, query = ""] = uri.split("?");
  const given = new Set(query.split("&").map((parameter) => parameter.split("=")[0]));
  const added = [
    ...(given.has("no_tty") ? [] : ["no_tty=1"]),
    ...(given.has("command") ? [] : [`command=${encodeURIComponent(SHARED_SSH)}`]),
  ];
  return [uri, ...added].reduce((all, parameter) => `${all}${all.includes("?") ? "&" : "?"}${parameter}`);
}

/** An sshd that has too many log-ins at a time hangs up before it knows who asks: nothing has run there. */
export const SSHD_BUSY = /kex_exchange_identification|Connection closed by remote host/;

const HINTS: ReadonlyArray<readonly [RegExp, string]> = [
  [
    /has changed and you have requested strict checking/,
    "That host shows another key than it used to: find out why, then remove the old one (ssh-keygen -R) and log in once by hand",
  ],
  [/Host key verification failed/, "ssh doesn't know that host's key: log in once by hand and compare it"],
  [/Could not resolve hostname/, "See whether the host in site.uri is written right"],
  [/connect to host/, "See whether that host is up and its sshd listens on that port"],
  [/(nc|virt-ssh-helper): (command )?not found/, "Install libvirt-daemon, which has virt-ssh-helper, on that host"],
];

/** What to do about a connection over ssh that failed with these words. */
export function unreachableHint(said: string): string {
  return (
    HINTS.find(([pattern]) => pattern.test(said))?.[1] ??
    "See whether you can log in there by hand, and `virsh list` works there"
  );
}

/** What to do when sshd refused us, undefined when it was libvirt. */
export function refusedKeyHint(said: string): string | undefined {
  return /Permission denied \([a-z,-]+\)/.test(said)
    ? "None of the keys that ssh offers is let in there: add yours (ssh-copy-id), or name the right one in your ssh configuration or with keyfile= in site.uri"
    : undefined;
}
