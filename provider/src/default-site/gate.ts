import { rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import ipaddr from "ipaddr.js";
import { PUBLIC_NETWORK } from "./configuration";

/**
 * The way into a site's network namespace for its user's ssh, without root. Runs inside the namespace, listens on a unix
 * socket, reads one line `HOST PORT` from each client and then passes bytes both ways. HOST is an address of the site's
 * public network.
 */

const LONGEST_REQUEST = 64;
const REQUEST_TIMEOUT_MS = 5_000;
const ALLOWED = ipaddr.IPv4.parseCIDR(PUBLIC_NETWORK.cidr);

interface Target {
  readonly host: string;
  readonly port: number;
}

/** The target that a request line names, or undefined when it isn't one that the gate leads to. */
export function parseRequest(line: string): Target | undefined {
  const [, host = "", port = ""] = /^(\d+\.\d+\.\d+\.\d+) (\d{1,5})$/.exec(line) ?? [];
  const number = Number(port);
  const reachable = ipaddr.IPv4.isValidFourPartDecimal(host) && ipaddr.IPv4.parse(host).match(ALLOWED);
  return reachable && number >= 1 && number <= 65535 ? { host, port: number } : undefined;
}

function serve(client: Socket): void {
  let request = Buffer.alloc(0);
  client.on("error", () => client.destroy());
  client.setTimeout(REQUEST_TIMEOUT_MS, () => client.destroy());
  client.on("data", function read(chunk: Buffer) {
    request = Buffer.concat([request, chunk]);
    const end = request.indexOf("\n");
    if (end < 0 && request.length <= LONGEST_REQUEST) {
      return;
    }
    client.off("data", read);
    client.pause();
    client.setTimeout(0);
    const target = end < 0 ? undefined : parseRequest(request.toString("latin1", 0, end));
    if (!target) {
      client.destroy();
      return;
    }
    join(client, target, request.subarray(end + 1));
  });
}

/** Pipes both ways; either side may finish sending while the other goes on. */
function join(client: Socket, target: Target, first: Buffer): void {
  const guest = connect({ ...target, allowHalfOpen: true, noDelay: true });
  guest.on("error", () => client.destroy());
  client.on("close", () => guest.destroy());
  guest.on("close", (hadError) => {
    if (hadError) {
      client.destroy();
    }
  });
  guest.on("connect", () => {
    guest.write(first);
    client.pipe(guest);
    guest.pipe(client);
  });
}

/** Whether a gate listens on the socket. */
export function gateAnswers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.on("connect", () => resolve(true));
    probe.on("error", () => resolve(false));
    probe.on("connect", () => probe.destroy());
  });
}

function main([socket = "", uid = "", gid = ""]: string[]): void {
  // The socket and the process belong to the site's user: nothing here needs root once it is inside the namespace.
  process.setgroups?.([]);
  process.setgid?.(Number(gid));
  process.setuid?.(Number(uid));
  process.umask(0o177);
  rmSync(socket, { force: true });
  createServer({ allowHalfOpen: true }, serve).listen(socket);
}

if (require.main === module) {
  main(process.argv.slice(2));
}
