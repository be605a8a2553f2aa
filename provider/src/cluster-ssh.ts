import { isAbsolute } from "node:path";
import { NotFound, SiteFailure } from "./drivers/errors";
import type { StackCluster } from "./pulumi/stack-clusters";
import { shellWord, withoutTokens } from "./shell-word";

/** How the programs of OpenSSH reach a node: options that all of them take, and the destination `user@address`. */
export interface SshTarget {
  readonly options: readonly string[];
  readonly destination: string;
}

/**
 * The way to a node of a cluster: to a compute through the frontend. No key is trusted but the cluster's own, which all
 * of its nodes show.
 * @param batch whether nobody is there to be asked for a passphrase
 * @throws NotFound for a cluster that is only being created
 */
export function sshTarget(cluster: StackCluster, node: string, { batch = false } = {}): SshTarget {
  const { access, logicalName, plan } = cluster;
  if (!access) {
    throw new NotFound(
      `cluster ${logicalName}`,
      "it is only being created, and can't be logged in to yet",
      "Wait for `pulumi up`, or run it again where it was cut off",
    );
  }
  const words = [...access.sshArguments];
  const destination = words.pop() ?? "";
  const strict = [
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "ConnectTimeout=20",
    ...(batch ? ["-o", "BatchMode=yes"] : []),
  ];
  const toFrontend = [...strict, ...words];
  if (node === "frontend") {
    return { options: toFrontend, destination };
  }
  const address = plan.computes.find(({ name }) => name === node)?.privateIp;
  if (address === undefined) {
    throw new SiteFailure(`the plan of cluster ${logicalName} has no ${node}`);
  }
  // Not ProxyJump: that would know nothing of these options. Of an option that is said twice the first counts.
  const jump = ["ssh", ...toFrontend.map(withoutTokens), "-W", "%h:%p", withoutTokens(destination)];
  const user = destination.slice(0, destination.indexOf("@"));
  return {
    options: [
      ...["-o", `KnownHostsCommand=/bin/echo ${address} ${access.hostKey}`],
      ...["-o", `ProxyCommand=${jump.map(shellWord).join(" ")}`],
      ...toFrontend,
    ],
    destination: `${user}@${address}`,
  };
}

/** Arguments of `ssh`. */
export function sshArguments({ options, destination }: SshTarget, command: readonly string[] = []): string[] {
  // What follows the destination would be taken for options too.
  return [...options, destination, ...(command.length > 0 ? ["--", remoteCommand(command)] : [])];
}

/**
 * A command as sshd hands it to the node's shell: one word is a command line; several are a program and its arguments,
 * which reach it as they are.
 */
export function remoteCommand(words: readonly string[]): string {
  return words.length === 1 ? (words[0] ?? "") : words.map(shellWord).join(" ");
}

/** Arguments of `scp`, its own options left out. Paths with a node are that node's. */
export function scpPaths(target: SshTarget, paths: readonly { node?: string; path: string }[]): string[] {
  const here = (path: string) => (isAbsolute(path) ? path : `./${path}`);
  return ["--", ...paths.map(({ node, path }) => (node === undefined ? here(path) : `${target.destination}:${path}`))];
}
