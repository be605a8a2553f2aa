/** Every value that is there more than once, each once. */
export function duplicatesIn(values: Iterable<string>): string[] {
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const value of values) {
    (seen.has(value) ? twice : seen).add(value);
  }
  return [...twice];
}
