import { expect } from "chai";
import { World } from "./world";

interface Outputs {
  readonly outputs: {
    readonly demo: { readonly publicIp: string; readonly nodes: ReadonlyArray<{ mac: string; privateIp: string }> };
  };
}

describe("two users of one site", () => {
  let alice: World;
  let bob: World;

  before(async () => {
    [alice, bob] = await Promise.all([World.create(), World.create()]);
    await alice.quickstart("--start-site");
  });

  after(async () => {
    await bob?.dispose();
    await alice?.dispose();
  });

  it("who run up at the same time get no address, MAC, subnet or name twice, and each can destroy what is theirs", async () => {
    const configure = (world: World, owner: string, stack: string, change: object = {}) =>
      world.configure(
        stack,
        {
          demo: {
            image: "fake",
            repository: world.fakeImages,
            numCpus: 1,
            memoryPerNode: 64,
            frontend: { memory: 64 },
            waitFor: "none",
            // So few that they are likely to reach for the same.
            site: {
              uri: alice.uri,
              publicAddresses: ["198.51.100.10-198.51.100.13"],
              privateRange: "10.84.0.0/22",
            },
            ...change,
          },
        },
        { "virtual-cluster:owner": owner },
      );
    const stacks = [
      { world: alice, owner: "alice@lab", stack: "dock" },
      { world: bob, owner: "bob@lab", stack: "dock" },
      { world: alice, owner: "alice@lab", stack: "model" },
      { world: bob, owner: "bob@lab", stack: "screen" },
    ];
    for (const { world, owner, stack } of stacks) {
      await configure(world, owner, stack);
    }
    const up = ({ world, stack }: (typeof stacks)[number]) =>
      world.pulumi(["up", "--yes", "--skip-preview", "--stack", stack], { reject: false });

    const renamed: string[] = [];
    for (let [left, tries] = [stacks, 0]; left.length > 0; tries++) {
      expect(tries, "times that up was run").to.be.lessThan(6);
      const outcomes = await Promise.all(left.map(up));
      const failed = left.filter((_, index) => outcomes[index]?.exitCode !== 0);
      for (const one of failed) {
        const said = outcomes[left.indexOf(one)]?.all ?? "";
        if (/acceptance-dock-demo: belongs to (alice|bob)@lab/.test(said)) {
          // Both have a cluster of the same name: who comes second is told whose it is.
          renamed.push(one.owner);
          await configure(one.world, one.owner, one.stack, { clusterName: "another-dock" });
        } else {
          expect(said).to.match(/somebody else took it since the plan was made/);
        }
      }
      left = failed;
    }
    expect(renamed).to.have.lengthOf(1);

    const clusters = await Promise.all(stacks.map(({ world, stack }) => world.outputs<Outputs>(stack)));
    const all = clusters.map(({ outputs }) => outputs.demo);
    const different = (values: readonly string[], count: number) =>
      expect([...new Set(values)], values.join()).to.have.lengthOf(count);
    different(
      all.map(({ publicIp }) => publicIp),
      4,
    );
    different(
      all.flatMap(({ nodes }) => nodes.map(({ mac }) => mac)),
      8,
    );
    different(
      all.map(({ nodes }) => (nodes[0]?.privateIp ?? "").replace(/\.\d+$/, "")),
      4,
    );
    different((await alice.virsh("list", "--name")).split("\n").filter(Boolean), 8);

    await Promise.all(
      stacks.map(({ world, stack }) => world.pulumi(["destroy", "--yes", "--skip-preview", "--stack", stack])),
    );
    expect(await alice.leftovers()).to.deep.equal([]);
  });
});
