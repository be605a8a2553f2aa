import { expect } from "chai";
import { expectAtRest, expectNothingOf, expectWhole } from "./laws";
import { expectLawsInRandomHistories, SHRINK_SECONDS } from "./random-history";
import { type Interruption, publicKey, Tenant, type Wish, World } from "./world";

const WISH = {
  cpusPerNode: 1,
  memoryPerNode: 256,
  frontend: { cpus: 1, memory: 256 },
  publicKey: publicKey("k"),
} satisfies Partial<Wish>;

interface Chapter {
  readonly title: string;
  /** How many computes there are then, and before. */
  readonly computes: number;
  readonly before: number | undefined;
}

const CHAPTERS = {
  first: { title: "the first up", computes: 2, before: undefined },
  growing: { title: "an up that adds computes", computes: 4, before: 2 },
  shrinking: { title: "an up that takes computes away", computes: 1, before: 4 },
  destroy: { title: "destroy", computes: 0, before: 1 },
} as const satisfies Record<string, Chapter>;

const SEARCH_SECONDS = 10;

describe("a cluster at whose work Pulumi's host dies", () => {
  let world: World;
  let tenant: Tenant;

  before(async () => {
    world = await World.create();
  });

  beforeEach(() => {
    world.empty();
    tenant = new Tenant(world, "dock");
  });

  after(async () => {
    await world.dispose();
  });

  async function begin({ before }: Chapter): Promise<void> {
    if (before !== undefined) {
      await tenant.up({ ...WISH, numCpus: before });
    }
  }

  function perform(chapter: Chapter, interruption: Interruption = {}) {
    return chapter === CHAPTERS.destroy
      ? tenant.destroy(interruption)
      : tenant.up({ ...WISH, numCpus: chapter.computes }, interruption);
  }

  /** Does it again and again, each time with a death one step later, and looks each time at what follows. */
  async function dieAtEveryStep(chapter: Chapter, then: () => Promise<void>): Promise<void> {
    await begin(chapter);
    const again = tenant.save();
    for (let step = 0; (await perform(chapter, { hostAtStep: step })).died; step++) {
      await then().catch((error: Error) => {
        error.message = `after a death at step ${step}: ${error.message}`;
        throw error;
      });
      again();
      expect(step, "steps without an end").to.be.lessThan(100);
    }
  }

  for (const chapter of Object.values(CHAPTERS)) {
    it(`at any step of ${chapter.title} has nothing left after destroy`, async () => {
      await dieAtEveryStep(chapter, async () => {
        // An engine whose state is empty asks nobody.
        if (tenant.stack.state.has("cluster")) {
          await tenant.destroy();
          expectNothingOf(world.site, "dock");
        }
      });
    });
  }

  for (const chapter of [CHAPTERS.first, CHAPTERS.growing, CHAPTERS.shrinking]) {
    it(`at any step of ${chapter.title} is whole after the next one`, async () => {
      const wish = { ...WISH, numCpus: chapter.computes };
      await dieAtEveryStep(chapter, async () => {
        await tenant.up(wish);
        expectWhole(world.site, tenant, wish);
        await expectAtRest(world, tenant, wish);
      });
    });
  }

  it("at any step of destroy is whole after an up", async () => {
    const wish = { ...WISH, numCpus: 1 };
    await dieAtEveryStep(CHAPTERS.destroy, async () => {
      await tenant.up(wish);
      expectWhole(world.site, tenant, wish);
      await expectAtRest(world, tenant, wish);
    });
  });

  const kills = [
    [CHAPTERS.growing, 2],
    [CHAPTERS.first, 7],
    [CHAPTERS.destroy, 5],
  ] as const;
  for (const [chapter, step] of kills) {
    it(`is left the same at step ${step} of ${chapter.title} by SIGKILL as by throwing the host away`, async () => {
      await begin(chapter);
      const again = tenant.save();
      const leave = async (killed: boolean) => {
        again();
        expect((await perform(chapter, { hostAtStep: step, killed })).died).to.equal(true);
        return JSON.parse(withoutTimes(JSON.stringify([entries(world.site), entries(tenant.stack.state)])));
      };
      expect(await leave(true)).to.deep.equal(await leave(false));
    });
  }

  it("keeps the laws in random histories", async function () {
    this.timeout((SEARCH_SECONDS + 2 * SHRINK_SECONDS) * 1000);
    await expectLawsInRandomHistories(world, SEARCH_SECONDS);
  });
});

function entries(things: object): unknown[] {
  return Object.entries(things instanceof Map ? Object.fromEntries(things) : things).map(([name, thing]) =>
    thing instanceof Map ? [name, [...thing]] : [name, thing],
  );
}

function withoutTimes(text: string): string {
  return text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "then");
}
