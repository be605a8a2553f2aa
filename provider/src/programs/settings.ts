import { readFileSync } from "node:fs";
import { NotSupported } from "../drivers/errors";
import { type SiteSettings, siteArgument } from "../drivers/settings";
import { parseSiteConf } from "../pragma/site-conf";

/** JSON: the site's settings, as `site` in a program has them. */
const SETTINGS = "VIRTUAL_CLUSTER_SITE";
/** Path of a site_conf.conf: `libvirt = { 'uri': 'qemu:///system' }` and so on. */
const CONF = "VIRTUAL_CLUSTER_SITE_CONF";

/**
 * Settings of the site that a driver's programs work at: from the environment, else from the site_conf.conf that it names,
 * in which a group has the driver's name, else defaults.
 * @throws NotSupported naming what is wrong
 */
export function settingsOf(driver: string, environment: NodeJS.ProcessEnv): SiteSettings {
  const [json, conf] = [environment[SETTINGS], environment[CONF]];
  const given = json ? parse(json) : conf ? groupOf(driver, parseSiteConf(readFileSync(conf, "utf8"))) : {};
  const parsed = siteArgument.safeParse(typeof given === "object" ? { ...given, driver } : given);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new NotSupported(
      `the site's settings in ${json ? SETTINGS : (conf ?? SETTINGS)}`,
      `${issue?.path.join(".") || "they"}: ${issue?.message}`,
      `Mend ${json ? "that variable" : "that file"}`,
    );
  }
  return parsed.data;
}

function groupOf(driver: string, conf: ReadonlyMap<string, string>): object {
  const prefix = `${driver}.`;
  const own = [...conf].filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(own.map(([name, value]) => [name.slice(prefix.length), parse(value)]));
}

/** Numbers and lists are written as JSON; all else is text. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
