import { expect } from "chai";
import * as fc from "fast-check";
import type { ClusterRecord, Mark } from "../../provider/src/drivers/driver";
import { ForeignOwner, SiteFailure } from "../../provider/src/drivers/errors";
import { memorySite } from "../../provider/src/drivers/memory/site";
import { connect } from "../../provider/src/drivers/registry";
import { planCluster } from "../../provider/src/plan/plan";
import type { Knowledge } from "../../provider/src/pulumi/backend";
import { clusterIdsIn } from "../../provider/src/pulumi/deployment";
import { clusterIdOf } from "../../provider/src/resources/context";
import { findOrphans, removeOrphan } from "../../provider/src/sweep/sweep";

const ME = "me@here";
const TYPE = "pulumi-nodejs:dynamic/virtual-cluster:";
const NODES = ["frontend", "compute-0"] as const;
const SILENT = () => undefined;

/** What is left of a cluster at its site. */
type Left = "all" | "machines" | "address";
/** How a stack knows of a cluster. */
type Known = "not" | "state" | "node" | "creating";

interface Wish {
  readonly owner: string;
  readonly left: Left;
  readonly known: Known;
}

const wishes: fc.Arbitrary<Wish[]> = fc.array(
  fc.record({
    owner: fc.constantFrom(ME, "you@there"),
    left: fc.constantFrom<Left>("all", "machines", "address"),
    known: fc.constantFrom<Known>("not", "state", "node", "creating"),
  }),
  { maxLength: 6 },
);

