import { SiteFailure } from "../errors";

/** One row of a `rocks list …`, by column in lower case. What the database has nothing for is "". */
export type Row = Readonly<Record<string, string | undefined>>;

/** Headers that have a blank in them. */
const HEADER = /CLIENT NODES|\S+/g;
/** What `rocks` says of a host that it couldn't reach; it may stand anywhere. */
const DOWN = /^[\w.-]+: down\s*$/;

/**
 * Reads what `rocks list …` printed: JSON of Rocks 7 (`json=true`), else a table, which is what older ones print all the
 * same. No rows are no bytes at all. In a table each column begins where its header does.
 * @param owner name of the first column. Rocks leaves it out of a table all of whose rows have the same: then it is absent
 */
export function parseListing(output: string, owner: string): Row[] {
  const lines = output.split("\n").filter((line) => line.trim() !== "" && !DOWN.test(line));
  const [header, ...rows] = lines;
  if (header === undefined) {
    return [];
  }
  return header.startsWith("[") ? parseJson(lines.join("\n"), owner) : parseTable(header, rows, owner);
}

function parseTable(header: string, lines: readonly string[], owner: string): Row[] {
  const columns = [...header.matchAll(HEADER)].map((match) => ({ name: match[0].toLowerCase(), start: match.index }));
  return lines.map((line) => {
    const cells = columns.map(({ name, start }, index) => {
      const text = line.slice(start, columns[index + 1]?.start).trim();
      return [name, name === owner && index === 0 ? text.replace(/:$/, "") : textOf(text)] as const;
    });
    return Object.fromEntries(cells);
  });
}

/** An empty value is printed as dashes across its column. */
function textOf(cell: string): string {
  return /^-+$/.test(cell) ? "" : cell;
}

/** `[{"<owner>": name, "<what was listed>": [{column: value, …}, …]}, …]`. */
function parseJson(text: string, owner: string): Row[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw unreadable(text);
  }
  if (!Array.isArray(parsed)) {
    throw unreadable(text);
  }
  return parsed.flatMap((group: unknown) => {
    const entries = isObject(group) ? Object.entries(group) : [];
    const rows = entries.find(([, value]) => Array.isArray(value))?.[1];
    if (!Array.isArray(rows)) {
      throw unreadable(text);
    }
    const name = entries.find(([key]) => key.toLowerCase() === owner)?.[1];
    return rows.filter(isObject).map((row) => ({
      ...Object.fromEntries(Object.entries(row).map(([key, value]) => [key.toLowerCase(), plain(value)])),
      [owner]: plain(name),
    }));
  });
}

function plain(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value).trim() : "";
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function unreadable(text: string): SiteFailure {
  return new SiteFailure("reading what rocks has listed", `it begins with JSON and isn't: ${text.slice(0, 80)}`);
}
