import { claim, computeNode, frontendNode, virtualCluster } from "../../provider/src";
import {
  type CheckFailure,
  type LifeCycle,
  PartialFailure,
  type Properties,
  same,
  UNKNOWN,
} from "../../provider/src/resources/host";
import type { VirtualClusterOutputs } from "../../provider/src/resources/virtual-cluster";
import { fingerprintOf } from "../../sdk/src/outputs";

export interface State {
  readonly id: string;
  readonly inputs: Properties;
  readonly outputs: Properties;
}

/** A preview or an update that ended with what `check` refuses. */
export class CheckFailed extends Error {
  constructor(readonly failures: readonly CheckFailure[]) {
    super(failures.map(({ property, reason }) => `${property}: ${reason}`).join("\n"));
  }
}

/** The end of an engine that was to die. */
export class EngineDied extends Error {}

export type LifeCycles = Readonly<Record<"claim" | "cluster" | "frontend" | "compute", LifeCycle>>;

/** The life cycles without Pulumi's host in between. */
export function directLifeCycles(config: Readonly<Record<string, string>>): LifeCycles {
  const request = { config: { get: (key: string) => config[key] } };
  return {
    claim: claim(request),
    cluster: virtualCluster(request),
    frontend: frontendNode(request),
    compute: computeNode(request),
  };
}

/** A program with one cluster, and what Pulumi's engine does with it, as far as the life cycles see it. */
export class Stack {
  /** By resource: `claim`, `cluster`, `frontend`, `compute-0` …. */
  readonly state = new Map<string, State>();
  /** What the engine has done: `create frontend` and the like. Claims aside, which do nothing at the site. */
  readonly done: string[] = [];
  private writesLeft = Number.POSITIVE_INFINITY;

  constructor(
    private readonly lifeCycles: LifeCycles,
    private readonly identity: Properties = {},
  ) {}

  get cluster(): VirtualClusterOutputs {
    return this.outputs("cluster") as unknown as VirtualClusterOutputs;
  }

  outputs(resource: string): Properties {
    const found = this.state.get(resource);
    if (!found) {
      throw new Error(`${resource} isn't in the state`);
    }
    return found.outputs;
  }

  /** The cluster's checked inputs. */
  preview(args: Properties): Promise<VirtualClusterOutputs> {
    return this.check("cluster", this.clusterInputs(args)) as Promise<unknown> as Promise<VirtualClusterOutputs>;
  }

  async up(args: Properties): Promise<string[]> {
    this.done.length = 0;
    const { clusterName, site: at, ...rest } = this.clusterInputs(args);
    const { organization, project, stack, name: logicalName } = rest;
    const claimed = {
      ...{ organization, project, stack, name: logicalName },
      ...(clusterName !== undefined && { clusterName }),
      ...(at !== undefined && { site: at }),
    };
    await this.step("claim", await this.check("claim", claimed));
    await this.step("cluster", await this.check("cluster", this.clusterInputs(args)));
    const { plan, site, siteId, publicKey, image, power, retainDisks } = this.cluster;
    const clusterId = this.state.get("cluster")?.id;
    const { waitFor, timeouts } = args;
    const wait = { ...(waitFor !== undefined && { waitFor }), ...(timeouts !== undefined && { timeouts }) };
    const nodeInputs = (node: string, slice: object) => ({
      clusterId,
      node,
      slice: {
        ...{ site, siteId, ...slice },
        ...(plan.vcOutDialect !== undefined && { vcOutDialect: plan.vcOutDialect }),
        ...(power === "off" && { power }),
      },
      ...wait,
    });

    const { name: _, fqdn: __, hostName: ___, ...frontend } = plan.frontend;
    const computes = plan.computes
      .filter(({ allocated }) => allocated !== false)
      .map(({ name, cpus, privateIp, privateMac }) => ({ name, cpus, privateIp, privateMac }));
    const inputs = nodeInputs("frontend", {
      ...{ ...frontend, computes, publicKey },
      ...(retainDisks && { retainDisk: true }),
    });
    await this.step("frontend", await this.check("frontend", inputs));
    await allDone(
      plan.computes.map(async ({ name, hostName: _, ...compute }) =>
        this.step(name, await this.check(name, nodeInputs(name, { ...compute, image, key: fingerprintOf(publicKey) }))),
      ),
    );
    const planned = new Set(["claim", "cluster", "frontend", ...plan.computes.map(({ name }) => name)]);
    await allDone([...this.state.keys()].filter((resource) => !planned.has(resource)).map((gone) => this.delete(gone)));
    return [...this.done];
  }

