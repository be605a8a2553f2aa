#!/usr/bin/env node
// `npm run quickstart`: what has to be there before any of the project's own code can run (Node, the npm packages, the
// compiled code), then the rest in provider/src/cli/quickstart.ts. Plain Node, without dependencies.
import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const OLDEST_NODE = [20, 19];

const HELP = `Usage: npm run quickstart [-- OPTION]

Brings up a virtual cluster of one frontend and two computes on this machine. Can be run again at any time: what is there
already isn't done twice.

  --setup          only prepare everything: start no site and no cluster
  --destroy        destroy the quickstart's cluster and its stack     (npm run quickstart:destroy)
  --start-site     start the default site, with its clusters          (npm run site:start)
  --stop-site      shut the default site and its guests down          (npm run site:stop)
  --remove-site    stop the default site and delete all it keeps      (npm run site:remove)
  --stack NAME     another stack than "quickstart", for a second cluster beside it
  --force          with --remove-site: also with clusters on it
  --help           this text
`;

const PLAN = `This brings up a virtual cluster on this machine:
  1. install the npm packages and compile the project
  2. install the Debian packages of QEMU, libvirt and the image builder (asks for sudo if you aren't root)
  3. find a Pulumi CLI, else download it, else build it
  4. build the demo image from Debian packages
  5. make an ssh key if you have none, and a passphrase for Pulumi's state
  6. start a site: a libvirtd of its own, in a network of its own
  7. run \`pulumi up\` for one frontend and two computes, and wait until they are ready
  8. run a command on every compute, from the frontend
Steps that are done already take no time. No account and no token are needed.
`;

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const options = process.argv.slice(2);

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

function run(program, args, failure) {
  const { status, signal, error } = spawnSync(program, args, { cwd: root, stdio: "inherit" });
  if (signal) {
    process.exit(130);
  }
  if (error || status !== 0) {
    fail(failure);
  }
}

/** npm writes its own copy of the lock file last: an older or missing one tells of an old or unfinished installation. */
function hasCurrentPackages() {
  const installed = join(root, "node_modules", ".package-lock.json");
  return existsSync(installed) && statSync(installed).mtimeMs >= statSync(join(root, "package-lock.json")).mtimeMs;
}

if (options.includes("--help")) {
  process.stdout.write(HELP);
  process.exit(0);
}

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
  fail(`Node ${OLDEST_NODE.join(".")} or later is needed, this is ${process.versions.node}: install a newer one.`);
}

if (!options.some((option) => ["--destroy", "--start-site", "--stop-site", "--remove-site"].includes(option))) {
  process.stdout.write(`${PLAN}\n[1/8] npm packages and the compiler\n`);
}
if (!hasCurrentPackages()) {
  run(
    "npm",
    ["ci", "--no-audit", "--no-fund"],
    "The npm packages could not be installed (see above): is the npm registry reachable?",
  );
}
const compiler = join(root, "node_modules", "typescript", "lib", "tsc.js");
run(process.execPath, [compiler, "--build", root], "The project doesn't compile (see above).");

// The one in the terminal's foreground gets Ctrl-C too, and ends in its own time.
process.on("SIGINT", () => {});
const program = join(root, "provider", "dist", "cli", "quickstart.js");
const { status, signal } = spawnSync(process.execPath, [program, ...options], { cwd: root, stdio: "inherit" });
process.exit(signal ? 130 : status);
