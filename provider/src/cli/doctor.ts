import type { Command } from "commander";
import { diagnoseAll, type Finding } from "../doctor/checks";
import { VirtualClusterError } from "../drivers/errors";
import type { SiteSettings } from "../drivers/settings";
import { home } from "../home";
import { type Backend, findBackends } from "../pulumi/backend";
import { chosenSite, configurationHere, siteOption } from "./site-option";
import { alignColumns } from "./table";
import type { Fail, Terminal } from "./terminal";

interface Options {
  readonly site?: SiteSettings;
  readonly json?: true;
}

const EXAMPLES = `
It looks at this machine, at Pulumi, at the images and at the site, and changes nothing. It exits with 1 when something
is missing that a cluster at that site needs.

Examples:
  vc doctor                           # for the default site, or where this folder's stack says
  vc doctor --site '{"uri": "qemu+ssh://root@host/system"}'
  vc doctor --json | jq -r '.[] | select(.outcome == "missing") | .fix'`;

export function addDoctor(program: Command, terminal: Terminal, fail: Fail): void {
  program
    .command("doctor")
    .summary("look at what this machine and the site have and lack")
    .description("Looks at what a cluster needs, on this machine and at its site, and says how to get what is missing.")
    .addOption(siteOption())
    .option("--json", "print it for programs")
    .addHelpText("after", EXAMPLES)
    .action(async ({ site, json }: Options) => {
      const backends = await backendsOrWhyNot();
      const context = await configurationHere(backends instanceof Error ? [] : backends);
      const findings = await diagnoseAll({
        site: chosenSite(site, context),
        repository: context.config("repository") ?? home("images"),
        backends: async () => {
          if (backends instanceof Error) {
            throw backends;
          }
          return backends;
        },
      });
      terminal.out(json ? JSON.stringify(findings, undefined, 2) : textOf(findings));
      if (findings.some(({ outcome }) => outcome === "missing")) {
        fail();
      }
    });
}

async function backendsOrWhyNot(): Promise<readonly Backend[] | VirtualClusterError> {
  try {
    return await findBackends();
  } catch (error) {
    if (error instanceof VirtualClusterError) {
      return error;
    }
    throw error;
  }
}

function textOf(findings: readonly Finding[]): string {
  const rows = alignColumns(findings.map(({ outcome, what, found }) => [outcome, what, found])).split("\n");
  const lines = findings.flatMap(({ outcome, fix }, index) => [
    rows[index] ?? "",
    ...(outcome !== "ok" && fix ? [`         → ${fix}`] : []),
  ]);
  const count = findings.filter(({ outcome }) => outcome === "missing").length;
  return [...lines, "", count > 0 ? `Missing: ${count}.` : "Nothing is missing."].join("\n");
}
