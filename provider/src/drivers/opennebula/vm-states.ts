import type { NodeState } from "../driver";
import type { Vm } from "./objects";

/** `STATE` of a machine, as OpenNebula's `VirtualMachine.h` numbers it. */
export const VM = {
  INIT: 0,
  PENDING: 1,
  HOLD: 2,
  ACTIVE: 3,
  STOPPED: 4,
  SUSPENDED: 5,
  DONE: 6,
  FAILED: 7,
  POWEROFF: 8,
  UNDEPLOYED: 9,
  CLONING: 10,
  CLONING_FAILURE: 11,
} as const;

/** `LCM_STATE` of one that is active, as the same file numbers it. */
const LCM = { RUNNING: 3, EPILOG: 11, SHUTDOWN: 12, UNKNOWN: 16, SHUTDOWN_POWEROFF: 18, CLEANUP_DELETE: 23 } as const;
/** In these a machine stays until somebody does something. */
const LCM_FAILURES = new Set([36, 37, 38, 39, 40, 41, 42, 44, 46, 47, 48, 49, 50, 61]);
/** Something is attached, resized, saved, copied or moved while the guest runs on. */
const LCM_WORKING = new Set([4, 17, 24, 25, 26, 57, 59, 62, 66, 69]);
/** … or while the machine is off. */
const LCM_RESTING = new Set([27, 33, 34, 43, 51, 52, 53, 63, 64, 65, 67, 70, 71]);

/** What can be done with a machine now. */
export type Phase =
  | "waiting"
  | "off"
  | "paused"
  | "running"
  | "unknown"
  | "failed"
  | "leaving"
  | "changing"
  | "stopping"
  | "working"
  | "resting";

export function phaseOf({ state, lcmState }: Pick<Vm, "state" | "lcmState">): Phase {
  switch (state) {
    case VM.INIT:
    case VM.PENDING:
    case VM.CLONING:
      return "waiting";
    case VM.HOLD:
    case VM.POWEROFF:
    case VM.UNDEPLOYED:
      return "off";
    case VM.STOPPED:
    case VM.SUSPENDED:
      return "paused";
    case VM.FAILED:
    case VM.CLONING_FAILURE:
      return "failed";
    case VM.DONE:
      return "leaving";
  }
  if (LCM_FAILURES.has(lcmState)) {
    return "failed";
  }
  if (LCM_WORKING.has(lcmState)) {
    return "working";
  }
  if (LCM_RESTING.has(lcmState)) {
    return "resting";
  }
  switch (lcmState) {
    case LCM.RUNNING:
      return "running";
    case LCM.UNKNOWN:
      return "unknown";
    case LCM.SHUTDOWN:
    case LCM.EPILOG:
    case LCM.CLEANUP_DELETE:
      return "leaving";
    case LCM.SHUTDOWN_POWEROFF:
      return "stopping";
    default:
      return "changing";
  }
}

/** Whether its guest runs. */
export function isRunning(vm: Pick<Vm, "state" | "lcmState">): boolean {
  return ["running", "working"].includes(phaseOf(vm));
}

/** Whether it will be in another phase by itself. One that waits for a host may do so for ever. */
export function isUnsettled(vm: Pick<Vm, "state" | "lcmState">): boolean {
  return ["changing", "stopping", "working", "resting"].includes(phaseOf(vm));
}

/** One that waits for a host or is on its way up counts as running: whether it got there `waitFor` tells. */
export function nodeStateOf(vm: Vm): NodeState {
  const STATES: Readonly<Record<Phase, NodeState>> = {
    waiting: "running",
    changing: "running",
    stopping: "running",
    running: "running",
    working: "running",
    off: "off",
    resting: "off",
    paused: "paused",
    failed: "crashed",
    unknown: "unknown",
    leaving: "unknown",
  };
  return STATES[phaseOf(vm)];
}

const NAMES: ReadonlyMap<number, string> = new Map([
  [0, "is being made"],
  [1, "waits for the scheduler to give it a host"],
  [2, "is on hold"],
  [4, "is stopped"],
  [5, "is suspended"],
  [6, "is done"],
  [7, "failed"],
  [8, "is off"],
  [9, "is undeployed"],
  [10, "waits for its image to be copied"],
  [11, "could not be made, since its image could not be copied"],
]);

const LCM_NAMES: ReadonlyMap<number, string> = new Map([
  [1, "gets its disks"],
  [2, "boots"],
  [3, "runs"],
  [11, "is cleaned up"],
  [12, "is shutting down"],
  [16, "isn't seen on its host any more"],
  [17, "gets something attached"],
  [18, "is shutting down"],
  [23, "is cleaned up"],
  [36, "could not be booted"],
  [39, "could not be given its disks"],
  [40, "could not be cleaned up"],
  [69, "runs, and is backed up"],
]);

/** For people. */
export function stateInWords({ state, lcmState }: Pick<Vm, "state" | "lcmState">): string {
  const words = state === VM.ACTIVE ? LCM_NAMES.get(lcmState) : NAMES.get(state);
  return words ?? `is in state ${state}/${lcmState}`;
}

/** What OpenNebula says of it: why it didn't boot, why it has no host. Plain text. */
export function complaintOf({ attributes }: Pick<Vm, "attributes">): string {
  return [attributes.get("SCHED_MESSAGE"), attributes.get("ERROR")]
    .filter(Boolean)
    .join("\n")
    .replaceAll(/[^\x20-\x7e\n]/g, "?");
}
