import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { NotFound, NotSupported } from "../drivers/errors";
import { type SiteSettings, siteArgument } from "../drivers/settings";
import { home } from "../home";
import { parseSiteConf } from "./site-conf";

/** What a site's `site_conf.conf` says of new clusters. */
export interface SiteDefaults {
  /** A folder, or a URL. */
  readonly repository?: string;
  readonly site?: SiteSettings;
}

/**
 * Reads the `site_conf.conf` that `PRAGMA_BOOT_CONF` names, else the first of `$VIRTUAL_CLUSTER_HOME/site_conf.conf` and
 * `/opt/pragma_boot/etc/site_conf.conf`, where pragma_boot of old was installed; nothing where there is none. Never one of
 * the current folder: it names programs that are run.
 * @throws NotFound, NotSupported
 */
export function siteDefaults(): SiteDefaults {
  const named = process.env.PRAGMA_BOOT_CONF && resolve(process.env.PRAGMA_BOOT_CONF);
  if (named && !existsSync(named)) {
    throw new NotFound(
      `PRAGMA_BOOT_CONF (${named})`,
      "there is no such file",
      "Name a site_conf.conf, or unset the variable",
    );
  }
  const file = [named, home("site_conf.conf"), "/opt/pragma_boot/etc/site_conf.conf"].find(
    (candidate) => candidate && existsSync(candidate),
  );
  if (file === undefined) {
    return {};
  }
  const values = parseSiteConf(readFileSync(file, "utf8"));
  const repository = repositoryIn(values);
  return {
    ...(repository !== undefined && { repository }),
    ...(values.has("site_ve_driver") && { site: siteOf(file) }),
  };
}

/** Its class, folder and URL stand in `repository_settings`, and in older files outside. */
function repositoryIn(values: ReadonlyMap<string, string>): string | undefined {
  const value = (name: string) => values.get(`repository_settings.${name}`) ?? values.get(name);
  const kind = value("repository_class") ?? "local";
  if (/\bhttp\b/i.test(kind)) {
    return value("repository_url");
  }
  if (!/\blocal\b/i.test(kind)) {
    throw new NotSupported(
      "site_conf.conf",
      `repository_class ${kind} isn't supported`,
      "Copy the repository to a folder, and name that with --base_path",
    );
  }
  return value("repository_dir");
}

function siteOf(siteConf: string): SiteSettings {
  const parsed = siteArgument.safeParse({ driver: "command", siteConf });
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new NotSupported(siteConf, [issue?.path.join("."), issue?.message].filter(Boolean).join(" "));
  }
  return parsed.data;
}
