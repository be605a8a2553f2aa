import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { siteStatus } from "../default-site/site";
import { VirtualClusterError } from "../drivers/errors";
import { connect, needsOf, resolveSettings, siteName } from "../drivers/registry";
import type { SiteSettings } from "../drivers/settings";
import { home } from "../home";
import { findImage, namesIn } from "../images/repository/repository";
import { kvmUsable } from "../kvm";
import type { Backend } from "../pulumi/backend";
import { findPublicKey } from "../resources/public-key";
import { onPath } from "../setup/programs";
import { findPulumiCli } from "../setup/pulumi-cli";
import { SYSTEM_NEEDS, type SystemNeed } from "../setup/system-packages";
import { isAtLeast } from "../setup/version";

/** One thing that was looked at. */
export interface Finding {
  readonly what: string;
  /** `note`: it works all the same, or isn't needed here. */
  readonly outcome: "ok" | "note" | "missing";
  /** What there is, or what isn't. */
  readonly found: string;
  /** What to do about it. */
  readonly fix?: string;
}

/** What is looked at, and for what. */
export interface Surroundings {
  readonly site: SiteSettings;
  /** Where images are looked for. */
  readonly repository: string;
  /** @throws NotFound where there is none */
  readonly backends: () => Promise<readonly Backend[]>;
}

const SET_UP = "`npm run quickstart -- --setup` in a clone";

/** Everything that a cluster at this site needs here and there. Changes nothing. */
export async function diagnoseAll({ site, repository, backends }: Surroundings): Promise<Finding[]> {
  const isDefaultSite = siteName(site) === siteName(resolveSettings({ driver: "libvirt" }));
  const needed = new Set<SystemNeed["purpose"]>([
    "ssh",
    ...needsOf(site),
    ...(isDefaultSite ? (["the default site"] as const) : []),
  ]);
  const findings = [
    nodeVersion(),
    ...SYSTEM_NEEDS.map((need) => programs(need, needed.has(need.purpose))),
    ...(needed.has("nodes' disks") ? [fuse()] : []),
    ...(isDefaultSite ? [virtualisation()] : []),
    pulumiCli(),
    looking("Pulumi's backend", async () => backendsFound(await backends())),
    passphrase(),
    looking("ssh key", sshKey),
    looking("images", () => images(repository)),
    isDefaultSite ? looking("site", defaultSite) : looking("site", () => remoteSite(site)),
  ];
  return (await Promise.all(findings)).flat();

  async function defaultSite(): Promise<Finding[]> {
    const { state, uri } = await siteStatus();
    return state === "running"
      ? remoteSite(site)
      : [
          missing(
            "site",
            state === "absent" ? "there is no default site yet" : `the default site ${uri} doesn't run`,
            "Start it: `npm run site:start` in a clone; or name another with --site",
          ),
        ];
  }
}

function ok(what: string, found: string): Finding {
  return { what, outcome: "ok", found };
}

function missing(what: string, found: string, fix: string): Finding {
  return { what, outcome: "missing", found, ...(fix && { fix }) };
}

/** An error is a finding, and its hint is the fix. */
async function looking(what: string, look: () => Promise<Finding | Finding[]>): Promise<Finding | Finding[]> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof VirtualClusterError) {
      return missing(what, [error.summary, error.detail].filter(Boolean).join(": "), error.hint);
    }
    return missing(what, (error as Error).message, "");
  }
}

function nodeVersion(): Finding {
  const file = join(__dirname, "..", "..", "package.json");
  const { engines } = JSON.parse(readFileSync(file, "utf8")) as { engines: { node: string } };
  const oldest = engines.node.replace(/^>=/, "");
  return isAtLeast(process.versions.node, oldest)
    ? ok("Node.js", process.versions.node)
    : missing("Node.js", `${process.versions.node} is too old`, `Install ${oldest} or later`);
}

