import { fuzzTargets, type Target, tryOut } from "./parser-fuzz";

const SEED = Number(process.env.VC_SEED ?? 1);
const NAMES = ["partition tables", "signatures and containers", "an initramfs", "XML", "a vcdb.txt", "a manifest.json"];

describe("what comes from elsewhere, changed at random", () => {
  let targets: Readonly<Record<string, Target>>;

  before(async () => {
    targets = await fuzzTargets();
  });

  for (const name of NAMES) {
    it(`never makes a reader break, hang or leave its bounds: ${name}`, async () => {
      const target = targets[name] as Target;
      await tryOut(target, { seed: SEED, runs: target.runs });
    });
  }
});
