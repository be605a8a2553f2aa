import type { ClusterArgs } from "@virtual-cluster/pulumi";
import { expect } from "chai";
import { eventually } from "../eventually";
import { Shell } from "./shell";
import type { World } from "./world";

export const BOOT_ID = "cat /proc/sys/kernel/random/boot_id";
const LISTED = 'grep -o "compute-[0-9]*$" /etc/hosts; echo; cat /etc/vc/machinefile';

/** What one `pulumi up` announced and did: `update demo-frontend` … by resource, sorted. */
export interface Change {
  readonly announced: readonly string[];
  readonly done: readonly string[];
  /** The preview's text. */
  readonly preview: string;
  readonly all: string;
}

/** One cluster of booted guests through its life. */
export class Life {
  constructor(
    readonly world: World,
    /** Of the stack, and with the resource's name `demo` the start of every name at the site. */
    readonly stack: string,
  ) {}

  get cluster(): string {
    return `acceptance-${this.stack}-demo`;
  }

  async configure(args: ClusterArgs): Promise<void> {
    await this.world.configure(this.stack, { demo: args });
  }

  /** Changes the program, and brings the cluster there. */
  async change(args: ClusterArgs): Promise<Change> {
    await this.configure(args);
    return this.up();
  }

  async up(...options: string[]): Promise<Change> {
    const all = (await this.world.pulumi(["up", "--yes", ...options])).all ?? "";
    const [preview = "", update = ""] = all.split(/^Updating \(/m);
    const done = [...update.matchAll(operation("created|updated|deleted|replaced"))];
    return {
      announced: operationsOf(preview),
      done: done.map(([, name, verb]) => `${verb?.slice(0, -1)} ${name}`).sort(),
      preview,
      all,
    };
  }

  async shell(): Promise<Shell> {
    const { outputs } = await this.world.outputs<{ outputs: { demo: { sshArguments: string[] } } }>();
    return Shell.open(this.world, outputs.demo.sshArguments);
  }

  /** UUIDs of the machines, by node. */
  async machines(): Promise<Record<string, string>> {
    const lines = (await this.world.virsh("list", "--all", "--uuid", "--name")).split("\n");
    const machines = lines.map((line) => line.trim().split(/\s+/)).filter(([, name]) => name);
    return Object.fromEntries(machines.map(([uuid = "", name = ""]) => [this.nodeOf(name), uuid]));
  }

  nodeOf(domain: string): string {
    return domain.slice(this.cluster.length + 1);
  }
}

/** What a preview or an update says that it does. */
export function operationsOf(preview: string): readonly string[] {
  const found = [...preview.matchAll(operation("create|update|delete|replace"))];
  return found.map(([, name, verb]) => `${verb} ${name}`).sort();
}

/** The steps of a replacement, `++` and `--`, are parts of it. */
function operation(verbs: string): RegExp {
  return new RegExp(`^ *(?:~|\\+|-|\\+-) +pulumi-nodejs:\\S+ (\\S+) (${verbs})\\b(?! original| replacement)`, "gm");
}

/** The computes that every node has in its hosts and its machinefile, within 10 s. */
export async function expectListedOnAll(shell: Shell, computes: readonly string[]): Promise<void> {
  await eventually(async () => {
    const lists = await shell.runOnAll(computes, LISTED);
    for (const [node, list] of Object.entries(lists)) {
      const [hosts = "", machinefile = ""] = list.split("\n\n");
      expect(hosts.split("\n").sort(), `hosts of ${node}`).to.deep.equal(computes);
      expect(machinefile.split("\n"), `machinefile of ${node}`).to.deep.equal(computes);
    }
  }, 10);
}
