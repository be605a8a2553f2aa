/** A cell as the database has it: nothing is printed as dashes, in a table. */
export type Cell = string | number | null;

export interface Listing {
  /** Names of columns, the owner's first, as JSON has them. */
  readonly columns: readonly string[];
  readonly rows: ReadonlyArray<readonly Cell[]>;
  /** What a group of rows is called in JSON. */
  readonly key: string;
  /** Whether the owner's column is left out where all rows have the same. */
  readonly trimOwner: boolean;
  /** In which order JSON has the columns, and whether the owner comes before its rows. */
  readonly json?: { readonly order: readonly string[]; readonly ownerLast?: boolean };
}

export interface PrintOptions {
  readonly json: boolean;
  readonly header: boolean;
  readonly only: readonly string[];
}

/** As `rocks list …` prints it: no rows are no bytes. */
export function print(listing: Listing, options: PrintOptions): string {
  if (listing.rows.length === 0) {
    return "";
  }
  return options.json ? printJson(listing) : printTable(listing, options);
}

function printTable({ columns, rows, trimOwner }: Listing, { header, only }: PrintOptions): string {
  const isAlone = trimOwner && only.length === 0 && new Set(rows.map(([owner]) => owner)).size === 1;
  const shown = columns
    .map((name, index) => ({ name, index }))
    .filter(({ name, index }) => (only.length > 0 ? only.includes(name) : !(isAlone && index === 0)));
  const text = (row: readonly Cell[], index: number) => {
    const cell = row[index];
    return index === 0 ? `${cell}:` : String(cell ?? "");
  };
  // Python 2 counts its long integers with the L at their end, and then prints them without.
  const width = (row: readonly Cell[], index: number) =>
    text(row, index).length + (index > 0 && typeof row[index] === "number" ? 1 : 0);
  const widths = shown.map(({ name, index }) =>
    Math.max(header ? name.length : 0, ...rows.map((row) => width(row, index))),
  );
  const line = (cells: readonly string[]) => `${cells.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(" ")}\n`;
  const body = rows.map((row) => line(shown.map(({ index }, at) => text(row, index) || "-".repeat(widths[at] ?? 0))));
  return (header ? line(shown.map(({ name }) => name.toUpperCase())) : "") + body.join("");
}

/** Python 2's `json.dumps(…, indent=4)`: a blank after each comma at a line's end. */
function printJson({ columns, rows, key, json }: Listing): string {
  const [owner = ""] = columns;
  const groups = new Map<Cell, Array<readonly Cell[]>>();
  let last: Cell | undefined;
  const ordered: Array<[Cell, Array<readonly Cell[]>]> = [];
  for (const row of rows) {
    const name = row[0] ?? "";
    if (name !== last) {
      const group: Array<readonly Cell[]> = [];
      groups.set(name, group);
      ordered.push([name, group]);
      last = name;
    }
    groups.get(name)?.push(row);
  }
  const order = json?.order ?? columns.slice(1);
  const objects = ordered.map(([name, group]) => {
    const list = group.map((row) =>
      Object.fromEntries(
        order
          .filter((column) => columns.includes(column))
          .map((column) => [column, row[columns.indexOf(column)] ?? null]),
      ),
    );
    return json?.ownerLast ? { [key]: list, [owner]: name } : { [owner]: name, [key]: list };
  });
  return `${JSON.stringify(objects, null, 4).replaceAll(/,\n/g, ", \n")}\n`;
}
