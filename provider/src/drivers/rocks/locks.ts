import { hostname, userInfo } from "node:os";
import { createInterface } from "node:readline";
import { execa } from "execa";
import pLimit from "p-limit";
import type { ClusterRef, WaitLimits } from "../driver";
import { Locked, SiteFailure } from "../errors";
import { lockedBy, SharedLocks } from "../shared-locks";
import { type RocksFrontend, refuseFailure } from "./frontend";
import { MAKE_FOLDER } from "./store";

const BEAT_MS = 15_000;
const SITE_SECONDS = 600;

/**
 * Takes a lock on the Rocks frontend and holds it as long as it hears from us: it ends with its input, or when nothing
 * has come for 90 s because a connection was lost. Who waits is told every 15 s by whom it is held.
 * Arguments: folder, file, seconds to wait, who we are, and a file that nobody may have locked either, or none. The file goes
 * with the lock: one that was taken meanwhile is another, so its holder looks whether it is still the one of that name.
 */
const HOLD = `${MAKE_FOLDER}cd "$1" || exit 1
# On a line of its own, also where a log-in has begun one.
say() { printf '\\n%s\\n' "$1"; }
end=$((SECONDS + $3))
while :; do
  exec 9>>"$2" || exit 1
  wait=$((end - SECONDS))
  [ "$wait" -gt 15 ] && wait=15
  [ "$wait" -lt 0 ] && wait=0
  if flock -w "$wait" 9; then
    [ "$2" -ef /proc/self/fd/9 ] && break
  else
    if [ "$SECONDS" -ge "$end" ]; then say "busy $(head -n 1 "$2")"; exit 0; fi
    say "waiting $(head -n 1 "$2")"
  fi
  exec 9>&-
done
if [ -r "$5" ]; then
  exec 8<"$5" && flock -w "$((end - SECONDS))" 8 || { say "busy {}"; rm -f "$2"; exit 0; }
  exec 8<&-
fi
printf '%s\\n' "$4" > "$2"
say held
while read -r -t 90 line; do [ "$line" = end ] && break; done
rm -f "$2"
`;

/** Locks on the Rocks frontend: one for each cluster, and the site's own, under which Rocks' tables are changed. */
export class Locks {
  private readonly shared = new SharedLocks();
  private readonly oneByOne = pLimit(1);

  constructor(
    private readonly frontend: RocksFrontend,
    private readonly folder: string,
  ) {}

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    const busy = (who: string) => lockedBy(who, cluster.name, limits.seconds);
    return this.shared.lock(cluster.name, () => this.take([`${cluster.name}.lock`], cluster.mark, limits, busy));
  }

  /** Rocks checks nothing that two do at the same time: whoever changes its tables holds this. */
  withSite<T>(cluster: ClusterRef, work: () => Promise<T>): Promise<T> {
    const busy = (who: string) =>
      new Locked(
        `the tables of ${this.frontend.name} are being changed by ${who}`,
        `it has not finished within ${SITE_SECONDS} s`,
        "Wait for its end, or end it there; then run the same command again",
      );
    const limits = { seconds: SITE_SECONDS, progress: () => undefined };
    return this.oneByOne(async () => {
      await using _lock = await this.take(["site.lock-of-all", this.frontend.program], cluster.mark, limits, busy);
      // Awaited here: the lock is given back at the end of this block.
      return await work();
    });
  }

  private async take(
    [file, alsoOver = ""]: readonly [string, string?],
    mark: ClusterRef["mark"],
    limits: WaitLimits,
    busy: (who: string) => Locked,
  ): Promise<AsyncDisposable> {
    const me = JSON.stringify({ who: `${userInfo().username}@${hostname()} (process ${process.pid})`, mark });
    const words = this.frontend.commandLine(HOLD, [this.folder, file, String(Math.ceil(limits.seconds)), me, alsoOver]);
    const [program = "", ...args] = words;
    const holder = execa(program, args, {
      reject: false,
      buffer: { stdout: false, stderr: true },
      env: { LC_ALL: "C" },
    });
    const ended = Promise.resolve(holder);
    for await (const line of createInterface({ input: holder.stdout })) {
      const [word = "", ...rest] = line.split(" ");
      if (word === "held") {
        return this.hold(holder, ended);
      }
      if (word === "busy") {
        await ended;
        throw busy(whoIn(rest.join(" ")));
      }
      if (word === "waiting") {
        limits.progress(`waiting for ${whoIn(rest.join(" "))}, who is changing this cluster`);
      }
    }
    const result = await ended;
    const what = `${this.frontend.name}: taking a lock`;
    refuseFailure(what, this.frontend.answerOf(result, limits.seconds));
    throw new SiteFailure(what, "it ended before it was taken");
  }

  /** Says from time to time that this process lives. */
  private hold(holder: { stdin: NodeJS.WritableStream }, ended: Promise<unknown>): AsyncDisposable {
    // A holder that has ended is noticed by whoever comes next.
    holder.stdin.on("error", () => undefined);
    const timer = setInterval(() => holder.stdin.write("\n"), BEAT_MS);
    timer.unref();
    return {
      [Symbol.asyncDispose]: async () => {
        clearInterval(timer);
        holder.stdin.end("end\n");
        await ended;
      },
    };
  }
}

function whoIn(text: string): string {
  try {
    const { who } = JSON.parse(text) as { who?: unknown };
    return typeof who === "string" ? who.replaceAll(/[^\x20-\x7e]/g, "?") : "somebody";
  } catch {
    return "somebody";
  }
}