function programs({ purpose, packages }: SystemNeed, isNeeded: boolean): Finding {
  const what = `programs for ${purpose}`;
  const path = process.env.PATH ?? "";
  const absent = Object.entries(packages).flatMap(([name, list]) => {
    const lacking = list.filter((program) => onPath(program, path).length === 0);
    return lacking.length > 0 ? [{ name, lacking }] : [];
  });
  if (absent.length > 0) {
    return {
      what,
      outcome: isNeeded ? "missing" : "note",
      found: `not installed: ${absent.flatMap(({ lacking }) => lacking).join(", ")}`,
      fix: `Install what Debian calls ${absent.map(({ name }) => name).join(", ")}; or run ${SET_UP}`,
    };
  }
  return ok(what, Object.values(packages).flat().join(", "));
}

function fuse(): Finding {
  try {
    accessSync("/dev/fuse", constants.R_OK | constants.W_OK);
    return ok("/dev/fuse", "can be used");
  } catch (error) {
    const found = `can't be used (${(error as NodeJS.ErrnoException).code})`;
    return missing("/dev/fuse", found, "Load the kernel's module (`modprobe fuse`), or give this container the device");
  }
}

function virtualisation(): Finding {
  return kvmUsable()
    ? ok("hardware virtualisation", "KVM")
    : {
        what: "hardware virtualisation",
        outcome: "note",
        found: "none: machines of the default site are emulated, which takes much longer",
        fix: "Switch on VT-x or AMD-V in the firmware, or nested virtualisation where this is a virtual machine",
      };
}

function pulumiCli(): Finding {
  const cli = findPulumiCli();
  return cli
    ? ok("Pulumi CLI", `${cli.version} (${cli.path})`)
    : missing(
        "Pulumi CLI",
        "there is none that is recent and runs programs for Node",
        `Run ${SET_UP}, or install Pulumi`,
      );
}

function backendsFound(backends: readonly Backend[]): Finding {
  return ok("Pulumi's backend", backends.map(({ url }) => url).join(" and "));
}

function passphrase(): Finding {
  const names = ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"];
  const given = names.find((name) => process.env[name] !== undefined);
  if (given || existsSync(home("passphrase"))) {
    return ok("passphrase", given ?? home("passphrase"));
  }
  return {
    what: "passphrase",
    outcome: "note",
    found: "none is set; stacks in a folder are encrypted with one",
    fix: `Set ${names.join(" or ")}, or run ${SET_UP}`,
  };
}

async function sshKey(): Promise<Finding> {
  const [type, key = ""] = (await findPublicKey()).split(" ");
  return ok("ssh key", `${type} …${key.slice(-12)}`);
}

async function images(repository: string): Promise<Finding> {
  const names = [...(await namesIn(repository)).keys()].sort();
  if (names.length === 0) {
    const fix = `Run ${SET_UP}, or name another with configuration virtual-cluster:repository`;
    return missing("images", `there is none in ${repository}`, fix);
  }
  const failures = await Promise.all(
    names.map((name) =>
      findImage(repository, name).then(
        () => [],
        (error: Error) => [error.message],
      ),
    ),
  );
  const broken = failures.flat();
  return broken.length > 0
    ? missing("images", `${broken.length} of ${names.length} can't be used`, broken.join(" "))
    : ok("images", `${names.join(", ")} in ${repository}`);
}

async function remoteSite(site: SiteSettings): Promise<Finding[]> {
  const { siteId, cpus, memory, publicNetwork, publicAddresses, takenAddresses } = await connect(site).describe();
  const free = publicAddresses.filter((address) => !takenAddresses.has(address)).length;
  const left = (what: string, amount: number, total: string, fix: string) =>
    amount > 0 ? ok(what, `${amount} of ${total} are free`) : missing(what, `none of ${total} is free`, fix);
  const FEWER = 'Destroy a cluster there, or turn one off (`power: "off"`); `vc site` shows whose they are';
  return [
    ok("site", `${siteName(site)} (${siteId})`),
    ok("public network", `${publicNetwork.name}, ${publicNetwork.cidr}`),
    left("cpus there", cpus.free, `${cpus.total}`, FEWER),
    left("memory there", memory.free, `${memory.total} MiB`, FEWER),
    left(
      "public addresses",
      free,
      `${publicAddresses.length}`,
      "Destroy a cluster, or give the site more publicAddresses",
    ),
  ];
}
