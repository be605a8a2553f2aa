import { InvalidImage } from "../../drivers/errors";
import { type Bytes, isSameFile, withBytes } from "../disk/bytes";
import { hasVirtioDrivers } from "../disk/kernels";
import { type DiskLayout, layoutOf, rootPlace } from "../disk/layout";
import type { Description } from "../repository/repository";
import { withRoot } from "../root/root";
import { BOOT_RULES } from "./boot";
import { DESCRIPTION_RULES } from "./description";
import { IDENTITY_RULES } from "./identity";
import { LAYOUT_RULES } from "./layout";
import { NETWORK_RULES } from "./network";
import { type RootFacts, rootFacts } from "./root-facts";
import type { Finding, Level, Rule } from "./rule";
import { SYSTEM_RULES } from "./system";

const MIB = 1024 * 1024;

/** Found out by trying: what fails then stands for it. */
const READABLE: Rule<never> = {
  id: "readable",
  level: "error",
  asks: "The disk is a file that can be read, and so is the file system of its root.",
  find: () => [],
};

/** Likewise, for a file system that can be run from and not be read here. */
const LOOKED_INTO: Rule<never> = {
  id: "looked-into",
  level: "warning",
  asks: "The root file system can be looked into: ext2, ext3 and ext4 can, XFS and btrfs only where libguestfs is installed.",
  find: () => [],
};

const ROOT_RULES = [...SYSTEM_RULES, ...BOOT_RULES, ...NETWORK_RULES, ...IDENTITY_RULES];

/** All of them, by what they are about. */
export const RULES: Readonly<Record<string, ReadonlyArray<Pick<Rule<never>, "id" | "level" | "asks">>>> = {
  "the vc-in.xml": DESCRIPTION_RULES,
  "the disk": [READABLE, ...LAYOUT_RULES, LOOKED_INTO],
  "the system in it": SYSTEM_RULES,
  "how it starts": BOOT_RULES,
  "its network": NETWORK_RULES,
  "what nodes mustn't share": IDENTITY_RULES,
};

/** What is to be checked. */
export interface Subject {
  readonly description?: Description;
  readonly frontend?: string;
  /** Absent, or the same file: the frontend's disk serves. */
  readonly compute?: string;
  /** What these are called for people. Default: as their files are. */
  readonly names?: { readonly frontend: string; readonly compute: string };
}

export interface Report {
  /** Whether no rule of level `error` is broken. */
  readonly conformant: boolean;
  readonly parts: readonly Part[];
}

/** What the rules say of the vc-in.xml, or of a disk. */
export interface Part {
  readonly about: "vc-in.xml" | "frontend" | "compute" | "frontend and compute";
  readonly file: string;
  /** What it is, in a few words each. */
  readonly facts: readonly string[];
  /** Errors first. */
  readonly findings: readonly RuleFinding[];
  /** Rules that hold. */
  readonly holds: readonly string[];
  /** Rules that couldn't be looked at, since what they need isn't there. */
  readonly notLookedAt: readonly string[];
}

export interface RuleFinding extends Finding {
  readonly rule: string;
  readonly level: Level;
}

/** Holds an image against the standard's rules. Reads only; nothing is mounted, and a disk that serves both is read once. */
export async function checkImage({ description, frontend, compute, names }: Subject): Promise<Report> {
  const parts: Part[] = [];
  if (description) {
    const answers = await ask(DESCRIPTION_RULES, description);
    parts.push({ about: "vc-in.xml", file: description.origin, facts: [], ...answers });
  }
  if (frontend !== undefined) {
    const isShared = compute === undefined || (await isSameFile(frontend, compute));
    const about = isShared && (description || compute) ? "frontend and compute" : "frontend";
    parts.push({ ...(await checkDisk(about, frontend)), file: names?.frontend ?? frontend });
    if (!isShared) {
      parts.push({ ...(await checkDisk("compute", compute)), file: names?.compute ?? compute });
    }
  } else if (compute !== undefined) {
    parts.push(await checkDisk("compute", compute));
  }
  const conformant = !parts.some(({ findings }) => findings.some(({ level }) => level === "error"));
  return { conformant, parts };
}

