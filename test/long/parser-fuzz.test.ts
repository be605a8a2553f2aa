import { fuzzTargets, tryOut } from "../unit/parser-fuzz";

const MINUTES = Number(process.env.VC_MINUTES ?? 5);
const SEED = Number(process.env.VC_SEED ?? Date.now() % 2 ** 31);
const NEVER_SO_MANY = 100_000_000;

describe("what comes from elsewhere, changed at random for long", () => {
  it(`never makes a reader break, hang or leave its bounds (VC_SEED=${SEED}, ${MINUTES} min)`, async function () {
    this.timeout((MINUTES + 1) * 60_000);
    const targets = Object.values(await fuzzTargets());
    for (const target of targets) {
      await tryOut(target, { seed: SEED, runs: NEVER_SO_MANY, ms: (MINUTES * 60_000) / targets.length });
    }
  });
});
