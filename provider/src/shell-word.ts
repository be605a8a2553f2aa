/** A word of a command line, quoted for a shell: for people to paste, and for ssh's ProxyCommand, which knows no other form. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A word that ssh takes as it is where it would replace tokens such as `%h`. */
export function withoutTokens(word: string): string {
  return word.replaceAll("%", "%%");
}
