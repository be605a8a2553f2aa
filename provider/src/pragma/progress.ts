import type { EngineEvent } from "@pulumi/pulumi/automation";

/** Where progress is shown. */
export interface Screen {
  readonly line: (text: string) => void;
  /** Shows a text below all lines, instead of the last one; none with "". Absent where that can't be done: in a pipe. */
  readonly status?: (text: string) => void;
}

/** What begins, and what it is when it is done, by the engine's operation. */
const OPERATIONS: Readonly<Record<string, readonly [string, string]>> = {
  create: ["creating", "created"],
  update: ["updating", "updated"],
  delete: ["deleting", "deleted"],
  replace: ["making anew", "made anew"],
};
/** The event log has what is for Pulumi's developers too. */
const HEARD = ["info", "info#err", "warning", "error"];
const NODE = /:(FrontendNode|ComputeNode)$/;
const CLUSTER = /:VirtualCluster$/;
/** How Pulumi wraps what a provider's `check` or `create` says. */
const WRAPPINGS = [
  /^\S+ resource '[^']*'(?:: property .*?)? has a problem: /,
  /^(?:creating|updating|deleting|reading) \S+: /,
];
/** What the engine says after all others. */
const AFTERWORDS = /^(update failed|preview failed|destroy failed|Resource preview failed)\b/;

/** The engine's events as lines for people. */
export class Progress {
  /** What went wrong, one sentence each. */
  readonly problems: string[] = [];
  private readonly said = new Set<string>();
  private readonly started = new Map<string, number>();
  private readonly begin = Date.now();
  private done = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly cluster: string,
    private readonly screen: Screen,
  ) {}

  /** Takes the events of a preview, or of another operation. */
  readonly take = (event: EngineEvent): void => {
    const { diagnosticEvent: diagnostic, resourcePreEvent: pre, resOutputsEvent: outputs } = event;
    if (diagnostic && !diagnostic.ephemeral) {
      this.hear(diagnostic.severity, plain(diagnostic.message));
    } else if (pre && !pre.planning) {
      this.show(pre.metadata.urn, pre.metadata.type, pre.metadata.op);
    } else if (outputs && !outputs.planning) {
      this.finish(outputs.metadata.urn, outputs.metadata.op);
    }
  };

  /** Shows how long it has been going on, where that can be shown. */
  start(): void {
    const { status } = this.screen;
    if (status) {
      this.timer = setInterval(() => status(this.summary()), 200);
    }
  }

  end(): void {
    clearInterval(this.timer);
    this.screen.status?.("");
  }

  private hear(severity: string, message: string): void {
    if (!HEARD.includes(severity)) {
      return;
    }
    for (const line of message.split("\n").filter((text) => text.trim() !== "")) {
      if (severity === "error") {
        this.fail(line.replace(/^error: /, "").trim());
      } else if (!this.said.has(line)) {
        this.said.add(line);
        this.screen.line(line);
      }
    }
  }

  private fail(line: string): void {
    const sentence = WRAPPINGS.reduce((text, wrapping) => text.replace(wrapping, ""), line);
    if (!AFTERWORDS.test(sentence) && !this.problems.includes(sentence)) {
      this.problems.push(sentence);
    }
  }

  private show(urn: string, type: string, operation: string): void {
    const words = OPERATIONS[operation];
    if (words && (NODE.test(type) || CLUSTER.test(type))) {
      this.started.set(urn, Date.now());
      this.screen.line(`${nameIn(urn)}: ${words[0]}`);
    }
  }

  private finish(urn: string, operation: string): void {
    const since = this.started.get(urn);
    if (since !== undefined) {
      this.started.delete(urn);
      this.done += 1;
      this.screen.line(`${nameIn(urn)}: ${OPERATIONS[operation]?.[1] ?? operation} (${seconds(since)})`);
    }
  }

  private summary(): string {
    const under = [...this.started.keys()].map(nameIn).join(", ");
    return `${this.cluster}: ${under ? `${this.done} done, at work on ${under}` : "looking"} (${seconds(this.begin)})`;
  }
}

function nameIn(urn: string): string {
  return urn.split("::").at(-1) ?? urn;
}

function seconds(since: number): string {
  return `${((Date.now() - since) / 1000).toFixed(1)} s`;
}

/** Without Pulumi's marks for colours, and whatever would move the cursor. */
function plain(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replaceAll(/<\{%[^%]*%\}>/g, "").replaceAll(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "");
}
