import type { GuestFileSystem } from "./file-system";

/** What SELinux tells apart when it labels: `file_contexts`' own letters. */
export type Labelled = "file" | "folder" | "link";

/** The label of what is put at a path; undefined where it gets none. */
export type Labels = (path: string, what: Labelled) => string | undefined;

/** For all paths of a disk together: somebody else wrote the patterns. */
const MOST_MS = 2_000;
const LETTERS: Readonly<Record<Labelled, string>> = { file: "--", folder: "-d", link: "-l" };
const LABEL = /^[\w.-]+:[\w.-]+:[\w.-]+(?::[\w.,:-]+)?$/;
/** Repeated groups, and many repetitions in a row, can take for ever on a text that doesn't match. */
const COSTLY = /\)[*+{]|(?:[*+{].*){6}/;
const META = /[.^$?*+|[({\\]/;

interface Context {
  /** All of its paths begin so. */
  readonly start: string;
  readonly pattern: string;
  readonly letters: string | undefined;
  readonly label: string;
}

/** Whether a guest has SELinux, and that isn't off. */
export async function isLabelled(root: GuestFileSystem): Promise<boolean> {
  return (await policyOf(root)) !== undefined;
}

async function policyOf(root: GuestFileSystem): Promise<string | undefined> {
  const config = await root.read("/etc/selinux/config");
  const [, mode] = /^\s*SELINUX\s*=\s*(\w+)/m.exec(config) ?? [];
  const [, policy] = /^\s*SELINUXTYPE\s*=\s*([\w-]+)/m.exec(config) ?? [];
  return mode === "enforcing" || mode === "permissive" ? policy : undefined;
}

/**
 * Which labels a guest with SELinux gives its files, as its own policy's `file_contexts` say: what is written from outside
 * has none, and then neither its services nor sshd may read it.
 */
export async function labelsOf(root: GuestFileSystem): Promise<Labels> {
  const policy = await policyOf(root);
  const folder = `/etc/selinux/${policy}/contexts/files`;
  const read = async (name: string) => (await root.read(`${folder}/${name}`)).split("\n");
  const [all, homes, local, alias, aliases] = await Promise.all(
    ["", ".homedirs", ".local", ".subs", ".subs_dist"].map((suffix) => read(`file_contexts${suffix}`)),
  );
  const contexts = [...(all ?? []), ...(homes ?? []), ...(local ?? [])].flatMap(contextIn).reverse();
  const same = [alias, aliases].map((lines = []) => lines.flatMap(aliasIn));
  let left = MOST_MS;
  return (path, what) => {
    const begun = performance.now();
    const known = same.reduce(replaced, path);
    // The last one that matches counts.
    const found = contexts.find(
      ({ start, pattern, letters }) =>
        left > performance.now() - begun &&
        known.startsWith(start) &&
        (letters === undefined || letters === LETTERS[what]) &&
        isMatch(pattern, known),
    );
    left -= performance.now() - begun;
    return found && LABEL.test(found.label) ? found.label : undefined;
  };
}

function contextIn(line: string): Context[] {
  const [pattern = "", ...more] = line.trim().split(/\s+/);
  const label = more.at(-1);
  if (label === undefined || more.length > 2 || pattern.startsWith("#") || COSTLY.test(pattern)) {
    return [];
  }
  const [literal = ""] = pattern.split(META, 1);
  return [
    {
      start: literal.slice(0, literal.lastIndexOf("/") + 1),
      pattern,
      letters: more.length === 2 ? more[0] : undefined,
      label,
    },
  ];
}

function aliasIn(line: string): Array<readonly [from: string, to: string]> {
  const [from, to] = line.trim().split(/\s+/);
  return from?.startsWith("/") && to?.startsWith("/") ? [[from, to]] : [];
}

function replaced(path: string, aliases: ReadonlyArray<readonly [from: string, to: string]>): string {
  const found = aliases.find(([from]) => path === from || path.startsWith(`${from}/`));
  return found ? `${found[1]}${path.slice(found[0].length)}` : path;
}

function isMatch(pattern: string, path: string): boolean {
  try {
    return new RegExp(`^(?:${pattern})$`).test(path);
  } catch {
    return false; // Another dialect.
  }
}
