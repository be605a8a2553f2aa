import { expect } from "chai";
import { BLOWS, destroyConverges, interrupt, upConverges } from "../acceptance/interruption";
import { World } from "../acceptance/world";

interface Operation {
  readonly name: string;
  /** The computes before and after it; undefined where there is no cluster. */
  readonly from?: number;
  readonly to?: number;
  /** Steps that it can be interrupted in, and what comes next. */
  readonly steps: ReadonlyArray<readonly [at: RegExp, next: "up" | "destroy"]>;
}

const OPERATIONS: readonly Operation[] = [
  {
    name: "up",
    to: 2,
    steps: [
      [/virsh .* net-define /, "destroy"],
      [/base image stored/, "destroy"],
      [/qemu-storage-daemon /, "up"],
      [/virsh .* vol-upload .*-frontend\.qcow2/, "destroy"],
      [/virsh .* start .*-compute-\d/, "destroy"],
    ],
  },
  {
    name: "growth",
    from: 1,
    to: 3,
    steps: [
      [/virsh .* vol-upload .*-compute-\d\.qcow2/, "up"],
      [/virsh .* start .*-compute-\d/, "destroy"],
    ],
  },
  {
    name: "reduction",
    from: 3,
    to: 1,
    steps: [
      [/virsh .* destroy .*-compute-\d/, "destroy"],
      [/virsh .* vol-delete .*-compute-\d/, "up"],
    ],
  },
  {
    name: "destroy",
    from: 2,
    steps: [
      [/virsh .* destroy .*-compute-\d/, "up"],
      [/virsh .* undefine .*-frontend/, "destroy"],
      [/virsh .* net-destroy /, "up"],
    ],
  },
];

describe("interrupted work", () => {
  let world: World;

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
  });

  after(async () => {
    await world.dispose();
  });

  // So that one failure doesn't make others.
  afterEach(async function () {
    if (this.currentTest?.state === "failed") {
      await world.endOrphans();
      await world.pulumi(["cancel", "--yes"], { reject: false });
      await world.pulumi(["up", "--yes", "--skip-preview"], { reject: false });
      await world.pulumi(["destroy", "--yes", "--skip-preview"], { reject: false });
    }
  });

  const resize = (numCpus: number) =>
    world.configure("cut-off", {
      demo: {
        image: "fake",
        repository: world.fakeImages,
        numCpus,
        memoryPerNode: 64,
        frontend: { memory: 64 },
        waitFor: "none",
      },
    });

  it("leaves a warning of Pulumi's, which goes away as docs/troubleshooting.md says", async () => {
    await resize(1);
    await interrupt(world, { command: "up", at: /virsh .* define /, by: "Ctrl-C twice" });
    await upConverges(world, 1);
    const again = () => world.pulumi(["up", "--yes", "--skip-preview"]);
    expect((await again()).stdout).to.match(/1 pending operation/);
    await world.pulumi(["refresh", "--clear-pending-creates", "--yes"]);
    expect((await again()).stdout)
      .to.match(/6 unchanged/)
      .and.not.to.match(/pending operation/);
    await destroyConverges(world);
  });

  for (const { name, from, to, steps } of OPERATIONS) {
    for (const [at, next] of steps) {
      for (const by of BLOWS) {
        it(`${name}, in ${at}, by ${by}: the next ${next} goes on`, async () => {
          if (from !== undefined) {
            await resize(from);
            await world.pulumi(["up", "--yes", "--skip-preview"]);
          }
          if (to !== undefined) {
            await resize(to);
          }
          await interrupt(world, { command: to === undefined ? "destroy" : "up", at, by });
          if (next !== "destroy") {
            await upConverges(world, to ?? from ?? 0);
          }
          await destroyConverges(world);
        });
      }
    }
  }
});
