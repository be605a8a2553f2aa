import type { Range } from "../drivers/driver";
import { type DiffResult, isKnown, type Properties, same } from "./host";

/**
 * What happens when a property changes. One table a resource; `diff`, the refusals in `check` and the documentation all
 * come from it.
 */
export type Policy =
  /** Taken over while everything keeps running. */
  | { readonly change: "inPlace" }
  /** Taken over while the machine runs where it can (see `live` of an observed node), else with a restart. */
  | { readonly change: "liveOrRestart" }
  /** Taken over while everything keeps running when it is more than before; less is refused in `check`. */
  | { readonly change: "grow"; readonly reason: string; readonly hint: string }
  /** The object is deleted and made anew. */
  | { readonly change: "replace" }
  /** Refused in `check`. */
  | { readonly change: "refused"; readonly reason: string; readonly hint: string }
  /** Keeps its first value: a changed default or surrounding isn't a change of the resource. */
  | { readonly change: "kept" };

export type PolicyTable<Inputs> = { readonly [Key in keyof Required<Inputs>]: Policy };

export const IN_PLACE: Policy = { change: "inPlace" };
export const LIVE_OR_RESTART: Policy = { change: "liveOrRestart" };
export const REPLACE: Policy = { change: "replace" };
export const KEPT: Policy = { change: "kept" };

export function refused(reason: string, hint: string): Policy {
  return { change: "refused", reason, hint };
}

/** Properties that are known and differ. */
function changed<Inputs>(policies: PolicyTable<Inputs>, olds: Properties, news: Properties): Array<[string, Policy]> {
  return (Object.entries(policies) as Array<[string, Policy]>).filter(
    ([key, policy]) =>
      isKnown(news[key]) &&
      !same(olds[key], news[key]) &&
      // What an older state doesn't know yet is no reason to make the object anew.
      !(policy.change === "replace" && olds[key] === undefined),
  );
}

/** One sentence for each change that the table refuses. */
export function refusals<Inputs>(policies: PolicyTable<Inputs>, olds: Properties, news: Properties) {
  return changed(policies, olds, news).flatMap(([property, policy]) => {
    switch (policy.change) {
      case "refused":
        return [{ property, reason: `${property} can't change: ${policy.reason}. ${policy.hint}.` }];
      case "grow":
        return shrinks(olds[property], news[property])
          ? [
              {
                property,
                reason: `${property} can't change from ${olds[property]} to ${news[property]}: ${policy.reason}. ${policy.hint}.`,
              },
            ]
          : [];
      default:
        return [];
    }
  });
}

function shrinks(old: unknown, now: unknown): boolean {
  return typeof old === "number" && typeof now === "number" && now < old;
}

/** The changes of a machine's shape, for people: `cpus 1 → 2`, and whether they need a restart of it. */
export function reshapings<Inputs>(
  policies: PolicyTable<Inputs>,
  olds: Properties,
  news: Properties,
): ReadonlyArray<{ readonly change: string; readonly restart: boolean }> {
  const live = (olds.live ?? {}) as Readonly<Record<string, Range | undefined>>;
  return changed(policies, olds, news).flatMap(([key, policy]) => {
    const value = news[key];
    if (policy.change !== "liveOrRestart" || typeof value !== "number") {
      return [];
    }
    const range = live[key];
    const fits = range !== undefined && range.min <= value && value <= range.max;
    return [{ change: `${key} ${JSON.stringify(olds[key])} → ${value}`, restart: !fits }];
  });
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
