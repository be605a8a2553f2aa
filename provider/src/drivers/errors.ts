/**
 * The errors of the driver contract. A caller tells them apart by class (`instanceof`), never by their text.
 *
 * Each has a `summary` (what was being done, to what), a `detail` (what did happen) and, where one exists, a `hint`
 * (what to do next); `message` is the three in one line.
 */
export class VirtualClusterError extends Error {
  constructor(
    readonly summary: string,
    readonly detail: string = "",
    readonly hint: string = "",
  ) {
    super([detail ? `${summary}: ${detail}` : summary, hint].filter(Boolean).map(sentence).join(" "));
    this.name = new.target.name;
    // Pulumi's host prints the stack under the stack's name; these errors are for the person who runs `pulumi up`.
    this.stack = "";
  }

  /** The input property that is to blame, where one is. */
  property: string | undefined;

  about(property: string): this {
    this.property ??= property;
    return this;
  }
}

/** The object asked for isn't at the site. */
export class NotFound extends VirtualClusterError {}

/** A node's machine that an operation needs isn't there. */
export function machineGone(node: string, cluster: string): NotFound {
  return new NotFound(
    `node ${node} of cluster ${cluster}`,
    "its machine is gone",
    "Run `pulumi up`, which makes it again",
  );
}

/** Somebody else took an address, subnet or name between plan and allocation. */
export class AddressTaken extends VirtualClusterError {}

/** The site has not enough cpus, memory, disk or addresses. */
export class NoCapacity extends VirtualClusterError {}

/** Names, addresses or networks that can't go together. */
export class Contradiction extends VirtualClusterError {}

/** The site or its driver can't do this. */
export class NotSupported extends VirtualClusterError {}

/** The site doesn't answer. Never means that anything is gone. */
export class Unreachable extends VirtualClusterError {}

/** The site refuses us the right. */
export class Denied extends VirtualClusterError {}

/** The object exists and isn't ours: it carries another owner's mark, or none. */
export class ForeignOwner extends VirtualClusterError {}

/** Another process is changing the same cluster. */
export class Locked extends VirtualClusterError {}

/** Another site answers where the recorded one was expected. */
export class WrongSite extends VirtualClusterError {}

/** The image doesn't follow the standard, or can't run at this site. */
export class InvalidImage extends VirtualClusterError {}

/** A node was started and didn't get ready in time. `diagnosis` holds the console's last lines. */
export class NotReady extends VirtualClusterError {
  constructor(
    summary: string,
    detail: string,
    hint: string,
    readonly diagnosis: string = "",
  ) {
    super(summary, detail, hint);
  }
}

/** A program or the site answered something that no rule here covers. */
export class SiteFailure extends VirtualClusterError {}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
