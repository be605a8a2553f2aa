import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { SetupError } from "../setup/setup-error";

/**
 * Starts a program that outlives this process: in a session of its own, its output appended to a log file. It gets
 * nothing of the environment but what a system daemon has.
 */
export function startDaemon(command: readonly string[], log: string): ChildProcess {
  const [program = "", ...args] = command;
  const output = openSync(log, "a");
  const env = {
    PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: "/root",
    LANG: "C.UTF-8",
    // libvirt would register its guests with systemd-machined under names that aren't per namespace.
    DBUS_SYSTEM_BUS_ADDRESS: "unix:path=/nonexistent",
  };
  const daemon = spawn(program, args, { detached: true, stdio: ["ignore", output, output], env, cwd: "/" });
  closeSync(output);
  daemon.on("error", () => {});
  daemon.unref();
  return daemon;
}

/**
 * Waits until a daemon that was just started answers.
 *
 * @param what names it in the error
 * @throws SetupError with the end of its log when it ends or doesn't answer in time
 */
export async function waitForDaemon(
  daemon: ChildProcess,
  what: string,
  log: string,
  answers: () => Promise<boolean>,
  limitMs: number,
): Promise<void> {
  if (!(await becomesTrue(async () => (await answers()) || hasEnded(daemon), limitMs)) || hasEnded(daemon)) {
    const end = readFileSync(log, "utf8").trim().split("\n").slice(-3).join(" | ");
    throw new SetupError(`${what} didn't start: ${end || "it said nothing"} (log: ${log}).`);
  }
}

/** Asks until the answer is yes, or the time is over. @returns whether it became true */
export async function becomesTrue(
  condition: () => Promise<boolean>,
  limitMs: number,
  intervalMs = 50,
): Promise<boolean> {
  for (const end = Date.now() + limitMs; Date.now() < end; await sleep(intervalMs)) {
    if (await condition()) {
      return true;
    }
  }
  return condition();
}

function hasEnded(daemon: ChildProcess): boolean {
  return daemon.pid === undefined || daemon.exitCode !== null || daemon.signalCode !== null;
}
