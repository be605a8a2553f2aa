/** MiB of address space, and seconds of processor time. */
const [MOST_MEMORY, MOST_TIME] = [1024, 20];

/** What a program may cost that takes the figures of somebody else's file for what they are: `prlimit` (util-linux) ends it. */
export function bounded(program: string, args: readonly string[]): [program: string, args: string[]] {
  return ["prlimit", [`--as=${MOST_MEMORY * 1024 * 1024}`, `--cpu=${MOST_TIME}`, "--core=0", "--", program, ...args]];
}
