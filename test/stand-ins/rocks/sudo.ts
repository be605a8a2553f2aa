import { chmod, writeFile } from "node:fs/promises";

/**
 * A `sudo` for an account whose only line in sudoers is `account ALL=(root) NOPASSWD: <program>`; what else it is asked for
 * it refuses in the words of sudo 1.8. Like sudo it hands on nothing of the caller's environment.
 */
export async function writeSudo(file: string, program: string): Promise<void> {
  await writeFile(
    file,
    `#!/bin/bash
refuse() { echo "sudo: $1" >&2; exit 1; }
[ "$1" = -n ] || refuse "no tty present and no askpass program specified"
shift
[ "$1" != -l ] || { lists=yes; shift; }
[ "$1" = "${program}" ] || refuse "a password is required"
[ -x "$1" ] || refuse "$1: command not found"
[ -z "$lists" ] || { echo "$@"; exit 0; }
exec env -i PATH=/sbin:/bin:/usr/sbin:/usr/bin SUDO_COMMAND="$*" "$@"
`,
  );
  await chmod(file, 0o755);
}
