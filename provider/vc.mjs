#!/usr/bin/env node
// `npx vc`. In a clone its code may have to be compiled first; in an installed package it always is.
import { existsSync } from "node:fs";

const program = new URL("dist/cli/vc.js", import.meta.url);
if (!existsSync(program)) {
  process.stderr.write("Nothing is compiled yet: run `npm run quickstart -- --setup` first.\n");
  process.exit(1);
}
// Whoever reads it may have enough, as `head` does.
process.stdout.on("error", (error) => {
  process.exit(error.code === "EPIPE" ? 0 : 1);
});
const { main } = await import(program.href);
process.exitCode = await main(process.argv.slice(2));
