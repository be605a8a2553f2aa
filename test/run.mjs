// The README's test command: prepares the machine as the quickstart does, then runs mocha (or, with --bench, the benches).
// Plain Node, so that it runs in a fresh clone.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HELP = `Usage: npm test [-- OPTION …] [MOCHA OPTION …]

  (none)        unit, host (Pulumi's, with an in-memory site), conformance and acceptance tests
  --unit        unit tests only
  --long        the long tests too                    (npm run test:long)
  --bench       no tests, the benches                 (npm run bench)
  --no-setup    don't prepare the machine first
  --help        this text

Environment:
  VC_MINUTES    how long the long tests look for a history of interruptions and drift that breaks a law (default 5)
  VC_SEED       where random cases begin: a number that is fixed for npm test, and another each time with --long. A failure
                prints the seed with which it comes again at once
`;

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const own = new Set(["--unit", "--long", "--bench", "--no-setup", "--help"]);
const options = process.argv.slice(2);
const has = (option) => options.includes(option);

if (has("--help")) {
  process.stdout.write(HELP);
  process.exit(0);
}

function run(args) {
  const { status, signal } = spawnSync(process.execPath, args, { cwd: root, stdio: "inherit" });
  return signal ? 1 : status;
}

// What CI says must depend on the code alone; new cases are looked for by the long tests.
process.env.VC_SEED ??= has("--long") ? String(Date.now() % 1_000_000_000) : "1";
if (has("--long")) {
  process.stdout.write(`Random cases begin at VC_SEED=${process.env.VC_SEED}.\n`);
}

if (!has("--no-setup")) {
  const status = run([join(root, "examples", "quickstart", "quickstart.mjs"), "--setup"]);
  if (status !== 0) {
    process.exit(status);
  }
}

if (!has("--no-setup") && !has("--bench")) {
  const status = run([join(root, "test", "set-up.mjs"), ...(has("--long") ? ["--long"] : [])]);
  if (status !== 0) {
    process.exit(status);
  }
}

if (has("--bench")) {
  const benches = readdirSync(join(root, "test", "bench")).filter((file) => file.endsWith(".bench.ts"));
  process.exit(
    benches
      .sort()
      .reduce(
        (worst, file) =>
          Math.max(worst, run(["--require", join(root, "test", "register.cjs"), join("test", "bench", file)])),
        0,
      ),
  );
}

const folders = has("--unit")
  ? ["unit"]
  : ["unit", "host", "conformance", "acceptance", ...(has("--long") ? ["long"] : [])];
process.exit(
  run([
    join(root, "node_modules", "mocha", "bin", "mocha.js"),
    ...["--reporter", join(root, "test", "reporter.cjs")],
    // Each file has sites of its own; two at a time keep two processors busy.
    ...["--parallel", "--jobs", "2"],
    ...folders.map((folder) => `test/${folder}/**/*.test.ts`),
    ...options.filter((option) => !own.has(option)),
  ]),
);
