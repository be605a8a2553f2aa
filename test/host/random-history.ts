import { expect } from "chai";
import fc from "fast-check";
import { expectAtRest, expectNothingOf, expectOrder, expectWhole, thingsOf } from "./laws";
import type { SiteContent } from "./site-content";
import { type Interruption, publicKey, Tenant, type Wish, type World } from "./world";

/** What somebody does at a site, to one of two clusters. */
type Act = { readonly cluster: 0 | 1 } & (
  | { readonly does: "up"; readonly wish: Wish; readonly refresh: boolean; readonly interruption: Interruption }
  | { readonly does: "destroy"; readonly interruption: Interruption }
  | { readonly does: "refresh" }
  | { readonly does: keyof typeof DRIFTS; readonly nth: number }
);

/** What happens behind Pulumi's back to the nth machine of a cluster. */
const DRIFTS = {
  "turn machine off": (site: SiteContent, key: string) => {
    Object.assign(site.machines.get(key) ?? {}, { state: "off" });
  },
  "change shape": (site: SiteContent, key: string) => {
    Object.assign(site.machines.get(key) ?? {}, { shape: { cpus: 3, memory: 96 } });
  },
  "take autostart off": (site: SiteContent, key: string) => {
    Object.assign(site.machines.get(key) ?? {}, { autostart: false });
  },
  "delete machine": (site: SiteContent, key: string) => {
    site.machines.delete(key);
  },
  "delete machine and disk": (site: SiteContent, key: string) => {
    site.machines.delete(key);
    site.disks.delete(key);
  },
  "delete network": (site: SiteContent, key: string) => {
    site.networks.delete(key.split("/")[0] ?? "");
  },
} as const;

/** Without null prototypes a counterexample is easier to read. */
const PLAIN = { noNullPrototype: true } as const;

const wish: fc.Arbitrary<Wish> = fc.record(
  {
    numCpus: fc.nat(4),
    cpusPerNode: fc.constantFrom(1, 2),
    memoryPerNode: fc.constantFrom(256, 512),
    frontend: fc.record({ cpus: fc.constantFrom(1, 2), memory: fc.constantFrom(256, 512) }, PLAIN),
    publicKey: fc.constantFrom(publicKey("k"), publicKey("l")),
  },
  PLAIN,
);

const interruption: fc.Arbitrary<Interruption> = fc.oneof(
  { weight: 2, arbitrary: fc.constant({}) },
  { weight: 3, arbitrary: fc.record({ hostAtStep: fc.nat(20) }, PLAIN) },
  { weight: 1, arbitrary: fc.record({ engineAtWrite: fc.nat(6) }, PLAIN) },
);

const cluster = fc.constantFrom<(0 | 1)[]>(0, 1);

const act: fc.Arbitrary<Act> = fc.oneof(
  { weight: 6, arbitrary: upAct() },
  { weight: 1, arbitrary: fc.record({ cluster, does: fc.constant("refresh") }, PLAIN) },
  { weight: 2, arbitrary: fc.record({ cluster, does: fc.constant("destroy"), interruption }, PLAIN) },
  { weight: 3, arbitrary: fc.record({ cluster, does: fc.constantFrom(...driftNames()), nth: fc.nat(4) }, PLAIN) },
);

function upAct() {
  return fc.record({ cluster, does: fc.constant("up"), wish, refresh: fc.boolean(), interruption }, PLAIN);
}

function driftNames() {
  return Object.keys(DRIFTS) as Array<keyof typeof DRIFTS>;
}

/** One cluster, and what its users may expect of it by what has happened. */
class Watched {
  readonly tenant: Tenant;
  private wish: Wish | undefined;
  /** Whether the site isn't as the last act left it. */
  private drifted = false;
  /** The frontend's disk while the state knows it and nobody wants it gone. */
  private usersDisk: string | undefined;
  /** Whether the frontend's disk was left alone before the state knew it: then only its owner can say that it is wanted. */
  private orphaned = false;

  constructor(
    private readonly world: World,
    name: string,
  ) {
    this.tenant = new Tenant(world, name);
  }

