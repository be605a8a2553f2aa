import { expectLawsInRandomHistories, SHRINK_SECONDS } from "../host/random-history";
import { World } from "../host/world";

const MINUTES = Number(process.env.VC_MINUTES ?? 5);

describe("two clusters at one site, for long", () => {
  it("keep the laws whatever is done, interrupted and broken", async function () {
    this.timeout((MINUTES * 60 + 2 * SHRINK_SECONDS) * 1000);
    const world = await World.create();
    try {
      await expectLawsInRandomHistories(world, MINUTES * 60);
    } finally {
      await world.dispose();
    }
  });
});
