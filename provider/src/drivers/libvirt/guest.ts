import { setTimeout } from "node:timers/promises";
import { Batcher } from "../batcher";
import type { Channel, ClusterRecord, WaitLimits } from "../driver";
import { NotReady, SiteFailure } from "../errors";
import { GUEST_PROGRAM, type GuestSsh } from "../guest-ssh";
import { type GuestSays, parseGuestStatus } from "../guest-status";
import type { Virsh } from "./virsh";

const AGENT_SECONDS = 3;
/** An agent that isn't there yet is no failure. */
const TOLERANT = { tolerant: true };
const POLL_MS = 1000;
const EXECUTE_MS = 120_000;
const GROW_TRIES = 10;
/** The guest agent comes up within seconds of a boot; an image without one is asked over ssh from then on. */
const SSH_AFTER_SECONDS = 45;
const SSH_EVERY_SECONDS = 10;
const PROGRESS_EVERY_SECONDS = 15;

/** What `vc-guest status` says, or how far we got in asking. */
export type GuestStatus =
  | { readonly kind: "stopped"; readonly domainState: string }
  | { readonly kind: "silent" }
  | { readonly kind: "foreign" }
  | ({ readonly kind: "guest" } & GuestSays);

/** Reaches into running guests: through the guest agent, else over ssh. */
export class Guests {
  private readonly statuses: Batcher<string, GuestStatus>;

  constructor(
    private readonly virsh: Virsh,
    private readonly ssh: GuestSsh,
  ) {
    this.statuses = new Batcher((domains) => this.loadStatuses(domains), 100);
  }

  /** Asked of all nodes at once this is two virsh runs, however many they are. */
  async status(domain: string): Promise<GuestStatus> {
    return (await this.statuses.get(domain)) ?? { kind: "silent" };
  }

  /**
   * Waits until a guest is configured from the vc-out.xml of this digest and can be used.
   * @param digest empty where nobody knows which file the node has
   * @throws NotReady
   */
  async waitReady(
    domain: string,
    node: string,
    cluster: ClusterRecord,
    digest: string,
    limits: WaitLimits,
  ): Promise<void> {
    const started = Date.now();
    const elapsed = () => (Date.now() - started) / 1000;
    // Who gives it little time wants to know all the same.
    const sshAfter = Math.min(SSH_AFTER_SECONDS, limits.seconds / 2);
    let said = 0;
    let sshTried = 0;
    let last = "it hasn't answered yet";
    while (elapsed() < limits.seconds) {
      let status = await this.status(domain);
      const silent = status.kind === "silent" || status.kind === "foreign";
      if (silent && elapsed() - sshTried > (sshTried ? SSH_EVERY_SECONDS : sshAfter)) {
        sshTried = elapsed();
        const told = await this.ssh.status(node, cluster);
        if (typeof told === "string") {
          return;
        }
        status = told ? { kind: "guest", ...told } : status;
      }
      if (status.kind === "guest" && (digest === "" || status.digest === digest) && status.state === "ready") {
        return;
      }
      if (status.kind === "stopped") {
        throw new NotReady(`node ${node}`, `its machine stopped while it was starting (${status.domainState})`, HINT);
      }
      if (status.kind === "guest" && status.state === "failed") {
        throw new NotReady(`node ${node}`, `its guest program failed: ${status.message}`, HINT);
      }
      last = describe(status, digest);
      if (elapsed() - said > PROGRESS_EVERY_SECONDS) {
        said = elapsed();
        limits.progress(`waiting until it is ready, ${Math.round(said)} s so far: ${last}`);
      }
      await setTimeout(POLL_MS);
    }
    throw new NotReady(`node ${node}`, `not ready after ${limits.seconds} s: ${last}`, HINT);
  }

  /** By which way a running guest would take a new vc-out.xml now. */
  async channel(domain: string, node: string, cluster: ClusterRecord): Promise<Channel> {
    if ((await this.status(domain)).kind === "guest") {
      return "agent";
    }
    return (await this.ssh.hasGuestProgram(node, cluster)) ? "ssh" : "nextBoot";
  }

  /** Lets the root file system fill a disk that has grown. A guest that can't be asked does so when it boots. */
  async grow(domain: string): Promise<void> {
    for (let tries = 0; tries < GROW_TRIES; tries++) {
      const result = await this.execute(domain, GUEST_PROGRAM, ["grow"]);
      if (!result || result.exitCode === 0) {
        return;
      }
      // Another one is at it already: that of a boot.
      await setTimeout(POLL_MS);
    }
    throw new SiteFailure(
      `${domain}: its disk has grown, and its file system could not`,
      "",
      "Run `vc-guest grow` in it",
    );
  }

  /**
   * Hands a running guest a new vc-out.xml.
   * @returns false when the guest offers no channel
   * @throws SiteFailure when it took the file and failed with it
   */
  async replaceVcOut(domain: string, node: string, cluster: ClusterRecord, vcOut: string): Promise<boolean> {
    const result = await this.execute(domain, GUEST_PROGRAM, ["replace"], vcOut);
    if (!result) {
      return this.ssh.replaceVcOut(node, cluster, vcOut);
    }
    if (result.exitCode !== 0) {
      throw new SiteFailure(
        `node ${node}: its guest program refused the new vc-out.xml`,
        result.output.trim().slice(-500),
      );
    }
    return true;
  }