  async refresh(): Promise<void> {
    for (const [resource, { id, inputs, outputs }] of [...this.state]) {
      const found = await this.lifeCycleOf(resource).read(id, wire(outputs));
      if (found.id === "") {
        this.write(resource, undefined);
      } else {
        this.write(resource, { id: found.id, inputs, outputs: wire(found.props) });
      }
    }
  }

  async destroy(): Promise<void> {
    const order = (resource: string) => ["frontend", "cluster", "claim"].indexOf(resource);
    for (const turn of [-1, 0, 1, 2]) {
      await allDone(
        [...this.state.keys()].filter((resource) => order(resource) === turn).map((gone) => this.delete(gone)),
      );
    }
  }

  /** The engine dies after so many writes of its state: what it is told next and later, it can't write down any more. */
  dieAfterWrites(writes: number): void {
    this.writesLeft = writes;
  }

  restore(state: ReadonlyMap<string, State>): void {
    const entries = [...state];
    this.state.clear();
    for (const [resource, found] of entries) {
      this.state.set(resource, found);
    }
  }

  private write(resource: string, state: State | undefined): void {
    if (this.writesLeft-- <= 0) {
      throw new EngineDied();
    }
    if (state) {
      this.state.set(resource, state);
    } else {
      this.state.delete(resource);
    }
  }

  private clusterInputs(args: Properties): Properties {
    const { waitFor: _, timeouts: __, ...given } = args;
    return { organization: "organization", project: "docking", stack: "dev", name: "dock", ...this.identity, ...given };
  }

  private async check(resource: string, given: Properties): Promise<Properties> {
    const olds = this.state.get(resource)?.inputs ?? {};
    const news = { ...given, __provider: "text of the shim" };
    const { inputs, failures } = await this.lifeCycleOf(resource).check(wire(olds), wire(news));
    if (failures.length > 0) {
      throw new CheckFailed(failures);
    }
    return wire(inputs);
  }

  private async step(resource: string, inputs: Properties): Promise<void> {
    const lifeCycle = this.lifeCycleOf(resource);
    const old = this.state.get(resource);
    try {
      if (!old) {
        this.note("create", resource);
        const { id, outs } = await lifeCycle.create(inputs);
        this.write(resource, { id, inputs, outputs: wire({ ...outs, __provider: inputs.__provider }) });
        return;
      }
      const { changes, replaces = [], deleteBeforeReplace } = await lifeCycle.diff(old.id, wire(old.outputs), inputs);
      if (replaces.length > 0) {
        if (resource === "cluster" || resource === "frontend" || !deleteBeforeReplace) {
          throw new Error(`${resource} would be replaced because of ${replaces.join(", ")}`);
        }
        await this.delete(resource);
        await this.step(resource, inputs);
        return;
      }
      if (changes ?? !same(old.inputs, inputs)) {
        this.note("update", resource);
        const { outs } = await lifeCycle.update(old.id, wire(old.outputs), inputs);
        this.write(resource, { id: old.id, inputs, outputs: wire({ ...outs, __provider: inputs.__provider }) });
      }
    } catch (error) {
      if (error instanceof PartialFailure) {
        this.write(resource, { id: error.id, inputs, outputs: wire(error.properties) });
      }
      throw error;
    }
  }

  private async delete(resource: string): Promise<void> {
    const { id, outputs } = this.state.get(resource) as State;
    this.note("delete", resource);
    await this.lifeCycleOf(resource).delete(id, wire(outputs));
    this.write(resource, undefined);
  }

  private note(operation: string, resource: string): void {
    if (resource !== "claim") {
      this.done.push(`${operation} ${resource}`);
    }
  }

  private lifeCycleOf(resource: string): LifeCycle {
    const kind = (["claim", "cluster", "frontend"] as const).find((one) => one === resource);
    return this.lifeCycles[kind ?? "compute"];
  }
}

export { UNKNOWN };

async function allDone(work: ReadonlyArray<Promise<unknown>>): Promise<void> {
  const failed = (await Promise.allSettled(work)).find((outcome) => outcome.status === "rejected");
  if (failed) {
    throw failed.reason;
  }
}

/** A value after its way between engine and host, which keeps no order of keys and can't send `undefined`. */
function wire<T>(value: T): T {
  if (value === undefined || typeof value === "function") {
    throw new TypeError("Unexpected struct type");
  }
  if (Array.isArray(value)) {
    return value.map(wire) as T;
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).sort(([one], [other]) => (one < other ? 1 : -1));
    return Object.fromEntries(entries.map(([key, item]) => [key, wire(item)])) as T;
  }
  return value;
}
