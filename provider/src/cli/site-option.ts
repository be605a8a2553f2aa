import { InvalidArgumentError, Option } from "commander";
import { NotFound } from "../drivers/errors";
import { resolveSettings } from "../drivers/registry";
import { type SiteSettings, siteArgument } from "../drivers/settings";
import { type Backend, findBackends } from "../pulumi/backend";
import { Context } from "../resources/context";

export function siteOption(): Option {
  return new Option(
    "--site <json>",
    "the site, as a program says it (default: configuration virtual-cluster:site, else the default site)",
  ).argParser(parseSite);
}

/** The configuration of the stack that is selected in this folder, in whichever backend it is. */
export async function configurationHere(backends: readonly Backend[]): Promise<Context> {
  const settings = new Map<string, string>();
  for (const backend of backends) {
    for (const [name, value] of await backend.configuration()) {
      settings.set(name, settings.get(name) ?? value);
    }
  }
  return new Context({ config: settings });
}

/** Who looks after a site, or after images, may have no stacks. */
export async function backendsHere(): Promise<readonly Backend[]> {
  try {
    return await findBackends();
  } catch (error) {
    if (error instanceof NotFound) {
      return [];
    }
    throw error;
  }
}

/** The site that was named, else that of the configuration, else the default site. */
export function chosenSite(given: SiteSettings | undefined, context: Context): SiteSettings {
  return resolveSettings(given ?? configuredSite(context) ?? { driver: "libvirt" });
}

function configuredSite(context: Context): SiteSettings | undefined {
  const text = context.config("site");
  try {
    return text === undefined ? undefined : parseSite(text);
  } catch (error) {
    throw new Error(`virtual-cluster:site of this folder's stack is not a site: ${(error as Error).message}`);
  }
}

function parseSite(text: string): SiteSettings {
  const parsed = siteArgument.safeParse(jsonOf(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new InvalidArgumentError([issue?.path.join("."), issue?.message].filter(Boolean).join(" "));
  }
  return parsed.data;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new InvalidArgumentError("it must be JSON");
  }
}