  /** Files of a running guest's; undefined where no agent answers, or one of them isn't there. */
  async readFiles(domain: string, paths: readonly string[]): Promise<string[] | undefined> {
    const results = await Promise.all(paths.map((path) => this.execute(domain, "cat", [path])));
    const files = results.flatMap((result) => (result?.exitCode === 0 ? [result.output] : []));
    return files.length === paths.length ? files : undefined;
  }

  /** Runs a program in a guest. @returns undefined where no agent answers, or there is no such program */
  private async execute(
    domain: string,
    path: string,
    arg: readonly string[],
    input = "",
  ): Promise<{ readonly exitCode: number; readonly output: string } | undefined> {
    const pid = parsePid(
      await this.agent(domain, {
        execute: "guest-exec",
        arguments: {
          path,
          arg,
          ...(input && { "input-data": Buffer.from(input).toString("base64") }),
          "capture-output": true,
        },
      }),
    );
    if (pid === undefined) {
      return undefined;
    }
    for (let waited = 0; waited < EXECUTE_MS; waited += 500) {
      const result = parseExecStatus(await this.agent(domain, { execute: "guest-exec-status", arguments: { pid } }));
      if (result) {
        return result;
      }
      await setTimeout(500);
    }
    throw new SiteFailure(`${domain}: its guest takes too long`, `${path} ${arg.join(" ")}`);
  }

  private async agent(domain: string, command: object): Promise<string> {
    const [answer = ""] = await this.virsh.batch([agentCommand(domain, command)], TOLERANT);
    return answer;
  }

  private async loadStatuses(domains: readonly string[]): Promise<Map<string, GuestStatus>> {
    const ask = { execute: "guest-exec", arguments: { path: GUEST_PROGRAM, arg: ["status"], "capture-output": true } };
    const ping = { execute: "guest-ping" };
    const first = await this.virsh.batch(
      domains.flatMap((domain) => [["domstate", domain], agentCommand(domain, ask), agentCommand(domain, ping)]),
      TOLERANT,
    );
    const statuses = new Map<string, GuestStatus>();
    const asked = new Map<string, number>();
    domains.forEach((domain, index) => {
      const [state = "", pidAnswer = "", pong = ""] = first.slice(index * 3, index * 3 + 3);
      const pid = parsePid(pidAnswer);
      if (/^(shut off|crashed)/.test(state.trim())) {
        statuses.set(domain, { kind: "stopped", domainState: state.trim() });
      } else if (pid === undefined) {
        statuses.set(domain, { kind: pong.includes('"return"') ? "foreign" : "silent" });
      } else {
        asked.set(domain, pid);
      }
    });
    for (let tries = 0; asked.size > 0 && tries < 10; tries++) {
      await setTimeout(200);
      const pending = [...asked];
      const answers = await this.virsh.batch(
        pending.map(([domain, pid]) => agentCommand(domain, { execute: "guest-exec-status", arguments: { pid } })),
        TOLERANT,
      );
      pending.forEach(([domain], index) => {
        const result = parseExecStatus(answers[index] ?? "");
        if (result) {
          asked.delete(domain);
          const said = parseGuestStatus(result.output);
          statuses.set(domain, said ? { kind: "guest", ...said } : { kind: "silent" });
        }
      });
    }
    return statuses;
  }
}

const HINT = "Look at the console above; `pulumi up` tries this node again";

function describe(status: GuestStatus, digest: string): string {
  switch (status.kind) {
    case "guest":
      return status.digest === digest
        ? `it says ${status.state} ${status.message}`.trim()
        : "it hasn't taken its vc-out.xml yet";
    case "foreign":
      return "its guest agent answers, but there is no guest program, and sshd doesn't answer yet";
    default:
      return "it hasn't answered yet";
  }
}

function agentCommand(domain: string, command: object): string[] {
  return ["qemu-agent-command", domain, "--timeout", String(AGENT_SECONDS), JSON.stringify(command)];
}

function parsePid(answer: string): number | undefined {
  const pid = parseReturn(answer)?.pid;
  return typeof pid === "number" ? pid : undefined;
}

function parseExecStatus(answer: string): { exitCode: number; output: string } | undefined {
  const result = parseReturn(answer);
  if (result?.exited !== true) {
    return undefined;
  }
  const decode = (data: unknown) => (typeof data === "string" ? Buffer.from(data, "base64").toString("utf8") : "");
  return {
    exitCode: typeof result.exitcode === "number" ? result.exitcode : -1,
    output: decode(result["out-data"]) + decode(result["err-data"]),
  };
}

function parseReturn(answer: string): Record<string, unknown> | undefined {
  try {
    return (JSON.parse(answer) as { return?: Record<string, unknown> }).return;
  } catch {
    return undefined;
  }
}
