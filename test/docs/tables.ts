/** A page with a table of its made anew between its markers. */
export function withTable(page: string, name: string, content: string): string {
  const [begin, end] = [`<!-- generated: ${name} -->\n`, "<!-- end -->"];
  const [before, after] = page.split(begin);
  const rest = after?.slice(after.indexOf(end));
  if (!rest?.startsWith(end)) {
    throw new Error(`the page has no place for the table "${name}"`);
  }
  return `${before}${begin}\n${content}\n\n${rest}`;
}

export function table(head: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  return [head, head.map(() => "---"), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n")
    .replaceAll("| --- ", "|---")
    .replaceAll("|--- |", "|---|");
}
