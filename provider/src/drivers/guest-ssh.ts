import { execa } from "execa";
import { shellWord, withoutTokens } from "../shell-word";
import type { ClusterRecord } from "./driver";
import { type GuestSays, parseGuestStatus } from "./guest-status";

/** The guest program of our images. */
export const GUEST_PROGRAM = "/usr/sbin/vc-guest";

/** Reaches into running guests over ssh: computes through their frontend. */
export class GuestSsh {
  /** @param configuration an ssh configuration file; undefined: plain ssh */
  constructor(private readonly configuration: string | undefined) {}

  /**
   * What its guest program says; `answers` where there is none, or where our key is refused: sshd runs, so the network is
   * configured. `otherKey` where it shows another host key than the cluster's.
   */
  async status(node: string, cluster: ClusterRecord): Promise<GuestSays | "answers" | "otherKey" | undefined> {
    const { exitCode, stdout, stderr } = await this.run(node, cluster, [GUEST_PROGRAM, "status"]);
    const said = exitCode === 0 ? parseGuestStatus(stdout) : undefined;
    // 255: ssh itself failed.
    const answers = exitCode !== undefined && exitCode !== 255;
    return said ?? (answers ? "answers" : answerIn(addressOf(node, cluster), stderr));
  }

  async hasGuestProgram(node: string, cluster: ClusterRecord): Promise<boolean> {
    return (await this.run(node, cluster, ["test", "-x", GUEST_PROGRAM])).exitCode === 0;
  }

  /** @returns false where the guest can't be reached or has no guest program, or it refused the file */
  async replaceVcOut(node: string, cluster: ClusterRecord, vcOut: string): Promise<boolean> {
    const { exitCode } = await this.run(node, cluster, [GUEST_PROGRAM, "replace"], { input: vcOut, seconds: 120 });
    return exitCode === 0;
  }

  async run(
    node: string,
    cluster: ClusterRecord,
    command: readonly string[],
    { input = "", seconds = 20 }: { readonly input?: string; readonly seconds?: number } = {},
  ): Promise<{ readonly exitCode: number | undefined; readonly stdout: string; readonly stderr: string }> {
    const { exitCode, stdout, stderr } = await execa("ssh", [...this.sshArguments(node, cluster), ...command], {
      reject: false,
      input,
      timeout: seconds * 1000,
    });
    return { exitCode, stdout: stdout ?? "", stderr: stderr ?? "" };
  }

  private sshArguments(node: string, cluster: ClusterRecord): string[] {
    const frontend = cluster.plan.frontend.publicIp;
    const address = addressOf(node, cluster);
    // Not ProxyJump: that would know nothing of these options.
    const jump = ["ssh", ...this.sshOptions(frontend, cluster).map(withoutTokens), "-W", "%h:%p", `root@${frontend}`];
    return [
      ...this.sshOptions(address, cluster),
      ...(address === frontend ? [] : ["-o", `ProxyCommand=${jump.map(shellWord).join(" ")}`]),
      `root@${address}`,
    ];
  }

  private sshOptions(address: string, { keys }: ClusterRecord): string[] {
    return [
      ...(this.configuration ? ["-F", this.configuration] : []),
      ...["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=yes"],
      // All nodes of a cluster show the same key.
      ...(keys ? ["-o", `KnownHostsCommand=/bin/echo ${address} ${keys.hostKey}`] : []),
    ];
  }
}

function addressOf(node: string, { plan }: ClusterRecord): string {
  return plan.computes.find(({ name }) => name === node)?.privateIp ?? plan.frontend.publicIp;
}

/** What sshd at this very address has said: one on the way there may refuse us too. */
export function answerIn(address: string, stderr: string): "answers" | "otherKey" | undefined {
  if (stderr.includes(`root@${address}: Permission denied`)) {
    return "answers";
  }
  const otherKey = [`key is known for ${address} `, `key for ${address} has changed`];
  return otherKey.some((words) => stderr.includes(words)) ? "otherKey" : undefined;
}