  async perform(act: Act): Promise<void> {
    switch (act.does) {
      case "up":
        return this.up(act.wish, act.refresh, act.interruption);
      case "destroy":
        return this.destroy(act.interruption);
      case "refresh":
        await this.tenant.refresh();
        return;
      default:
        return this.drift(act.does, act.nth);
    }
  }

  /** However it got here: one more `up` makes it whole. */
  async mend(): Promise<void> {
    if (this.wish) {
      await this.up(this.wish, false);
    }
  }

  private async up(wished: Wish, refresh: boolean, interruption: Interruption = {}): Promise<void> {
    this.wish = wished;
    const wish = { ...wished, adopt: this.orphaned };
    const { died } = refresh
      ? await this.tenant.refreshAndUp(wish, interruption)
      : await this.tenant.up(wish, interruption);
    if (!died) {
      this.drifted = false;
      expectWhole(this.world.site, this.tenant, wish);
      await expectAtRest(this.world, this.tenant, wish);
    }
    this.expectUsersDisk();
  }

  private async destroy(interruption: Interruption): Promise<void> {
    this.usersDisk = undefined;
    const { died } = await this.tenant.destroy(interruption);
    if (!died) {
      expectNothingOf(this.world.site, this.tenant.clusterName);
      this.wish = undefined;
      this.orphaned = false;
    }
  }

  private drift(does: keyof typeof DRIFTS, nth: number): void {
    const { site } = this.world;
    const machines = Object.keys(thingsOf(site, this.tenant.clusterName).machines);
    const key = machines[nth % machines.length];
    if (key) {
      DRIFTS[does](site, key);
      this.drifted = true;
      const frontend = `${this.tenant.clusterName}/frontend`;
      this.orphaned ||= does === "delete machine" && key === frontend && !this.tenant.stack.state.has("frontend");
      const isLost =
        !site.disks.has(frontend) || !(site.machines.has(frontend) || site.networks.has(this.tenant.clusterName));
      if (isLost) {
        this.usersDisk = undefined;
      }
    }
  }

  private expectUsersDisk(): void {
    const disk = this.world.site.disks.get(`${this.tenant.clusterName}/frontend`);
    if (this.usersDisk) {
      expect(disk, "the frontend's disk").to.equal(this.usersDisk);
    } else if (this.tenant.stack.state.has("frontend") && !this.drifted) {
      this.usersDisk = disk;
    }
  }
}

/** How long the search may go on for the shortest one. */
export const SHRINK_SECONDS = 90;

/**
 * Whatever is done, interrupted and broken in whatever order: the laws hold after every act. The environment's VC_SEED
 * repeats what a failure has printed.
 */
export async function expectLawsInRandomHistories(world: World, seconds: number): Promise<void> {
  const histories = fc.array(act, { minLength: 1, maxLength: 8 });
  const keepTheLaws = fc.asyncProperty(histories, (acts) => expectLaws(world, acts));
  const end = Date.now() + seconds * 1000;
  // In portions, so that the end of the time never cuts off the search for the shortest history that breaks a law.
  for (let seed = Number(process.env.VC_SEED ?? Date.now() % 1_000_000_000); Date.now() < end; seed++) {
    await fc.assert(keepTheLaws, { seed, numRuns: 5, interruptAfterTimeLimit: SHRINK_SECONDS * 1000 });
  }
}

async function expectLaws(world: World, acts: readonly Act[]): Promise<void> {
  world.empty();
  const both = [new Watched(world, "dock"), new Watched(world, "lab")] as const;
  for (const act of acts) {
    const one = both[act.cluster];
    const { clusterName: other } = both[act.cluster === 0 ? 1 : 0].tenant;
    const others = structuredClone(thingsOf(world.site, other));
    await one.perform(act);
    expectOrder(world.site);
    expect(thingsOf(world.site, other), `things of ${other}, which nobody asked to touch`).to.deep.equal(others);
  }
  for (const one of both) {
    await one.mend();
  }
}
