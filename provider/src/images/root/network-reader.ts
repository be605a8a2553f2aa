import type { DiskImage } from "../../drivers/driver";
import type { Dialect } from "../../vc-out/vc-out";
import type { GuestFileSystem } from "./file-system";

/** What reads the network contract inside an image, and in which dialect, as far as that isn't the usual. */
export type NetworkReader = Pick<DiskImage, "reads" | "vcOutDialect" | "takesContext" | "reportsReady">;

/** The same with what it is, for people. */
export interface FoundReader {
  readonly contract: NetworkReader;
  /** The program, or the file that starts it. Absent where there is none. */
  readonly program?: string;
  /** Dialects of vc-out.xml that it takes, where that can be seen. */
  readonly dialects: readonly Dialect[];
}

/** Programs of this project and of PRAGMA's, and where they are installed. */
const GUEST_PROGRAM = "/usr/sbin/vc-guest";
const PYTHON_READERS = [
  // vc-out-parser: its service's folder, and its package's.
  "/opt/vc-out-parser/vc-out-parser.py",
  "/opt/vc-out-parse/vc-out-parser.py",
  // dynip, a command of Rocks.
  ...["2.4", "2.6", "2.7"].map(
    (python) => `/opt/rocks/lib/python${python}/site-packages/rocks/commands/reconfigure/__init__.py`,
  ),
];
const CLOUD_INIT = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"];
const CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled";
/** Scripts of OpenNebula's one-context, and of its forerunners. */
const ONE_CONTEXT = "/etc/one-context.d";
/** Where an image says what runs at its start. */
const START_UP = [
  "/etc/systemd/system",
  "/usr/lib/systemd/system",
  "/lib/systemd/system",
  "/etc/init.d",
  "/etc/rc.d/init.d",
];
const START_UP_FILES = ["/etc/rc.local", "/etc/rc.d/rc.local"];
/** What names a unit or a script that may have to do with it; all of them are too many to look into. */
const TELLING_NAME = /vc|dynip|pragma|rocks|cluster/i;

/**
 * Looks what in a root file system reads the network contract: a program for vc-out.xml, else cloud-init, else nothing, and
 * then the deployer writes the configuration files.
 */
export async function findNetworkReader(root: GuestFileSystem): Promise<NetworkReader> {
  const [{ contract }, context] = await Promise.all([findProgram(root), findContextReader(root)]);
  return { ...contract, ...context };
}

/** Whether there is one-context, which tells OneGate too that it is ready, or a guest program of ours that knows the disc. */
async function findContextReader(root: GuestFileSystem): Promise<Pick<NetworkReader, "takesContext" | "reportsReady">> {
  const [program, scripts] = await Promise.all([root.read(GUEST_PROGRAM), root.list(ONE_CONTEXT)]);
  if (scripts.some(({ kind }) => kind === "file")) {
    return { takesContext: true, reportsReady: true };
  }
  return program.includes("vc-guest context") ? { takesContext: true } : {};
}

/** Which program that is, and what it takes; without what it does with a context disc. */
export async function findProgram(root: GuestFileSystem): Promise<FoundReader> {
  if (await root.has(GUEST_PROGRAM)) {
    return { contract: {}, program: GUEST_PROGRAM, dialects: ["A", "B"] };
  }
  for (const path of PYTHON_READERS) {
    const program = await root.read(path);
    if (program) {
      return knowsDialectB(program)
        ? { contract: {}, program: path, dialects: ["B"] }
        : { contract: { vcOutDialect: "A" }, program: path, dialects: ["A"] };
    }
  }
  const starter = await findStarter(root);
  if (starter) {
    return { contract: {}, program: starter, dialects: [] };
  }
  const isCloud = (await anyOf(root, CLOUD_INIT)) && !(await root.has(CLOUD_INIT_OFF));
  return isCloud
    ? { contract: { reads: "cloud-init" }, program: "cloud-init", dialects: [] }
    : { contract: { reads: "files" }, dialects: [] };
}

/**
 * In dialect B the names are attributes of `frontend` itself; programs of before September 2017 look only at elements
 * below it (vc-out-parser and dynip, in their repositories' histories).
 */
function knowsDialectB(program: string): boolean {
  return /\.\/frontend['"]/.test(program);
}

/** Whether something else that runs at the start mentions the file: an image may have a reader of its own. */
async function findStarter(root: GuestFileSystem): Promise<string | undefined> {
  const listed = await Promise.all(
    START_UP.map(async (folder) =>
      (await root.list(folder))
        .filter(({ kind, name }) => kind === "file" && TELLING_NAME.test(name))
        .map(({ name }) => `${folder}/${name}`),
    ),
  );
  for (const path of [...START_UP_FILES, ...listed.flat()]) {
    if ((await root.read(path)).includes("vc-out.xml")) {
      return path;
    }
  }
  return undefined;
}

async function anyOf(root: GuestFileSystem, paths: readonly string[]): Promise<boolean> {
  return (await Promise.all(paths.map((path) => root.has(path)))).includes(true);
}
