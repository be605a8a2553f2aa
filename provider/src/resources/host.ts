/**
 * What Pulumi's dynamic-provider host gives to a resource's life cycle and takes from it, as it really behaves: the SDK's
 * own types say less.
 */

/** How the host writes a value that isn't known yet, whatever its type. */
export const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

export type Properties = Readonly<Record<string, unknown>>;

export interface LifeCycle {
  check(olds: Properties, news: Properties): Promise<CheckResult>;
  diff(id: string, olds: Properties, news: Properties): Promise<DiffResult>;
  create(inputs: Properties): Promise<{ id: string; outs: Properties }>;
  read(id: string, props: Properties): Promise<{ id: string; props: Properties }>;
  update(id: string, olds: Properties, news: Properties): Promise<{ outs: Properties }>;
  delete(id: string, props: Properties): Promise<void>;
}

export interface CheckResult {
  readonly inputs: Properties;
  readonly failures: readonly CheckFailure[];
}

export interface CheckFailure {
  readonly property: string;
  readonly reason: string;
}

export interface DiffResult {
  /** `undefined` lets the engine compare the inputs itself and name those that changed; `true` is for drift. */
  readonly changes?: boolean | undefined;
  readonly replaces?: readonly string[];
  readonly deleteBeforeReplace?: boolean;
}

/** The stack's configuration, decrypted. */
export interface ConfigureRequest {
  readonly config: { get(key: string): string | undefined };
}

/**
 * Tells the host that the object exists and isn't right yet, so that the state knows it and the next `up` repairs it.
 * `__provider` must be among the properties: the host doesn't add it here.
 */
export class PartialFailure extends Error {
  readonly reasons: readonly string[];
  readonly properties: Properties;

  constructor(
    readonly id: string,
    outs: Properties,
    inputs: Properties,
    reason: string,
  ) {
    super(reason);
    this.reasons = [reason];
    this.properties = withoutUndefined({ ...outs, __provider: inputs.__provider });
  }
}

export function isKnown(value: unknown): boolean {
  if (Array.isArray(value)) {
    return value.every(isKnown);
  }
  return typeof value === "object" && value !== null ? Object.values(value).every(isKnown) : value !== UNKNOWN;
}

/** The host can't send `undefined`, at any depth. */
export function withoutUndefined<T>(value: T): T {
  if (Array.isArray(value)) {
    return value.map(withoutUndefined) as T;
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    return Object.fromEntries(entries.map(([key, item]) => [key, withoutUndefined(item)])) as T;
  }
  return value;
}

/** Equal whatever the order of keys, which doesn't survive the way to the engine and back. */
export function same(one: unknown, other: unknown): boolean {
  return canonical(one) === canonical(other);
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) =>
    typeof item === "object" && item !== null && !Array.isArray(item)
      ? Object.fromEntries(
          Object.entries(item)
            .filter(([, v]) => v !== undefined)
            .sort(([a], [b]) => (a < b ? -1 : 1)),
        )
      : item,
  );
}
