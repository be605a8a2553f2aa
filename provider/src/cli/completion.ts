import { Argument, type Command } from "commander";
import type { Terminal } from "./terminal";

const SHELLS = ["bash", "zsh", "fish"] as const;
type Shell = (typeof SHELLS)[number];

const EXAMPLES = `
Examples:
  vc completion bash >~/.local/share/bash-completion/completions/vc
  vc completion zsh >~/.zfunc/_vc           # with fpath+=~/.zfunc before compinit in ~/.zshrc
  vc completion fish >~/.config/fish/completions/vc.fish`;

/** Knows the commands that were added before and after it, since it looks when it is run. */
export function addCompletion(program: Command, terminal: Terminal): void {
  program
    .command("completion")
    .summary("print a shell's completions")
    .description("Prints a script by which a shell completes vc's commands and options.")
    .addArgument(new Argument("<shell>").choices(SHELLS))
    .addHelpText("after", EXAMPLES)
    .action((shell: Shell) => terminal.out(SCRIPTS[shell](entriesOf(program))));
}

/** What may follow a command. */
interface Entry {
  /** The commands that lead there, the program's own name left out. */
  readonly path: readonly string[];
  readonly words: readonly { readonly word: string; readonly description: string }[];
}

function entriesOf(command: Command, path: readonly string[] = []): Entry[] {
  const help = command.createHelp();
  const options = help
    .visibleOptions(command)
    .flatMap(({ short, long, description }) => [short, long].flatMap((word) => (word ? [{ word, description }] : [])));
  const commands = help.visibleCommands(command).filter((one) => one.name() !== "help" || path.length === 0);
  const words = commands.map((one) => ({ word: one.name(), description: one.summary() || one.description() }));
  const choices = command.registeredArguments
    .flatMap(({ argChoices }) => argChoices ?? [])
    .map((word) => ({ word, description: "" }));
  return [
    { path, words: [...words, ...choices, ...options] },
    ...command.commands.flatMap((one) => entriesOf(one, [...path, one.name()])),
  ];
}

const SCRIPTS: Readonly<Record<Shell, (entries: readonly Entry[]) => string>> = { bash, zsh, fish };

/** The words so far that are commands decide; where nothing fits, files are completed. */
function bash(entries: readonly Entry[]): string {
  return `# Completions of vc for bash.
_vc() {
  local word path= index
  for ((index = 1; index < COMP_CWORD; index++)); do
    word=\${COMP_WORDS[index]}
    case "$path $word" in
${subcommands(entries)
  .map((path) => `      ${quoted(` ${path.join(" ")}`)}) path="$path $word" ;;`)
  .join("\n")}
    esac
  done
  case "$path" in
${entries
  .map(({ path, words }) => {
    const list = words.map(({ word }) => word).join(" ");
    return `    ${quoted(path.map((word) => ` ${word}`).join(""))}) COMPREPLY=($(compgen -W ${quoted(list)} -- "\${COMP_WORDS[COMP_CWORD]}")) ;;`;
  })
  .join("\n")}
  esac
}
complete -o default -F _vc vc`;
}

function zsh(entries: readonly Entry[]): string {
  return `#compdef vc
# Completions of vc for zsh.
_vc() {
  local word place= index
  for ((index = 2; index < CURRENT; index++)); do
    word=\${words[index]}
    case "$place $word" in
${subcommands(entries)
  .map((path) => `      ${quoted(` ${path.join(" ")}`)}) place="$place $word" ;;`)
  .join("\n")}
    esac
  done
  local -a known
  case "$place" in
${entries
  .map(({ path, words }) => {
    const list = words.map(({ word, description }) => quoted(`${word.replaceAll(":", "\\:")}:${description}`));
    return `    ${quoted(path.map((word) => ` ${word}`).join(""))}) known=(${list.join(" ")}) ;;`;
  })
  .join("\n")}
  esac
  _describe vc known || _files
}
if [ "$funcstack[1]" = _vc ]; then _vc "$@"; else compdef _vc vc; fi`;
}

function fish(entries: readonly Entry[]): string {
  const lines = entries.flatMap(({ path, words }) => {
    const below = entries.filter(
      (one) => one.path.length === path.length + 1 && path.every((word, at) => one.path[at] === word),
    );
    const children = below.map((one) => one.path.at(-1) ?? "");
    const conditions = [
      ...path.map((word) => `__fish_seen_subcommand_from ${word}`),
      ...(children.length > 0 ? [`not __fish_seen_subcommand_from ${children.join(" ")}`] : []),
    ];
    return words.map(({ word, description }) => {
      const what = word.startsWith("--")
        ? `-l ${word.slice(2)}`
        : word.startsWith("-")
          ? `-s ${word.slice(1)}`
          : `-a ${word}`;
      const condition = conditions.length > 0 ? ` -n ${quoted(conditions.join("; and "))}` : "";
      return `complete -c vc${condition} ${what}${description ? ` -d ${quoted(description)}` : ""}`;
    });
  });
  return ["# Completions of vc for fish.", ...lines].join("\n");
}

function subcommands(entries: readonly Entry[]): (readonly string[])[] {
  return entries.map(({ path }) => path).filter((path) => path.length > 0);
}

/** For all three shells: descriptions have no backslashes, which fish would read even so. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
