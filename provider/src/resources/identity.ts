import { z } from "zod";
import type { ClusterRef } from "../drivers/driver";
import { resolveSettings } from "../drivers/registry";
import { type SiteSettings, siteArgument } from "../drivers/settings";
import { CLUSTER_NAME, clusterNameOf } from "../plan/names";
import type { Context } from "./context";
import type { Properties } from "./host";
import { KEPT, kept } from "./policy";

/** What of a program's arguments tells a cluster from all others, and where it is. */
export const identityArgs = {
  organization: z.string().min(1),
  project: z.string().min(1),
  stack: z.string().min(1),
  name: z.string().min(1),
  clusterName: z
    .string()
    .regex(
      CLUSTER_NAME,
      "must begin with a letter, hold at most 63 lower-case letters, digits and dashes, and not end with a dash",
    )
    .optional(),
  site: siteArgument.optional(),
};
type IdentityArgs = z.output<z.ZodObject<typeof identityArgs>>;

/** The same for every resource of one cluster. */
export interface Identity {
  readonly clusterName: string;
  readonly owner: string;
  readonly site: SiteSettings;
}

export const IDENTITY_POLICIES = { organization: KEPT, project: KEPT, stack: KEPT, name: KEPT } as const;

/** A program's arguments with the stack's configuration below them, and the identity that the resource had at first. */
export function identityGiven(given: Properties, olds: Properties, context: Context): Properties {
  return { ...context.siteConfiguration(), ...given, ...kept(IDENTITY_POLICIES, olds) };
}

/** Explicit arguments first, then what the resource had at first, then defaults. */
export function identify(wish: IdentityArgs, olds: Properties, context: Context): Identity {
  const { organization, project, stack, name } = wish;
  return {
    clusterName:
      wish.clusterName ??
      (olds.clusterName as string | undefined) ??
      clusterNameOf({ organization, project, stack, cluster: name }),
    owner: (olds.owner as string | undefined) ?? context.owner,
    site: resolveSettings(wish.site ?? { driver: "libvirt" }),
  };
}

/** The cluster by which others tell it from theirs. */
export function refOf(
  inputs: Pick<IdentityArgs, "organization" | "project" | "stack" | "name"> & Pick<Identity, "clusterName" | "owner">,
): ClusterRef {
  const { owner, organization, project, stack, name } = inputs;
  return { name: inputs.clusterName, mark: { owner, organization, project, stack, cluster: name } };
}
