#!/usr/bin/env node
// `rocks` over a site's state in a JSON file, whose path is the first argument. Like the real one it locks nothing: two at
// the same time read the same tables.
require("../../register.cjs");
const { readFileSync, writeFileSync } = require("node:fs");
const { runRocks } = require("./commands.ts");

const [file, ...words] = process.argv.slice(2);
const state = JSON.parse(readFileSync(file, "utf8"));
const { exitCode, stdout, stderr } = runRocks(state, words);
writeFileSync(file, JSON.stringify(state, null, 1));
process.stdout.write(stdout);
process.stderr.write(stderr);
process.exitCode = exitCode;
