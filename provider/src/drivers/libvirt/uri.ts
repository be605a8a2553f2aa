import { SHARED_SSH } from "../ssh";

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
