import { type DiffResult, isKnown, type Properties, same } from "./host";

/**
 * What happens when a property changes. One table a resource; `diff`, the refusals in `check` and the documentation all
 * come from it.
 */
export type Policy =
  /** Taken over while everything keeps running. */
  | { readonly change: "inPlace" }
  /** Taken over with a restart of the machine. */
  | { readonly change: "restart" }
  /** The object is deleted and made anew. */
  | { readonly change: "replace" }
  /** Refused in `check`. */
  | { readonly change: "refused"; readonly reason: string; readonly hint: string }
  /** Keeps its first value: a changed default or surrounding isn't a change of the resource. */
  | { readonly change: "kept" };

export type PolicyTable<Inputs> = { readonly [Key in keyof Required<Inputs>]: Policy };

export const IN_PLACE: Policy = { change: "inPlace" };
export const RESTART: Policy = { change: "restart" };
export const REPLACE: Policy = { change: "replace" };
export const KEPT: Policy = { change: "kept" };

export function refused(reason: string, hint: string): Policy {
  return { change: "refused", reason, hint };
}

/** Properties that are known and differ. */
function changed<Inputs>(policies: PolicyTable<Inputs>, olds: Properties, news: Properties): Array<[string, Policy]> {
  return (Object.entries(policies) as Array<[string, Policy]>).filter(
    ([key]) => isKnown(news[key]) && !same(olds[key], news[key]),
  );
}

/** One sentence for each change that the table refuses. */
export function refusals<Inputs>(policies: PolicyTable<Inputs>, olds: Properties, news: Properties) {
  return changed(policies, olds, news).flatMap(([property, policy]) =>
    policy.change === "refused"
      ? [{ property, reason: `${property} can't change: ${policy.reason}. ${policy.hint}.` }]
      : [],
  );
}

/** The changes that restart a machine, for people: `cpus 1 → 2`. */
export function restarts<Inputs>(policies: PolicyTable<Inputs>, olds: Properties, news: Properties): string[] {
  return changed(policies, olds, news).flatMap(([key, policy]) =>
    policy.change === "restart" ? [`${key} ${JSON.stringify(olds[key])} → ${JSON.stringify(news[key])}`] : [],
  );
}

/** Old values for the properties that keep theirs. */
export function kept<Inputs>(policies: PolicyTable<Inputs>, olds: Properties): Properties {
  const keys = Object.keys(policies).filter(
    (key) => policies[key as keyof Inputs].change === "kept" && olds[key] !== undefined,
  );
  return Object.fromEntries(keys.map((key) => [key, olds[key]]));
}

/**
 * The answer to `diff`: what must be replaced, whether there is drift to repair, else the engine's own comparison.
 * Names, addresses and MACs are pinned, so the old object goes before the new one comes.
 */
export function diffByPolicy<Inputs>(
  policies: PolicyTable<Inputs>,
  olds: Properties,
  news: Properties,
  drifted: boolean,
): DiffResult {
  const replaces = changed(policies, olds, news).flatMap(([key, policy]) => (policy.change === "replace" ? [key] : []));
  return { changes: drifted || replaces.length > 0 ? true : undefined, replaces, deleteBeforeReplace: true };
}
