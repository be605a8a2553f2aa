import { AddressTaken, Denied, NoCapacity, NotFound, SiteFailure, type VirtualClusterError } from "../errors";

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

const AUTHENTICATION = 256;
const AUTHORIZATION = 512;
const NO_EXISTS = 1024;
const ACTION = 2048;

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
