import type { SystemNeed } from "../setup/system-packages";
import { CommandDriver, resolveCommandSettings } from "./command";
import type { Driver } from "./driver";
import { LibvirtDriver, resolveLibvirtSettings } from "./libvirt";
import { MemoryDriver } from "./memory";
import { OpenNebulaDriver, resolveOpenNebulaSettings } from "./opennebula";
import { configureOneAuth } from "./opennebula/credentials";
import { RocksDriver } from "./rocks";
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

/** Hands drivers what they find of a stack's configuration and must not record: who we are at a site. */
export function configureCredentials(config: (name: string) => string | undefined): void {
  configureOneAuth(config("oneAuth"));
}

/** Settings with every default filled in, as they are recorded. */
export function resolveSettings(settings: SiteSettings): SiteSettings {
  switch (settings.driver) {
    case "libvirt":
      return resolveLibvirtSettings(settings);
    case "command":
      return resolveCommandSettings(settings);
    case "opennebula":
      return resolveOpenNebulaSettings(settings);
    case "rocks":
    case "memory":
      return settings;
  }
}

/** As much of the settings as it takes to find a cluster's record, which holds the rest: what every node carries. */
export function addressOf(settings: SiteSettings): SiteSettings {
  switch (settings.driver) {
    case "libvirt":
      return { driver: settings.driver, uri: settings.uri };
    case "opennebula":
      return { driver: settings.driver, endpoint: settings.endpoint };
    case "command":
      return { driver: settings.driver, folder: settings.folder, temporaryDirectory: settings.temporaryDirectory };
    case "rocks":
    case "memory":
      return settings;
  }
}

/** What of the settings can't change for a cluster: another place holds other things. The rest is how the place is used. */
export function placeOf(settings: SiteSettings): unknown {
  switch (settings.driver) {
    case "libvirt": {
      const { driver, uri, network, pool } = settings;
      return { driver, uri, network, pool };
    }
    case "opennebula": {
      const { driver, endpoint, network, datastore } = settings;
      return { driver, endpoint, network, datastore };
    }
    case "rocks": {
      const { driver, ssh, diskFolder } = settings;
      return { driver, ssh, diskFolder };
    }
    case "command": {
      const { driver, temporaryDirectory } = settings;
      return { driver, temporaryDirectory };
    }
    case "memory":
      return settings;
  }
}

/** Where the settings lead to, for people. */
export function siteName(settings: SiteSettings): string {
  switch (settings.driver) {
    case "libvirt":
      return settings.uri ?? "";
    case "opennebula":
      return settings.endpoint ?? "";
    case "rocks":
      return `rocks ${settings.ssh ?? "on this machine"}`;
    case "command":
      return `the programs in ${settings.folder}`;
    case "memory":
      return `memory ${settings.name}`;
  }
}

/** What its driver needs of this machine, beside ssh. */
export function needsOf(settings: SiteSettings): readonly SystemNeed["purpose"][] {
  switch (settings.driver) {
    case "libvirt":
      return ["the libvirt driver", "nodes' disks"];
    case "rocks":
      return ["nodes' disks"];
    case "opennebula":
    case "command":
    case "memory":
      return [];
  }
}

function make(settings: SiteSettings): Driver {
  switch (settings.driver) {
    case "libvirt":
      return new LibvirtDriver(settings);
    case "opennebula":
      return new OpenNebulaDriver(settings);
    case "rocks":
      return new RocksDriver(settings);
    case "memory":
      return new MemoryDriver(settings);
    case "command":
      return new CommandDriver(settings);
  }
}
