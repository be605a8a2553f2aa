#!/usr/bin/env node
// `npx pulumi` in this repository: the Pulumi CLI that the quickstart found, downloaded or built, with the settings of
// the quickstart for all that the user hasn't set: state in a folder, a passphrase from a file, the engine's fast mode.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

function load(module) {
  try {
    return require(`../../provider/dist/setup/${module}.js`);
  } catch (error) {
    if (error.code === "MODULE_NOT_FOUND") {
      fail(
        "Nothing is compiled yet: run `npm run quickstart` first, or `npm run quickstart -- --setup` to start nothing.",
      );
    }
    throw error;
  }
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

const { findPulumiCli } = load("pulumi-cli");
const { pulumiEnvironment } = load("pulumi-environment");

const cli = findPulumiCli();
if (!cli) {
  fail(
    "There is no Pulumi CLI yet: run `npm run quickstart` first, or `npm run quickstart -- --setup` to start nothing.",
  );
}

const child = spawn(cli.path, process.argv.slice(2), { stdio: "inherit", env: pulumiEnvironment(cli) });

// Ctrl-C reaches the CLI by itself, and a second one would make it give up at once: only what is sent to this process
// alone is passed on. This process ends when the CLI does.
process.on("SIGINT", () => {});
process.on("SIGTERM", () => child.kill("SIGTERM"));
process.on("SIGHUP", () => child.kill("SIGHUP"));

child.on("error", (error) => fail(`${cli.path} can't be started: ${error.message}`));
child.on("exit", (code, signal) => {
  if (signal) {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  } else {
    process.exit(code);
  }
});