type Answers = Pick<Part, "findings" | "holds" | "notLookedAt">;

async function checkDisk(about: Part["about"], file: string): Promise<Part> {
  try {
    return await withBytes(file, async (disk) => {
      const layout = await layoutOf(disk);
      const outside = await ask(LAYOUT_RULES, layout);
      const inside = await checkRoot(file, disk, layout);
      return { about, file, facts: [...layoutFacts(layout), ...inside.facts], ...joined([outside, inside]) };
    });
  } catch (error) {
    return { about, file, facts: [], ...unreadable(error, READABLE, [...LAYOUT_RULES, ...ROOT_RULES]) };
  }
}

/** One rule that breaks off breaks them all off: what can't be read for one can't for others, and each might take long. */
async function checkRoot(file: string, disk: Bytes, layout: DiskLayout): Promise<Answers & Pick<Part, "facts">> {
  const place = rootPlace(layout);
  if (!place) {
    return { facts: [], findings: [], holds: [], notLookedAt: ROOT_RULES.map(({ id }) => id) };
  }
  try {
    return await withRoot(file, place, async (root) => {
      const facts = await rootFacts(disk, layout, root);
      return { facts: systemFacts(facts), ...(await ask(ROOT_RULES, facts)) };
    });
  } catch (error) {
    return { facts: [], ...unreadable(error, place.kind === "ext" ? READABLE : LOOKED_INTO, ROOT_RULES) };
  }
}

async function ask<Subject>(rules: readonly Rule<Subject>[], subject: Subject): Promise<Answers> {
  const answers: { rule: Rule<Subject>; found: readonly Finding[] | undefined }[] = [];
  for (const rule of rules) {
    answers.push({ rule, found: await rule.find(subject) });
  }
  return {
    findings: answers.flatMap(({ rule: { id, level }, found }) =>
      (found ?? []).map((one) => ({ rule: id, level, ...one })),
    ),
    holds: answers.filter(({ found }) => found?.length === 0).map(({ rule }) => rule.id),
    notLookedAt: answers.filter(({ found }) => found === undefined).map(({ rule }) => rule.id),
  };
}

function unreadable(
  error: unknown,
  { id, level }: Rule<never>,
  rules: ReadonlyArray<Pick<Rule<never>, "id">>,
): Answers {
  if (!(error instanceof InvalidImage)) {
    throw error;
  }
  return {
    findings: [{ rule: id, level, found: error.detail, fix: error.hint }],
    holds: [],
    notLookedAt: rules.map((rule) => rule.id),
  };
}

function joined(all: readonly Answers[]): Answers {
  const LEVELS: readonly Level[] = ["error", "warning", "info"];
  const findings = all.flatMap((answers) => answers.findings);
  return {
    findings: LEVELS.flatMap((level) => findings.filter((found) => found.level === level)),
    holds: all.flatMap(({ holds }) => holds),
    notLookedAt: all.flatMap(({ notLookedAt }) => notLookedAt),
  };
}

function layoutFacts({ size, container, table, first, holds }: DiskLayout): string[] {
  return [
    container ? container.name : `RAW, ${Math.round(size / MIB)} MiB`,
    ...(table ? [`${table.kind.toUpperCase()} with ${counted(table.partitions.length, "partition")}`] : []),
    ...(first && holds[0] ? [`partition 1: ${holds[0].what}, ${Math.round(first.length / MIB)} MiB`] : []),
  ];
}

function systemFacts({ kernels, reader: { program, dialects } }: RootFacts): string[] {
  return [
    ...kernels.map((kernel) => `kernel ${kernel.version}${hasVirtioDrivers(kernel) ? "" : " (no virtio)"}`),
    ...(program ? [dialects.length > 0 ? `${program} (dialects: ${dialects.join(", ")})` : program] : []),
  ];
}

function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
}
