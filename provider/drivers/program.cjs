// A driver's program: which one, and of which driver, its path says.
const { existsSync } = require("node:fs");
const { basename, dirname, join } = require("node:path");

const main = join(__dirname, "..", "dist", "programs", "main.js");
if (!existsSync(main)) {
  process.stderr.write("Nothing is compiled yet: run `npm run quickstart -- --setup` first.\n");
  process.exit(1);
}
const file = process.argv[1];
require(main)
  .main(basename(dirname(file)), basename(file), process.argv.slice(2))
  .then((code) => {
    process.exitCode = code;
  });
