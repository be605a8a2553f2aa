import type { SystemNeed } from "../setup/system-packages";
import type { Driver } from "./driver";
import { LibvirtDriver, resolveLibvirtSettings } from "./libvirt";
import { MemoryDriver } from "./memory";
import type { SiteSettings } from "./settings";

/** One driver a site and process, so that calls made at the same time find each other and are made together. */
const connected = new Map<string, Driver>();

export function connect(settings: SiteSettings): Driver {
  const resolved = resolveSettings(settings);
  const key = JSON.stringify(Object.entries(resolved).sort());
  const driver = connected.get(key) ?? make(resolved);
  connected.set(key, driver);
  return driver;
}

/** Settings with every default filled in, as they are recorded. */
export function resolveSettings(settings: SiteSettings): SiteSettings {
  return settings.driver === "libvirt" ? resolveLibvirtSettings(settings) : settings;
}

/** As much of the settings as it takes to find a cluster's record, which holds the rest: what every node carries. */
export function addressOf(settings: SiteSettings): SiteSettings {
  return settings.driver === "libvirt" ? { driver: settings.driver, uri: settings.uri } : settings;
}

/** What of the settings can't change for a cluster: another place holds other things. The rest is how the place is used. */
export function placeOf(settings: SiteSettings): unknown {
  if (settings.driver !== "libvirt") {
    return settings;
  }
  const { driver, uri, network, pool } = settings;
  return { driver, uri, network, pool };
}

/** Where the settings lead to, for people. */
export function siteName(settings: SiteSettings): string {
  switch (settings.driver) {
    case "libvirt":
      return settings.uri ?? "";
    case "memory":
      return `memory ${settings.name}`;
  }
}

/** What its driver needs of this machine, beside ssh. */
export function needsOf(settings: SiteSettings): readonly SystemNeed["purpose"][] {
  switch (settings.driver) {
    case "libvirt":
      return ["the libvirt driver"];
    case "memory":
      return [];
  }
}

function make(settings: SiteSettings): Driver {
  switch (settings.driver) {
    case "libvirt":
      return new LibvirtDriver(settings);
    case "memory":
      return new MemoryDriver(settings);
  }
}