describe("sweep", () => {
  let serial = 0;
  let settings: { readonly driver: "memory"; readonly name: string };

  beforeEach(freshSite);

  function freshSite(): void {
    serial += 1;
    settings = { driver: "memory", name: `sweep-${serial}` };
  }

  async function make(name: string, { owner, left }: Omit<Wish, "known">): Promise<ClusterRecord> {
    const driver = connect(settings);
    const site = memorySite(settings.name);
    const [organization, project, stack] = ["organization", "docking", "dev"];
    const mark: Mark = { version: 1, owner, organization, project, stack, cluster: name, createdAt: "2026-01-02" };
    const plan = planCluster(
      { name, numCpus: 1, cpusPerNode: 1, memoryPerNode: 64, frontend: { cpus: 1, memory: 64 } },
      await driver.describe(),
    );
    const disk = { digest: `disk of ${name}`, size: 1, devices: "virtio", rootOffset: 0 } as const;
    const image = { vcName: "demo", frontend: disk, compute: disk };
    const record = { name, mark, site: settings, plan, image, publicKeys: [] };
    await driver.allocate(record);
    await driver.fixImages(record, SILENT);
    if (left !== "address") {
      for (const node of NODES) {
        const planned = node === "frontend" ? plan.frontend : plan.computes[0];
        await driver.boot(
          { cluster: record, node },
          {
            role: node === "frontend" ? "frontend" : "compute",
            plan: planned ?? plan.frontend,
            ...{ vcOut: "<vc/>", keepDisk: false, power: "on", stop: { graceSeconds: 0 }, progress: SILENT },
          },
        );
      }
    }
    if (left !== "all") {
      site.networks.delete(name);
    }
    return record;
  }

  /** As the engine writes it down. */
  function stackWith(record: ClusterRecord, known: Known): unknown {
    const { version: _, createdAt: __, cluster, ...mark } = record.mark;
    const type = `${TYPE}VirtualCluster`;
    const [id, inputs] = [clusterIdOf(record), { ...mark, name: cluster, clusterName: record.name }];
    const node = { type: `${TYPE}ComputeNode`, id: `${id}/compute-0`, inputs: { clusterId: id } };
    const others = [{ type: "pulumi:pulumi:Stack" }, { type: "aws:s3/bucket:Bucket", id: record.name }];
    return {
      version: 3,
      deployment: {
        resources: [...others, ...(known === "state" ? [{ type, id, inputs }] : known === "node" ? [node] : [])],
        ...(known === "creating" && { pending_operations: [{ type: "creating", resource: { type, inputs } }] }),
      },
    };
  }

  function knowing(...stacks: readonly unknown[]): () => Promise<Knowledge> {
    const clusterIds = new Set(stacks.flatMap(clusterIdsIn));
    return async () => ({ clusterIds, stacks: stacks.length, unreadable: [] });
  }

  /** All that a site holds of each cluster. */
  function heldBy(name: string): string[] {
    const { networks, leases, keys, bases, disks, machines } = memorySite(settings.name);
    const mine = (key: string) => key === name || key.startsWith(`${name}/`) || key === `disk of ${name}`;
    const leased = [...leases].flatMap(([ip, { cluster }]) => (cluster === name ? [ip] : []));
    return [
      ...[networks, keys, bases, disks, machines].flatMap((things) => [...things.keys()].filter(mine)),
      ...leased,
    ];
  }

  it("lists and removes what is ours and no stack knows, and touches nothing else", async () => {
    await fc.assert(
      fc.asyncProperty(wishes, async (list) => {
        freshSite();
        const clusters: Array<{ wish: Wish; record: ClusterRecord; held: string[] }> = [];
        for (const [index, wish] of list.entries()) {
          clusters.push({ wish, record: await make(`cluster-${index}`, wish), held: [] });
        }
        for (const cluster of clusters) {
          cluster.held = heldBy(cluster.record.name);
        }
        const ask = knowing(...clusters.map(({ wish, record }) => stackWith(record, wish.known)));
        const isOrphan = ({ owner, known }: Wish) => owner === ME && known === "not";

        const { orphans, foreign } = await findOrphans(connect(settings), ME, ask);
        const names = (of: (wish: Wish) => boolean) =>
          clusters.filter(({ wish }) => of(wish)).map(({ record }) => record.name);
        expect(orphans.map(({ name }) => name)).to.have.members(names(isOrphan));
        expect(foreign.map(({ name }) => name)).to.have.members(names(({ owner }) => owner !== ME));

        for (const cluster of orphans) {
          expect(await removeOrphan({ site: settings, cluster, ask, progress: SILENT })).to.equal("removed");
        }
        for (const { wish, record, held } of clusters) {
          // Which base a cluster had, only its record tells.
          const kept = wish.left === "all" ? [] : [`disk of ${record.name}`];
          expect(heldBy(record.name), record.name).to.deep.equal(isOrphan(wish) ? kept : held);
        }
        expect((await findOrphans(connect(settings), ME, ask)).orphans).to.deep.equal([]);
      }),
    );
  });

  it("lists a cluster of which a killed process has left only its lock", async () => {
    const { mark } = await make("other", { owner: ME, left: "all" });
    memorySite(settings.name).locks.set("demo", { mark, holder: {} });
    const { orphans } = await findOrphans(connect(settings), ME, knowing());
    expect(orphans.map(({ name, machines }) => `${name} ${machines.length}`)).to.have.members(["demo 0", "other 2"]);
  });

  it("looks at the site before it asks Pulumi, so that a cluster that is being made isn't taken for left behind", async () => {
    await make("old", { owner: ME, left: "all" });
    const { orphans } = await findOrphans(connect(settings), ME, async () => {
      await make("new", { owner: ME, left: "all" });
      return knowing()();
    });
    expect(orphans.map(({ name }) => name)).to.deep.equal(["old"]);
  });

  it("leaves alone what a stack has taken over between listing and removal", async () => {
    const record = await make("demo", { owner: ME, left: "all" });
    const held = heldBy("demo");
    const [cluster] = (await findOrphans(connect(settings), ME, knowing())).orphans;
    expect(cluster).to.have.property("name", "demo");
    const ask = knowing(stackWith(record, "creating"));
    expect(
      await removeOrphan({
        site: settings,
        cluster: cluster ?? { ...record, machines: [], publicAddresses: [] },
        ask,
        progress: SILENT,
      }),
    ).to.equal("known");
    expect(heldBy("demo")).to.deep.equal(held);
  });

  it("removes nothing while a stack can't be read", async () => {
    const record = await make("demo", { owner: ME, left: "all" });
    const held = heldBy("demo");
    const ask = async () => ({ ...(await knowing()()), unreadable: [{ stack: "prod", reason: "it is damaged" }] });
    const cluster = { ...record, record, machines: [...NODES], publicAddresses: [] };
    await rejects(removeOrphan({ site: settings, cluster, ask, progress: SILENT }), SiteFailure, /stack prod/);
    expect(heldBy("demo")).to.deep.equal(held);
  });

  it("refuses a name that somebody else has taken since", async () => {
    const theirs = await make("demo", { owner: "you@there", left: "all" });
    const held = heldBy("demo");
    const cluster = { ...theirs, mark: { ...theirs.mark, owner: ME }, machines: [...NODES], publicAddresses: [] };
    const request = { site: settings, cluster, ask: knowing(), progress: SILENT };
    await rejects(removeOrphan(request), ForeignOwner, /you@there/);
    expect(heldBy("demo")).to.deep.equal(held);
  });

  it("leaves alone a machine of somebody else's among a cluster's", async () => {
    const record = await make("demo", { owner: ME, left: "machines" });
    const machine = memorySite(settings.name).machines.get("demo/compute-0");
    Object.assign(machine ?? {}, { mark: { ...record.mark, owner: "you@there" } });
    const cluster = { ...record, machines: [...NODES], publicAddresses: [] };
    await removeOrphan({ site: settings, cluster, ask: knowing(), progress: SILENT });
    expect([...memorySite(settings.name).machines.keys()]).to.deep.equal(["demo/compute-0"]);
  });

  describe("reads a stack's state", () => {
    it("that is empty", () => {
      for (const stack of [{ version: 3 }, { deployment: null }, { deployment: { manifest: {} } }]) {
        expect(clusterIdsIn(stack)).to.deep.equal([]);
      }
    });

    it("and refuses one that hides which cluster it means", () => {
      const secret = { "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", ciphertext: "v1:x" };
      const resource = { type: `${TYPE}VirtualCluster`, inputs: { clusterName: secret } };
      for (const wrong of [
        { deployment: { pending_operations: [{ resource }] } },
        { deployment: { resources: 1 } },
        "no",
      ]) {
        expect(() => clusterIdsIn(wrong)).to.throw();
      }
    });
  });
});

async function rejects(work: Promise<unknown>, kind: new (...args: never[]) => Error, text: RegExp): Promise<void> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).to.be.instanceOf(kind);
  expect((error as Error).message).to.match(text);
}
