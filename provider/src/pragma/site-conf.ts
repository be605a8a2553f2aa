import { NotSupported } from "../drivers/errors";

/** A text in quotes, as Python writes it on one line. */
const QUOTED = /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/;
const COMMENT = new RegExp(`(${QUOTED.source})|#.*$`, "g");
const ASSIGNMENT = /^([A-Za-z_]\w*)\s*=(?!=)\s*(.*)$/;
const ENTRY = new RegExp(`(${QUOTED.source})\\s*:\\s*(${QUOTED.source})`, "g");
/** A value without quotes: one word in which nothing would have to be worked out. */
const WORD = /^[\w./:@%,~-]+$/;

/**
 * Reads a `site_conf.conf` of pragma_boot (`etc/site_conf.conf.template` in pragmagrid/pragma_boot), which that ran as a
 * Python program. Here its assignments are read, and nothing is ever executed.
 *
 *     site_ve_driver = 'kvm_rocks'        # a comment
 *     temp_directory = /state/temp
 *     repository_settings = { 'repository_dir': '/state/vm-images' }
 *
 * @returns texts and words by name; those of a `{ … }` by the name of both, `repository_settings.repository_dir`. Lists and
 * whatever is no assignment are passed over
 * @throws NotSupported for a value that would have to be worked out
 */
export function parseSiteConf(text: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  let group: string | undefined;
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const code = line.replace(COMMENT, "$1").trimEnd();
    const [, name = "", value = ""] = ASSIGNMENT.exec(code) ?? [];
    group = value.startsWith("{") ? name : group;
    if (group !== undefined) {
      for (const [, key = "", entry = ""] of code.matchAll(ENTRY)) {
        values.set(`${group}.${unquoted(key)}`, unquoted(entry));
      }
      group = code.endsWith("}") ? undefined : group;
    } else if (name && !/^[[(]/.test(value)) {
      values.set(name, plain(name, value, index + 1));
    }
  }
  return values;
}

function plain(name: string, value: string, line: number): string {
  if (QUOTED.exec(value)?.[0] === value) {
    return unquoted(value);
  }
  if (!WORD.test(value)) {
    throw new NotSupported(
      `site_conf.conf, line ${line}`,
      `${name} would have to be worked out`,
      "Give it as a text in quotes: assignments are read, and nothing is executed",
    );
  }
  return value;
}

function unquoted(text: string): string {
  return text.slice(1, -1).replace(/\\(['"\\])/g, "$1");
}
