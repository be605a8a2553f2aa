import { readFileSync } from "node:fs";
import { parseSiteConf } from "../../pragma/site-conf";
import { NotFound } from "../errors";
import type { CommandSettings } from "../settings";

/** Settings with what a `site_conf.conf` says filled in: as they are recorded, the file may change. */
export function resolveCommandSettings({ siteConf, ...settings }: CommandSettings): CommandSettings {
  const conf = siteConf === undefined ? new Map<string, string>() : parseSiteConf(readConf(siteConf));
  const driver = conf.get("site_ve_driver");
  // Later pragma_boots have names there, of drivers of their own.
  const folder = settings.folder ?? (driver?.startsWith("/") ? driver : undefined);
  const temporaryDirectory = settings.temporaryDirectory ?? conf.get("temp_directory");
  return withDefined({ ...settings, folder, temporaryDirectory });
}

/** @throws NotFound where the settings don't say where the site is */
export function placesOf(settings: CommandSettings): { readonly folder: string; readonly temporaryDirectory: string } {
  const { folder, temporaryDirectory } = resolveCommandSettings(settings);
  if (folder === undefined || temporaryDirectory === undefined) {
    const [name, inConf] =
      folder === undefined ? ["folder", "site_ve_driver"] : ["temporaryDirectory", "temp_directory"];
    throw new NotFound(
      `site.${name}`,
      `is said neither there nor, as an absolute path, as ${inConf} in a site_conf.conf`,
      "Say it, or name such a file in site.siteConf",
    ).about("site");
  }
  return { folder, temporaryDirectory };
}

function readConf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new NotFound(
      `site.siteConf ${file}`,
      `can't be read (${(error as NodeJS.ErrnoException).code})`,
      "Name the site's site_conf.conf, or say site.folder and site.temporaryDirectory",
    ).about("site");
  }
}

function withDefined(settings: { [Key in keyof CommandSettings]: CommandSettings[Key] | undefined }): CommandSettings {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as CommandSettings;
}
