import { execa } from "execa";
import { shellWord, withoutTokens } from "../../shell-word";
import type { ClusterRecord, NodeRef } from "../driver";

const SECONDS = 20;

/**
 * Whether a node's sshd answers, a refusal of our key included: then its network is configured. Computes are asked through
 * their frontend.
 */
export async function sshAnswers({ cluster, node }: NodeRef<ClusterRecord>, sshConfig?: string): Promise<boolean> {
  const frontend = cluster.plan.frontend.publicIp;
  const address = cluster.plan.computes.find(({ name }) => name === node)?.privateIp ?? frontend;
  const options = (of: string) => [
    ...(sshConfig ? ["-F", sshConfig] : []),
    ...["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=yes"],
    ...(cluster.keys ? ["-o", `KnownHostsCommand=/bin/echo ${of} ${cluster.keys.hostKey}`] : []),
  ];
  const jump = ["ssh", ...options(frontend).map(withoutTokens), "-W", "%h:%p", `root@${frontend}`];
  const proxy = address === frontend ? [] : ["-o", `ProxyCommand=${jump.map(shellWord).join(" ")}`];
  const { exitCode, stderr } = await execa("ssh", [...options(address), ...proxy, `root@${address}`, "true"], {
    reject: false,
    stdin: "ignore",
    timeout: SECONDS * 1000,
  });
  return exitCode === 0 || stderr.includes(`root@${address}: Permission denied`);
}
