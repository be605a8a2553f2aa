import {
  AddressTaken,
  Denied,
  NoCapacity,
  NotFound,
  NotSupported,
  SiteFailure,
  Unreachable,
  type VirtualClusterError,
} from "../errors";
import { ConnectionLost } from "./xml-rpc";

/** The object's state doesn't allow it now, or something still uses it: it may later. */
export class WrongState extends SiteFailure {}

/** One user's networks, images and templates each have names of their own. */
export class NameTaken extends SiteFailure {
  constructor(
    summary: string,
    detail: string,
    /** The object that has it. */
    readonly id: number,
  ) {
    super(summary, detail);
  }
}

/** None of several servers leads the others just now: nothing was done. */
export class NoLeader extends Unreachable {}

const AUTHENTICATION = 256;
const AUTHORIZATION = 512;
const NO_EXISTS = 1024;
const ACTION = 2048;
const LOCKED = 32_768;
const REPLICATION = 65_536;

/**
 * A refusal as the contract's errors have it. The codes are those of `Request::ErrorCode` of OpenNebula's sources; where
 * one stands for several things (512 for missing rights and for quotas) its text tells them apart.
 */
export function refusal(method: string, message: string, code: number, _object: number): VirtualClusterError {
  const said = message.replace(/^\[[^\]]*\]\s*/, "").trim();
  const summary = `${method} at OpenNebula`;
  const taken = /NAME is already taken by [A-Z]+ (\d+)/.exec(said);
  if (taken) {
    return new NameTaken(summary, said, Number(taken[1]));
  }
  if (/Cannot get IP\/MAC lease|Not enough free addresses/.test(said)) {
    return new AddressTaken(summary, said, PLAN_ANEW);
  }
  if (/limit of .* reached for .* quota|Not enough space/.test(said)) {
    return new NoCapacity(summary, said, "Ask for less, or let the site's admin raise your quota (`oneuser quota`)");
  }
  if (/Cannot process request/.test(said)) {
    const ErrorClass = /no leader found|oned cluster/.test(said) ? NoLeader : Unreachable;
    return new ErrorClass(
      "OpenNebula takes no requests now",
      said,
      "See whether its servers are up and its zone is enabled (`onezone show`)",
    );
  }
  // A server that follows another hands calls on, and waits ten seconds for the answer.
  if (code === REPLICATION || /RPC call timed out|libcurl failed/.test(said)) {
    return new ConnectionLost(summary, `its leader may have done it or not: ${said}`, "Run `pulumi up` again");
  }
  if (/onegate endpoint was not defined/i.test(said)) {
    return new NotSupported(
      'readiness "oneGate" at this site',
      said,
      'Say readiness: "ssh" or "running", or let the site\'s admin set ONEGATE_ENDPOINT',
    ).about("site");
  }
  if (/change of image persistency/.test(said)) {
    return new NotSupported(
      "the frontend's disk in this datastore",
      said,
      "Name another one in site.datastore, or set site.delivery to image",
    ).about("site");
  }
  switch (code) {
    case AUTHENTICATION:
      return new Denied(
        "OpenNebula doesn't let us in",
        said,
        "See whether virtual-cluster:oneAuth, or the file that ONE_AUTH names, holds the right user:password; a token may have expired. `pulumi refresh` and `destroy` have the one that was set at the last `pulumi up`",
      );
    case AUTHORIZATION:
      return new Denied(summary, said, rightsHint(said));
    case NO_EXISTS:
      return new NotFound(summary, said);
    case ACTION:
      return new WrongState(summary, said);
    case LOCKED:
      return new Denied(summary, said, "Somebody has locked it: see `onevm unlock`, `oneimage unlock` and the like");
    default:
      return new SiteFailure(summary, `${said} (code ${code})`);
  }
}

export const PLAN_ANEW = "Run `pulumi up` again: it plans anew";

/** The rule that an admin has to add. */
function rightsHint(said: string): string {
  const create = /perform CREATE ([A-Z]+)/.exec(said);
  if (create) {
    return ruleHint(create[1] ?? "");
  }
  const use = /perform (?:USE|MANAGE|ADMIN) ([A-Z]+) \[(\d+)\]/.exec(said);
  return use
    ? `Let the site's admin give you that right: docs/sites/opennebula.md has the commands`
    : "Let the site's admin say what is allowed: docs/sites/opennebula.md";
}

/** @param group the user's, by id */
export function ruleHint(kind: string, group?: number): string {
  return `Let the site's admin add the rule: oneacl create "@${group ?? "<your group's id>"} ${kind}/* CREATE"`;
}
