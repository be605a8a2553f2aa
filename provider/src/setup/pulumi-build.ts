import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { type Progress, SetupError } from "./setup-error";
import { isAtLeast } from "./version";

/** What the CLI's module declares. */
const OLDEST_GO = "1.25.11";

/** From this version on, Go fetches the newer one that a module asks for. */
const OLDEST_SWITCHING_GO = "1.21.0";

/** The last version of the SDK's module that holds the language host for Node. Newer CLIs and SDKs work with it. */
const LANGUAGE_HOST_VERSION = "3.65.0";

const REPORT_INTERVAL_MS = 15_000;

interface GoProgram {
  readonly package: string;
  readonly requires: readonly string[];
  readonly go: string;
  readonly replace?: string;
  readonly linkerFlags: string;
}

function goPrograms(version: string): Record<string, GoProgram> {
  return {
    pulumi: {
      package: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
      requires: [`github.com/pulumi/pulumi/pkg/v3 v${version}`, `github.com/pulumi/pulumi/sdk/v3 v${version}`],
      go: OLDEST_GO,
      // As in the module's own go.mod, whose replacements Go ignores in a dependency.
      replace: "github.com/atotto/clipboard => github.com/tgummerer/clipboard v0.0.0-20241001131231-d02d263e614e",
      // Without its version the CLI takes itself for a development build.
      linkerFlags: `-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=${version}`,
    },
    "pulumi-language-nodejs": {
      package: "github.com/pulumi/pulumi/sdk/v3/nodejs/cmd/pulumi-language-nodejs",
      requires: [`github.com/pulumi/pulumi/sdk/v3 v${LANGUAGE_HOST_VERSION}`],
      go: OLDEST_SWITCHING_GO,
      linkerFlags: "-s -w",
    },
  };
}

/**
 * Builds the Pulumi CLI and its language host for Node from the Go module proxy (about three minutes on two cores).
 *
 * @returns a folder inside `workspace` with all programs in `bin`
 * @throws SetupError where there is no Go that can build it, or the build fails
 */
export async function buildPulumi(version: string, workspace: string, progress: Progress): Promise<string> {
  const go = await findGo();
  const folder = join(workspace, version);
  const bin = join(folder, "bin");
  await mkdir(bin, { recursive: true });
  for (const [name, program] of Object.entries(goPrograms(version))) {
    await buildProgram(go, program, join(workspace, `module-${name}`), join(bin, name), progress);
  }
  // The engine runs providers that are part of a Node program through this script, and wants it beside the CLI.
  const script = "pulumi-resource-pulumi-nodejs";
  await copyFile(join(dirname(require.resolve("@pulumi/pulumi/package.json")), script), join(bin, script));
  return folder;
}

async function findGo(): Promise<string> {
  for (const go of ["go", "/usr/local/go/bin/go"]) {
    const { stdout } = await execa(go, ["env", "GOVERSION"], { env: { GOTOOLCHAIN: "local" }, reject: false });
    const version = /^go(\d+\.\d+(\.\d+)?)/.exec(stdout ?? "")?.[1];
    if (version && isAtLeast(version, OLDEST_SWITCHING_GO)) {
      return go;
    }
  }
  throw new SetupError(
    `The Pulumi CLI can't be downloaded from here, and there is no Go (${OLDEST_GO} or later, or ${OLDEST_SWITCHING_GO} or later that can fetch a newer one) to build it with: install the Pulumi CLI or Go, and run this again.`,
  );
}

/** A module of its own for each program: they need different versions of the same modules. */
async function buildProgram(
  go: string,
  program: GoProgram,
  folder: string,
  output: string,
  progress: Progress,
): Promise<void> {
  await mkdir(folder);
  const lines = [
    "module build",
    `go ${program.go}`,
    ...program.requires.map((module) => `require ${module}`),
    ...(program.replace ? [`replace ${program.replace}`] : []),
  ];
  await writeFile(join(folder, "go.mod"), `${lines.join("\n")}\n`);
  // A blank import behind a build tag is how a module requires a program without using it.
  await writeFile(join(folder, "tools.go"), `//go:build tools\n\npackage tools\n\nimport _ "${program.package}"\n`);

  const run = async (what: string, args: string[]) => {
    progress(what);
    const started = Date.now();
    const timer = setInterval(() => {
      progress(`${what}: ${Math.round((Date.now() - started) / 1000)} s`);
    }, REPORT_INTERVAL_MS);
    try {
      const environment = { GOTOOLCHAIN: "auto", GOFLAGS: "", GOWORK: "off", CGO_ENABLED: "0" };
      const result = await execa(go, args, { cwd: folder, env: environment, stdin: "ignore", reject: false });
      if (result.failed) {
        const reason = result.stderr.trim().split("\n").slice(-3).join(" | ");
        throw new SetupError(
          `The Pulumi CLI can neither be downloaded from here nor built (go ${args[0]}: ${reason}): install the Pulumi CLI, and run this again.`,
        );
      }
    } finally {
      clearInterval(timer);
    }
  };
  const name = program.package.split("/").at(-1);
  await run(`fetching the sources of ${name}`, ["mod", "tidy"]);
  await run(`building ${name}`, ["build", "-ldflags", program.linkerFlags, "-o", output, program.package]);
}
