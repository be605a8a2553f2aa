import { connect, resolveSettings } from "../drivers/registry";
import { searchSystemFolders } from "../setup/search-path";
import { allocate, boot, fixImages, reconfigure, remove, type Surroundings, shutdown, status } from "./operations";
import { settingsOf } from "./settings";

const FAILURE = 1;
const USAGE = 2;

interface ProgramEntry {
  readonly run: (around: Surroundings, args: readonly string[]) => Promise<string>;
  /** Names of its arguments, in order. */
  readonly args: readonly string[];
  /** Those that may follow, all or none. */
  readonly optional?: readonly string[];
}

const PROGRAMS: Readonly<Record<string, ProgramEntry>> = {
  fix_images: { run: fixImages, args: ["VC_IN", "TEMP", "NODE_TYPES"] },
  allocate: { run: allocate, args: ["NUM_CPUS", "VC_IN", "VC_OUT", "TEMP", "KEY"] },
  boot: {
    run: boot,
    args: ["DISK", "HOST_NAME", "TEMP", "VC_OUT"],
    // Of a network that PRAGMA once had between sites; there is nothing here to do about it.
    optional: ["IPOP_SERVERINFO_URL", "IPOP_CLIENT"],
  },
  status: { run: status, args: ["TEMP", "VC_OUT"] },
  shutdown: { run: shutdown, args: ["TEMP", "VC_OUT", "HOST_NAME", "GRACE_SECONDS"] },
  remove: { run: remove, args: ["TEMP", "VC_OUT"], optional: ["HOST_NAME"] },
  reconfigure: {
    run: reconfigure,
    args: ["NUM_CPUS", "VC_IN", "VC_OUT", "TEMP", "KEY"],
    optional: ["HOST_NAME", "CPUS", "MEMORY_MIB"],
  },
};

/**
 * One of a driver's programs, as docs/sites/command.md describes them.
 * @returns its exit code: 0, 1 for a failure, 2 for wrong usage
 */
export async function main(driverName: string, program: string, args: readonly string[]): Promise<number> {
  const entry = PROGRAMS[program];
  const wrong = entry ? wrongUsage(entry, args) : "there is no such program";
  if (!entry || wrong !== undefined) {
    const usage = [...(entry?.args ?? []), ...(entry?.optional ? [`[${entry.optional.join(" ")}]`] : [])].join(" ");
    console.error(`${program}: ${wrong}. Usage: ${program} ${usage}`);
    return USAGE;
  }
  searchSystemFolders();
  try {
    const site = resolveSettings(settingsOf(driverName, process.env));
    const last = await entry.run({ driver: connect(site), site, progress: (line) => console.log(line) }, args);
    if (last) {
      console.log(last);
    }
    return 0;
  } catch (error) {
    console.error(`${program}: ${(error as Error).message}`);
    return FAILURE;
  }
}

function wrongUsage({ args, optional = [] }: ProgramEntry, given: readonly string[]): string | undefined {
  if (given.length !== args.length && given.length !== args.length + optional.length) {
    return `${given.length} arguments were given`;
  }
  const number = [...args, ...optional].findIndex(
    (name, index) =>
      /^(NUM_CPUS|CPUS|MEMORY_MIB|GRACE_SECONDS)$/.test(name) &&
      given[index] !== undefined &&
      !/^\d{1,6}$/.test(given[index]),
  );
  return number < 0
    ? undefined
    : `${[...args, ...optional][number]} is ${JSON.stringify(given[number])}, and no whole number`;
}
