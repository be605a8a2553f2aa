import { expect } from "chai";
import type {
  ClusterRecord,
  Driver,
  Mark,
  NodeRef,
  Power,
  Range,
  SiteDescription,
} from "../../provider/src/drivers/driver";
import {
  AddressTaken,
  ForeignOwner,
  Locked,
  NoCapacity,
  NotFound,
  NotReady,
  Unreachable,
  type VirtualClusterError,
} from "../../provider/src/drivers/errors";
import { fromNumber, hostAt, macOf, subnet, toNumber } from "../../provider/src/plan/addresses";
import {
  type ClusterPlan,
  type ClusterWish,
  dealtOf,
  macsOf,
  type NodePlan,
  nodesOf,
  planCluster,
  SITE_DECIDES,
  withMacs,
} from "../../provider/src/plan/plan";
import { planBySite } from "../../provider/src/plan/site-plan";
import { sha256 } from "../../provider/src/vc-out/digest";
import { eventually } from "../eventually";
import type { Backend } from "./backend";

const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };
const KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample tester@example";

interface Wish {
  readonly computes?: number;
  readonly owner?: string;
  readonly other?: "image";
}

type ErrorClass = new (...args: never[]) => VirtualClusterError;

/** Holds a driver to the contract of `provider/src/drivers/driver.ts`. Every test gives back all that it took from the site. */
export function describeConformance(name: string, setUp: (context: Mocha.Context) => Promise<Backend>): void {
  describe(`driver contract: ${name}`, () => {
    // Interrupted operations are tried again from each of their requests.
    let backend: Backend;
    let driver: Driver;
    let clean: string[];
    let serial = 0;

    before(async function () {
      backend = await setUp(this);
      driver = backend.driver;
    });

    const titles = new Set<string>();
    after(async () => {
      await backend?.tearDown();
      const exempt = [...(backend?.exempt?.keys() ?? [])];
      expect(
        exempt.filter((title) => !titles.has(title)),
        "exempt from laws that aren't there",
      ).to.deep.equal([]);
    });

    afterEach(() => backend.interruptAfter(undefined));

    /** A test that must leave the site as it found it. */
    function check(title: string, work: (this: Mocha.Context) => Promise<unknown>): void {
      titles.add(title);
      it(title, async function () {
        if (backend.exempt?.has(title)) {
          this.skip();
        }
        clean = await backend.leftovers();
        await work.call(this);
        expect(await backend.leftovers(), "left at the site").to.deep.equal(clean);
      });
    }

    // ── What tests begin with ──────────────────────────────────────────────────────────────────────────────────────

    const markOf = (cluster: string, owner = "tester@example"): Mark => ({
      version: 1,
      owner,
      organization: "organization",
      project: "project",
      stack: "stack",
      cluster,
      createdAt: "2024-02-29T12:00:00.000Z",
    });

    /** A cluster that fits the site as it is now. */
    async function planned(wish: Wish = {}): Promise<ClusterRecord> {
      serial += 1;
      const clusterName = `conformance-${serial}`;
      const site = await driver.describe();
      const plan = planFor(
        {
          name: clusterName,
          numCpus: wish.computes ?? 1,
          cpusPerNode: 1,
          memoryPerNode: backend.memory,
          frontend: { cpus: 1, memory: backend.memory },
        },
        site,
      );
      return {
        name: clusterName,
        mark: markOf(`logical-${serial}`, wish.owner),
        site: backend.settings,
        plan,
        image: wish.other ? backend.otherImage : backend.image,
        publicKeys: [KEY],
      };
    }

    function planFor(wish: ClusterWish, site: SiteDescription, held?: ClusterPlan): ClusterPlan {
      const { addresses, macs } = driver.capabilities;
      return addresses === "site" ? planBySite(wish, site, held) : planCluster(wish, site, held && dealtOf(held), macs);
    }

    /** Addresses by which clusters that are planned at the same time don't meet. */
    async function freeOf(index: number): Promise<{ publicIp?: string; cidr?: string }> {
      if (driver.capabilities.addresses === "site") {
        return {};
      }
      const { publicAddresses, takenAddresses, privateRange } = await driver.describe();
      const publicIp = publicAddresses.filter((ip) => !takenAddresses.has(ip)).at(-1 - index);
      expect(publicIp, "free public address").to.not.equal(undefined);
      const network = toNumber(subnet(privateRange).network) + (200 + index) * 256;
      return { publicIp: publicIp as string, cidr: `${fromNumber(network)}/24` };
    }

    /** The site's own record of a cluster that it made room for. */
    async function allocated(wish: Wish = {}): Promise<ClusterRecord> {
      const record = await planned(wish);
      await driver.allocate(record);
      await driver.fixImages(record, SILENT);
      return recorded(record.name);
    }

    async function recorded(clusterName: string): Promise<ClusterRecord> {
      const record = await driver.find(clusterName);
      expect(record, `record of ${clusterName}`).to.not.equal(undefined);
      return record as ClusterRecord;
    }

    /** What the site's record of it must say: MACs that it was left to decide are the site's own. */
    async function asRecorded(record: ClusterRecord): Promise<ClusterRecord> {
      return { ...record, plan: await asDecided(record) };
    }

    async function asDecided({ name, plan }: ClusterRecord): Promise<ClusterPlan> {
      const found = (await recorded(name)).plan;
      if (driver.capabilities.addresses === "site") {
        expect(JSON.stringify(found)).not.to.include(SITE_DECIDES);
        expect(nodesOf(found).map(({ name }) => name)).to.deep.equal(nodesOf(plan).map(({ name }) => name));
        return found;
      }
      const decided = macsOf(found);
      return withMacs(
        plan,
        new Map([...macsOf(plan)].map(([ip, mac]) => [ip, mac === SITE_DECIDES ? (decided.get(ip) ?? mac) : mac])),
      );
    }

    /** Where a site has such a thing. */
    const autostart = (wished: boolean) => (driver.capabilities.autostart ? { autostart: wished } : {});

    const frontendOf = (cluster: ClusterRecord): NodeRef<ClusterRecord> => ({ cluster, node: "frontend" });
    const computeOf = (cluster: ClusterRecord, index = 0): NodeRef<ClusterRecord> => ({
      cluster,
      node: `compute-${index}`,
    });

    function planOf(ref: NodeRef<ClusterRecord>): NodePlan {
      const { frontend, computes } = ref.cluster.plan;
      return ref.node === "frontend" ? frontend : (computes.find((compute) => compute.name === ref.node) as NodePlan);
    }

    async function boot(
      ref: NodeRef<ClusterRecord>,
      change: { vcOut?: string; plan?: object; keepDisk?: boolean; power?: Power } = {},
    ) {
      return driver.boot(ref, {
        role: ref.node === "frontend" ? "frontend" : "compute",
        plan: { ...planOf(ref), ...change.plan },
        vcOut: change.vcOut ?? vcOutOf(ref),
        keepDisk: change.keepDisk ?? false,
        power: change.power ?? "on",
        stop: AT_ONCE,
        progress: SILENT,
      });
    }

    async function nodeOf(ref: NodeRef) {
      const node = (await driver.read(ref.cluster.name)).get(ref.node);
      expect(node, `machine of ${ref.node}`).to.not.equal(undefined);
      return node as NonNullable<typeof node>;
    }

    async function destroy(...clusters: ClusterRecord[]): Promise<void> {
      for (const cluster of clusters) {
        const nodes = ["frontend", ...cluster.plan.computes.map((compute) => compute.name)];
        await Promise.all(nodes.map((node) => driver.remove({ cluster, node }, AT_ONCE)));
        await driver.release(cluster, { keepBaseImage: false });
      }
    }

    // ── What is there ──────────────────────────────────────────────────────────────────────────────────────────────

    describe("describe", () => {
      check("gives the same site id as siteId, and to every process", async () => {
        const [id, { siteId }, other] = await Promise.all([
          driver.siteId(),
          driver.describe(),
          backend.otherProcess.siteId(),
        ]);
        expect(id).to.not.equal("");
        expect([siteId, other]).to.deep.equal([id, id]);
      });

      check("hands out only addresses of its public network, without the gateway", async () => {
        const { publicNetwork, publicAddresses } = await driver.describe();
        expect(publicAddresses).to.not.include(publicNetwork.gateway);
        expect(new Set(publicAddresses).size).to.equal(publicAddresses.length);
        expect(
          publicAddresses.every(
            (ip) => subnet(`${ip}/${publicNetwork.cidr.split("/")[1]}`).cidr === publicNetwork.cidr,
          ),
        ).to.equal(true);
      });

      check("says which cluster holds an address and a subnet from allocate to release", async () => {
        const cluster = await allocated();
        const held = await driver.describe();
        expect(held.takenAddresses.get(cluster.plan.frontend.publicIp)?.cluster).to.equal(cluster.name);
        expect(held.takenSubnets.get(cluster.plan.privateNetwork.cidr)?.cluster).to.equal(cluster.name);

        await destroy(cluster);
        const free = await driver.describe();
        expect(free.takenAddresses.has(cluster.plan.frontend.publicIp)).to.equal(false);
        expect(free.takenSubnets.has(cluster.plan.privateNetwork.cidr)).to.equal(false);
      });

      check("counts what running machines use, and no more when they are gone", async () => {
        const before = await driver.describe();
        const cluster = await allocated();
        await boot(frontendOf(cluster));
        const during = await driver.describe();
        await destroy(cluster);
        const afterwards = await driver.describe();

        // What is used: on some hosts the total itself changes meanwhile.
        const used = ({ cpus, memory }: SiteDescription) => [cpus.total - cpus.free, memory.total - memory.free];
        const [cpus = 0, memory = 0] = used(before);
        const counted = driver.capabilities.reserves === "running" ? 1 : 1 + cluster.plan.computes.length;
        expect(used(during)).to.deep.equal([cpus + counted, memory + counted * backend.memory]);
        expect(used(afterwards)).to.deep.equal([cpus, memory]);
      });
    });

    describe("find and read", () => {
      check("know nothing of a cluster that isn't there", async () => {
        expect(await driver.find("conformance-nobody")).to.equal(undefined);
        expect([...(await driver.read("conformance-nobody"))]).to.deep.equal([]);
      });

      check("give the whole record back, keys included, to every process and whoever owns it", async () => {
        const record = await planned({ owner: `Zoë <"&'> ]]> \\ %41 \${x} ✓` });
        const keys = await driver.allocate(record);
        expect(await backend.otherProcess.find(record.name)).to.deep.equal({ ...(await asRecorded(record)), keys });
        await destroy(record);
      });

      check("tell clusters apart whose names begin alike", async () => {
        const one = await planned();
        const longer = { ...withPlan(await planned(), await freeOf(0)), name: `${one.name}-compute-1` };
        for (const record of [one, longer]) {
          await driver.allocate(record);
          await driver.fixImages(record, SILENT);
        }
        await Promise.all([boot(computeOf(one)), boot(frontendOf(longer))]);
        expect([...(await driver.read(one.name)).keys()]).to.deep.equal(["compute-0"]);
        expect([...(await driver.read(longer.name)).keys()]).to.deep.equal(["frontend"]);
        await destroy(one, longer);
      });
    });

    // ── A cluster ──────────────────────────────────────────────────────────────────────────────────────────────────

    describe("allocate", () => {
      check("makes keys of the cluster's own, and keeps them when it is called again", async () => {
        const [one, two] = [await planned(), await planned()];
        const keys = await driver.allocate(one);
        expect(keys.hostKey).to.match(/^ssh-ed25519 [A-Za-z0-9+/=]+$/);
        expect(keys.rootKey).to.match(/^ssh-ed25519 [A-Za-z0-9+/=]+$/);
        expect(keys.hostKey).to.not.equal(keys.rootKey);
        expect(await backend.otherProcess.allocate(one)).to.deep.equal(keys);

        const fresh = { ...two, plan: (await replanned(two)).plan };
        expect((await driver.allocate(fresh)).hostKey).to.not.equal(keys.hostKey);
        await destroy(one, fresh);
      });

      check("brings the record up to date: a resize, another public key", async () => {
        const record = await allocated();
        const grown = { ...(await replanned(record, 3)), publicKeys: [`${KEY}2`] };
        await driver.allocate(grown);
        const { publicKeys } = grown;
        expect(await recorded(record.name)).to.deep.include({ plan: await asDecided(grown), publicKeys });
        await destroy(grown);
      });

      check("gives a former public address back when the plan has another", async () => {
        const record = await allocated();
        const former = record.plan.frontend.publicIp;
        const free = (await driver.describe()).publicAddresses.find((ip) => ip !== former) as string;
        const moved = withPlan(record, { publicIp: free });
        await driver.allocate(moved);
        const { takenAddresses } = await driver.describe();
        expect(takenAddresses.get(free)?.cluster).to.equal(record.name);
        expect(takenAddresses.has(former)).to.equal(false);
        await destroy(moved);
      });

      check("gives a former image's disks back when the record has another", async () => {
        const record = await allocated();
        const other = { ...record, image: backend.otherImage };
        await driver.allocate(other);
        await driver.fixImages(other, SILENT);
        expect(await backend.holdsBase(record.image.frontend.digest)).to.equal(false);
        expect(await backend.holdsBase(other.image.frontend.digest)).to.equal(true);
        await destroy(other);
      });

      for (const what of ["publicIp", "cidr"] as const) {
        check(`gives the same ${what} to one of many that ask at the same time`, async () => {
          const [first, ...others] = [await planned(), await planned(), await planned()];
          const wanted = { publicIp: first.plan.frontend.publicIp, cidr: first.plan.privateNetwork.cidr };
          // All else differs.
          const rivals = [first];
          for (const [index, record] of others.entries()) {
            rivals.push(withPlan(record, { ...(await freeOf(index)), [what]: wanted[what] }));
          }
          const outcomes = await Promise.allSettled(
            rivals.map((record, index) => (index % 2 ? backend.otherProcess : driver).allocate(record)),
          );
          const winners = rivals.filter((_, index) => outcomes[index]?.status === "fulfilled");
          expect(winners.length, outcomes.map(String).join()).to.equal(1);
          for (const outcome of outcomes) {
            if (outcome.status === "rejected") {
              expect(outcome.reason)
                .to.be.instanceOf(AddressTaken)
                .with.property("message")
                .that.includes(wanted[what]);
            }
          }
          expect((await recorded((winners[0] as ClusterRecord).name)).keys).to.not.equal(undefined);
          await destroy(...winners);
        });
      }

      check("throws NoCapacity for more than the site has, and leaves nothing", async () => {
        const record = await planned();
        const { memory, cpus } = await driver.describe();
        const huge = (change: Partial<NodePlan>) => ({
          ...record,
          plan: { ...record.plan, computes: record.plan.computes.map((compute) => ({ ...compute, ...change })) },
        });
        await rejects(driver.allocate(huge({ memory: memory.total + 1 })), NoCapacity, String(memory.total));
        await rejects(driver.allocate(huge({ cpus: cpus.perNode + 1 })), NoCapacity, String(cpus.perNode));
      });
    });

    describe("MACs that are left to the site", () => {
      check(
        "are told by find after allocate, one for each NIC, and stay while the cluster grows and shrinks",
        async function () {
          if (driver.capabilities.macs !== "site") {
            this.skip();
          }
          const record = await allocated();
          const macs = macsOf(record.plan);
          expect(new Set(macs.values()).size).to.equal(3);
          for (const mac of macs.values()) {
            expect(mac).to.match(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);
          }
          const grown = await replanned(record, 3);
          expect([...macsOf(grown.plan).values()].filter((mac) => mac === SITE_DECIDES)).to.have.length(2);
          await driver.allocate(grown);
          const after = macsOf((await recorded(record.name)).plan);
          expect(new Set(after.values()).size).to.equal(5);
          expect([...after]).to.deep.include.members([...macs]);
          const shrunk = await replanned(grown, 1);
          await driver.allocate(shrunk);
          expect((await recorded(record.name)).plan).to.deep.equal(record.plan);
          await destroy(shrunk);
        },
      );
    });

    describe("fixImages", () => {
      check("stores a disk once for all clusters and gives it back with its last user", async () => {
        const [one, two] = [await allocated(), await allocated()];
        const { digest } = one.image.frontend;
        await driver.fixImages(one, SILENT);
        expect(await backend.holdsBase(digest)).to.equal(true);
        await destroy(one);
        expect(await backend.holdsBase(digest), "after the first user").to.equal(true);
        await destroy(two);
        expect(await backend.holdsBase(digest), "after the last user").to.equal(false);
      });

      check("keeps the disk where release is told to, until somebody gives it back", async () => {
        const record = await allocated();
        await driver.release(record, { keepBaseImage: true });
        expect(await backend.holdsBase(record.image.frontend.digest)).to.equal(true);
        expect(await driver.find(record.name)).to.equal(undefined);
        await driver.release(record, { keepBaseImage: false });
      });

      check("serves clusters that come at the same time", async () => {
        const records = [withPlan(await planned(), await freeOf(0)), withPlan(await planned(), await freeOf(1))];
        await Promise.all(records.map((record) => driver.allocate(record)));
        await Promise.all(
          records.map((record, index) => (index ? backend.otherProcess : driver).fixImages(record, SILENT)),
        );
        expect(await backend.holdsBase(backend.image.frontend.digest)).to.equal(true);
        await destroy(...records);
      });
    });

    describe("release", () => {
      check("counts already gone as success", async () => {
        const never = await planned();
        await driver.release(never, { keepBaseImage: false });

        const record = await allocated();
        await driver.release(record, { keepBaseImage: false });
        await driver.release(record, { keepBaseImage: false });
        expect(await driver.find(record.name)).to.equal(undefined);
      });

      check("leaves disks without a machine where it is told to, and the keys that are on them", async () => {
        const record = await allocated();
        const keys = await driver.allocate(record);
        await boot(frontendOf(record));
        await backend.scribble(record.name, "frontend");
        await backend.forgetMachine(record.name, "frontend");
        await driver.release(record, { keepBaseImage: false, keepDisks: true });
        expect(await backend.isScribbled(record.name, "frontend")).to.equal(true);
        expect(await driver.allocate(record)).to.deep.equal(keys);
        await driver.fixImages(record, SILENT);
        await boot(frontendOf(record), { keepDisk: true });
        expect(await backend.isScribbled(record.name, "frontend")).to.equal(true);
        await destroy(record);
      });

      check("gives back the disks that interrupted boots left", async () => {
        const record = await allocated();
        await Promise.all([boot(frontendOf(record)), boot(computeOf(record))]);
        await backend.forgetMachine(record.name, "frontend");
        await backend.forgetMachine(record.name, "compute-0");
        await driver.release(record, { keepBaseImage: false });
      });

      check("gives everything back although the network is gone", async () => {
        const record = await allocated();
        await backend.forgetNetwork(record.name);
        await driver.release(record, { keepBaseImage: false });
      });
    });

    describe("inspect", () => {
      check("finds nothing where all is as allocate leaves it", async () => {
        const record = await allocated();
        await boot(frontendOf(record));
        expect(await driver.inspect(record)).to.deep.equal([]);
        await destroy(record);
      });

      check("finds a stopped network; allocate starts it and plugs the machines in again", async () => {
        const record = await allocated();
        await Promise.all([boot(frontendOf(record)), boot(computeOf(record))]);
        const { machineId } = await nodeOf(computeOf(record));
        await backend.stopNetwork(record.name);
        expect((await driver.inspect(record)).join()).to.include("private network is stopped");
        await driver.allocate(record);
        expect(await driver.inspect(record)).to.deep.equal([]);
        for (const node of ["frontend", "compute-0"]) {
          expect(await backend.isPluggedIn(record.name, node), node).to.equal(true);
        }
        expect(await nodeOf(computeOf(record))).to.deep.include({ machineId, state: "running" });
        await destroy(record);
      });

      check("finds a network that is gone; allocate makes it again", async () => {
        const record = await allocated();
        await backend.forgetNetwork(record.name);
        expect((await driver.inspect(record)).join()).to.include("private network is gone");
        await driver.allocate(record);
        expect(await driver.inspect(record)).to.deep.equal([]);
        await destroy(record);
      });
    });

    describe("another image for the computes", () => {
      check("keeps the former one until no machine uses it any more", async () => {
        const record = await allocated({ computes: 2 });
        await Promise.all([boot(computeOf(record, 0)), boot(computeOf(record, 1))]);
        const [former, next] = [record.image.compute.digest, backend.otherImage.compute.digest];
        const shares = former === record.image.frontend.digest;
        const rolled = { ...record, image: { ...record.image, compute: backend.otherImage.compute } };
        await driver.allocate(rolled);
        await driver.fixImages(rolled, SILENT);
        expect(await backend.holdsBase(former), "while both machines use it").to.equal(true);
        const now = await recorded(record.name);
        await driver.remove(computeOf(now, 0), AT_ONCE);
        expect(await backend.holdsBase(former), "while one machine uses it").to.equal(true);
        await boot(computeOf(now, 0));
        await driver.remove(computeOf(now, 1), AT_ONCE);
        expect(await backend.holdsBase(former), "when none does").to.equal(shares);
        expect(await backend.holdsBase(next)).to.equal(true);
        await destroy(rolled);
      });
    });

    // ── Who may change it ──────────────────────────────────────────────────────────────────────────────────────────

    describe("lock", () => {
      const limits = (seconds: number) => ({ seconds, progress: SILENT });

      check("is had by one process at a time, and by the next when it is given back", async () => {
        const record = await planned();
        const held = await driver.lock(record, limits(5));
        const error = await rejects(backend.otherProcess.lock(record, limits(0)), Locked, record.name);
        expect(error.hint).to.not.equal("");
        const waiting = backend.otherProcess.lock(record, limits(30));
        await held[Symbol.asyncDispose]();
        await (await waiting)[Symbol.asyncDispose]();
      });

      check("is shared by the operations of one process, the last of which gives it back", async () => {
        const record = await planned();
        const [one, two] = await Promise.all([driver.lock(record, limits(5)), driver.lock(record, limits(5))]);
        await one[Symbol.asyncDispose]();
        await rejects(backend.otherProcess.lock(record, limits(0)), Locked);
        await two[Symbol.asyncDispose]();
        await (await backend.otherProcess.lock(record, limits(5)))[Symbol.asyncDispose]();
        await (await driver.lock(record, limits(5)))[Symbol.asyncDispose]();
      });

      check("of different clusters are different", async () => {
        const [one, two] = [await planned(), await planned()];
        const locks = [await driver.lock(one, limits(0)), await backend.otherProcess.lock(two, limits(0))];
        await Promise.all(locks.map((lock) => lock[Symbol.asyncDispose]()));
      });

      check("is nobody's when its holder was killed", async () => {
        const record = await planned();
        await backend.dieWithLock(record);
        await (await driver.lock(record, limits(5)))[Symbol.asyncDispose]();
      });

      check("is one that many ask for at the same time", async () => {
        const record = await planned();
        let inside = 0;
        let most = 0;
        const drivers = [driver, backend.otherProcess];
        await Promise.all(
          drivers.map(async (of) => {
            for (let turn = 0; turn < 3; turn++) {
              const lock = await of.lock(record, limits(60));
              inside += 1;
              most = Math.max(most, inside);
              await new Promise((resolve) => setTimeout(resolve, 20));
              inside -= 1;
              await lock[Symbol.asyncDispose]();
            }
          }),
        );
        expect(most).to.equal(1);
      });
    });

    describe("survey", () => {
      const found = async (name: string) => (await driver.survey()).find((cluster) => cluster.name === name);

      check("lists a cluster with its record, machines and addresses", async () => {
        const record = await allocated();
        await boot(computeOf(record));
        expect(await found(record.name)).to.deep.equal({
          name: record.name,
          mark: record.mark,
          record,
          machines: ["compute-0"],
          publicAddresses: [record.plan.frontend.publicIp],
        });
        await destroy(record);
        expect(await found(record.name)).to.equal(undefined);
      });

      check("lists what is left of one whose record is lost, and that is enough to remove it", async () => {
        const record = await allocated();
        await Promise.all([boot(frontendOf(record)), boot(computeOf(record))]);
        await backend.forgetNetwork(record.name);
        const left = await found(record.name);
        expect(left?.record).to.equal(undefined);
        expect(left?.machines).to.deep.equal(["compute-0", "frontend"]);
        const ref = { name: record.name, mark: left?.mark ?? record.mark };
        await Promise.all((left?.machines ?? []).map((node) => driver.remove({ cluster: ref, node }, AT_ONCE)));
        await driver.release(ref, { keepBaseImage: true });
        expect(await found(record.name)).to.equal(undefined);
        // The bases have no owner: the next of the same image gives them back.
        await driver.release(record, { keepBaseImage: false });
      });

      check("doesn't list what carries no mark", async () => {
        const record = await planned();
        await backend.makeStrangerNetwork(record.name);
        expect(await found(record.name)).to.equal(undefined);
        await backend.removeStranger();
      });
    });

    // ── A node ─────────────────────────────────────────────────────────────────────────────────────────────────────

    describe("a node", () => {
      let shared: ClusterRecord;

      before(async () => {
        shared = await allocated({ computes: 3 });
      });

      after(() => destroy(shared));

      async function removeNodes(cluster: ClusterRecord): Promise<void> {
        const nodes = new Set(["frontend", "compute-0", ...(await driver.read(cluster.name)).keys()]);
        await Promise.all([...nodes].map((node) => driver.remove({ cluster, node }, AT_ONCE)));
      }

      describe("read", () => {
        check("shows a machine as it was asked for", async () => {
          const cluster = shared;
          await Promise.all([boot(frontendOf(cluster)), boot(computeOf(cluster))]);
          const nodes = await backend.otherProcess.read(cluster.name);
          expect([...nodes.keys()].sort()).to.deep.equal(["compute-0", "frontend"]);

          const { frontend, computes } = cluster.plan;
          const observed = nodes.get("frontend");
          const shape = { cpus: 1, memory: backend.memory };
          expect(observed).to.deep.include({ state: "running", ...shape, ...autostart(true) });
          expect(observed?.macs, "the private NIC first").to.deep.equal([frontend.privateMac, frontend.publicMac]);
          expect(observed?.mark).to.deep.equal(cluster.mark);
          expect(observed?.vcOutDigest).to.equal(sha256(vcOutOf(frontendOf(cluster))));
          expect(nodes.get("compute-0")?.macs).to.deep.equal([computes[0]?.privateMac]);
          await removeNodes(cluster);
        });

        check("shares its requests when asked at the same time", async () => {
          const cluster = shared;
          await boot(frontendOf(cluster));
          const count = async (times: number) => {
            const before = await backend.requests();
            await Promise.all(Array.from({ length: times }, () => driver.read(cluster.name)));
            return (await backend.requests()) - before;
          };
          const one = await count(1);
          expect(await count(32)).to.equal(one);
          await removeNodes(cluster);
        });
      });

      describe("diagnose", () => {
        check("gives text even where there is nothing to tell", async () => {
          const cluster = await planned();
          expect(await driver.diagnose(frontendOf(cluster))).to.equal("");
        });

        check("gives the console's last lines as plain text", async function () {
          if (!backend.showsConsole) {
            this.skip();
          }
          const cluster = shared;
          await boot(frontendOf(cluster));
          await backend.makeUnhealthy(cluster.name, "frontend");
          await eventually(async () =>
            expect(await driver.diagnose(frontendOf(cluster))).to.include("no root file system"),
          );
          // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
          expect(await driver.diagnose(frontendOf(cluster))).to.not.match(/[\x00-\x09\x0b-\x1f\x7f-\uffff]/);
          await removeNodes(cluster);
        });
      });

      describe("boot", () => {
        check("needs an allocated cluster", async () => {
          await rejects(boot(frontendOf(await planned())), NotFound);
        });

        check("leaves a machine alone that is as it should be", async () => {
          const cluster = shared;
          await boot(frontendOf(cluster));
          const first = await nodeOf(frontendOf(cluster));
          await backend.scribble(cluster.name, "frontend");
          expect(await boot(frontendOf(cluster), { keepDisk: true }), "booted").to.equal("kept");
          expect(await boot(frontendOf(cluster), { keepDisk: false }), "booted").to.equal("kept");
          expect(await nodeOf(frontendOf(cluster))).to.deep.equal(first);
          expect(await backend.isScribbled(cluster.name, "frontend")).to.equal(true);
          await removeNodes(cluster);
        });

        check("starts a machine that is off, the same one", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          const first = await nodeOf(computeOf(cluster));
          await backend.turnOff(cluster.name, "compute-0");
          expect((await nodeOf(computeOf(cluster))).state).to.equal("off");
          expect(await boot(computeOf(cluster), { keepDisk: true }), "booted").to.equal("started");
          expect(await nodeOf(computeOf(cluster))).to.deep.equal(first);
          await removeNodes(cluster);
        });

        check("doesn't say that a machine has a file that it can't have yet", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          expect(await boot(ref), "booted").to.equal("created");
          await backend.turnOff(cluster.name, "compute-0");
          expect(await boot(ref, { vcOut: "<vc>new</vc>", keepDisk: true }), "booted").to.equal("started");
          expect((await nodeOf(ref)).vcOutDigest).to.equal(sha256(vcOutOf(ref)));
          if (backend.guestsAnswer) {
            expect(await boot(ref, { vcOut: "<vc>new</vc>", keepDisk: true }), "booted").to.equal("kept");
            expect((await nodeOf(ref)).vcOutDigest).to.equal(sha256("<vc>new</vc>"));
          }
          await removeNodes(cluster);
        });

        check("gives a machine its new shape", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          const { machineId } = await nodeOf(computeOf(cluster));
          const plan = { cpus: 2, memory: backend.memory + 32 };
          await boot(computeOf(cluster), { plan, keepDisk: true });
          expect(await nodeOf(computeOf(cluster))).to.deep.include({ ...plan, machineId, state: "running" });
          await removeNodes(cluster);
        });

        check("uses a disk that was left without a machine again", async () => {
          const cluster = shared;
          await boot(frontendOf(cluster));
          await backend.scribble(cluster.name, "frontend");
          await backend.forgetMachine(cluster.name, "frontend");
          await boot(frontendOf(cluster), { keepDisk: true });
          expect(await backend.isScribbled(cluster.name, "frontend")).to.equal(true);
          await removeNodes(cluster);
        });

        check("makes a compute's disk anew that was left without a machine", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          await backend.scribble(cluster.name, "compute-0");
          await backend.forgetMachine(cluster.name, "compute-0");
          await boot(ref, { keepDisk: false });
          expect(await backend.isScribbled(cluster.name, "compute-0")).to.equal(false);
          await removeNodes(cluster);
        });

        check("never makes a frontend's disk anew that is there: it may hold data", async () => {
          const cluster = shared;
          const ref = frontendOf(cluster);
          await boot(ref);
          await backend.scribble(cluster.name, "frontend");
          await backend.forgetMachine(cluster.name, "frontend");
          await rejects(boot(ref, { keepDisk: false }), ForeignOwner, "frontend");
          expect(await backend.isScribbled(cluster.name, "frontend")).to.equal(true);
          await boot(ref, { keepDisk: true });
          expect(await backend.isScribbled(cluster.name, "frontend")).to.equal(true);
          await removeNodes(cluster);
        });

        check(
          "never makes a frontend's disk anew that was lost behind its machine: its pool may come back",
          async () => {
            const cluster = shared;
            const ref = frontendOf(cluster);
            await boot(ref);
            await driver.shutdown(ref, AT_ONCE);
            await backend.deleteDisk(cluster.name, "frontend");
            await rejects(boot(ref, { keepDisk: true }), NotFound, "frontend");
            await removeNodes(cluster);
          },
        );

        check("doesn't say which vc-out.xml a kept disk has", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          await backend.forgetMachine(cluster.name, "compute-0");
          await boot(ref, { keepDisk: true, vcOut: "<vc>new</vc>" });
          expect((await nodeOf(ref)).vcOutDigest).to.not.equal(sha256("<vc>new</vc>"));
          await removeNodes(cluster);
        });

        check("makes the disk anew where it is gone although it should be kept", async () => {
          const cluster = shared;
          await boot(frontendOf(cluster), { keepDisk: true });
          expect((await nodeOf(frontendOf(cluster))).state).to.equal("running");
          await removeNodes(cluster);
        });

        check("makes the disk anew that was lost behind a machine that is off", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          await driver.shutdown(ref, AT_ONCE);
          await backend.deleteDisk(cluster.name, "compute-0");
          expect((await nodeOf(ref)).diskSize).to.equal(undefined);
          await boot(ref, { keepDisk: true });
          expect(await nodeOf(ref))
            .to.deep.include({ state: "running" })
            .and.to.have.property("diskSize");
          await removeNodes(cluster);
        });

        check("lets a machine start with its host again", async function () {
          if (!driver.capabilities.autostart) {
            this.skip();
          }
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          await backend.takeAutostart(cluster.name, "compute-0");
          expect((await nodeOf(ref)).autostart).to.equal(false);
          expect(await boot(ref, { keepDisk: true })).to.equal("kept");
          expect((await nodeOf(ref)).autostart).to.equal(true);
          await removeNodes(cluster);
        });

        check("keeps a machine off when it is told to, and turns it on again with its disk", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          expect(await boot(ref, { power: "off" })).to.equal("created");
          expect(await nodeOf(ref)).to.deep.include({ state: "off", ...autostart(false) });
          expect(await boot(ref, { power: "off", plan: { memory: backend.memory + 32 } })).to.equal("kept");
          const { machineId } = await nodeOf(ref);
          await backend.scribble(cluster.name, "compute-0");
          expect(await boot(ref, { keepDisk: true, plan: { memory: backend.memory + 32 } })).to.equal("started");
          expect(await nodeOf(ref)).to.deep.include({
            ...{ state: "running", ...autostart(true), machineId, memory: backend.memory + 32 },
          });
          expect(await backend.isScribbled(cluster.name, "compute-0")).to.equal(true);
          expect(await boot(ref, { power: "off", keepDisk: true })).to.equal("stopped");
          expect(await nodeOf(ref)).to.deep.include({ state: "off", ...autostart(false), machineId });
          await removeNodes(cluster);
        });

        check("gives back the shape that somebody changed", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref, { power: "off" });
          await backend.reshape(cluster.name, "compute-0", backend.memory * 2);
          expect((await nodeOf(ref)).memory).to.equal(backend.memory * 2);
          await boot(ref, { keepDisk: true });
          expect(await nodeOf(ref)).to.deep.include({ memory: backend.memory, state: "running" });
          await removeNodes(cluster);
        });

        check(
          "sees what a running machine's next start would give it, and gives that back without a restart",
          async () => {
            const cluster = shared;
            const ref = computeOf(cluster);
            await boot(ref);
            const { cpus } = await nodeOf(ref);
            await backend.reshape(cluster.name, "compute-0", backend.memory * 2);
            const nextStart = { cpus, memory: backend.memory * 2 };
            expect(await nodeOf(ref)).to.deep.include({ memory: backend.memory, nextStart });
            expect(await boot(ref, { keepDisk: true })).to.equal("kept");
            expect(await nodeOf(ref)).not.to.have.property("nextStart");
            await removeNodes(cluster);
          },
        );

        check("serves siblings side by side", async () => {
          const cluster = shared;
          await Promise.all(
            [frontendOf(cluster), ...[0, 1, 2].map((index) => computeOf(cluster, index))].map((ref) => boot(ref)),
          );
          const nodes = await driver.read(cluster.name);
          expect([...nodes.values()].map(({ state }) => state)).to.deep.equal(Array(4).fill("running"));
          expect(new Set([...nodes.values()].map(({ machineId }) => machineId)).size).to.equal(4);
          await removeNodes(cluster);
        });
      });

      describe("waitFor", () => {
        check("returns when the machine runs", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          await driver.waitFor(computeOf(cluster), "running", { seconds: 10, progress: SILENT });
          if (backend.guestsAnswer) {
            await driver.waitFor(computeOf(cluster), "ready", { seconds: 10, progress: SILENT });
          }
          await removeNodes(cluster);
        });

        check("throws NotReady with the diagnosis when the time is up", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          await backend.makeUnhealthy(cluster.name, "compute-0");
          const limits = { seconds: 1, progress: SILENT };
          const error = await rejects(driver.waitFor(computeOf(cluster), "ready", limits), NotReady, "compute-0");
          expect((error as NotReady).diagnosis).to.include(backend.showsConsole ? "no root file system" : "");
          await removeNodes(cluster);
        });

        check("throws NotReady at once for a machine that is off, NotFound for one that is gone", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          await driver.shutdown(computeOf(cluster), AT_ONCE);
          const limits = { seconds: 600, progress: SILENT };
          await rejects(driver.waitFor(computeOf(cluster), "running", limits), NotReady, "off");
          await rejects(driver.waitFor(computeOf(cluster), "ready", limits), NotReady, "off");
          await driver.remove(computeOf(cluster), AT_ONCE);
          await rejects(driver.waitFor(computeOf(cluster), "running", limits), NotFound);
          await removeNodes(cluster);
        });
      });

      describe("reconfigure", () => {
        check("hands a running guest its file where there is a channel, and says so where there is none", async () => {
          const cluster = shared;
          const ref = frontendOf(cluster);
          await boot(ref);
          const live = driver.capabilities.liveReconfigure && backend.guestsAnswer;
          expect(await driver.reconfigure(ref, "<vc>new</vc>")).to.equal(live ? "live" : "nextBoot");
          const digest = sha256(live ? "<vc>new</vc>" : vcOutOf(ref));
          expect((await nodeOf(ref)).vcOutDigest, "what the node was last given").to.equal(digest);
          if (live) {
            expect(await driver.reconfigure(ref, "<vc>new</vc>")).to.equal("live");
          }
          expect((await nodeOf(ref)).mark).to.deep.equal(cluster.mark);
          await removeNodes(cluster);
        });

        check(
          "leaves a file for the next boot, which writes it into the disk and keeps what else is there",
          async () => {
            const cluster = shared;
            const ref = computeOf(cluster);
            await boot(ref);
            await backend.makeUnhealthy(cluster.name, "compute-0");
            const next = "<vc>for the next boot</vc>";
            expect(await driver.reconfigure(ref, next)).to.equal("nextBoot");
            expect(await nodeOf(ref)).to.deep.include({ vcOutWaits: true, vcOutDigest: sha256(vcOutOf(ref)) });
            const { machineId } = await nodeOf(ref);
            await driver.shutdown(ref, AT_ONCE);
            expect(await boot(ref, { vcOut: next, keepDisk: true })).to.equal("started");
            expect(await nodeOf(ref)).to.deep.include({ vcOutWaits: false, vcOutDigest: sha256(next), machineId });
            await driver.shutdown(ref, AT_ONCE);
            expect(await backend.vcOutOnDisk(cluster.name, "compute-0")).to.equal(next);
            await removeNodes(cluster);
          },
        );

        check("is by the channel that the node offers", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          const channel = await driver.channel(ref);
          expect(channel === "nextBoot" ? "nextBoot" : "live").to.equal(await driver.reconfigure(ref, "<vc>new</vc>"));
          await driver.shutdown(ref, AT_ONCE);
          expect(await driver.channel(ref)).to.equal("nextBoot");
          await removeNodes(cluster);
        });

        check("leaves a machine off that is off", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          await driver.shutdown(computeOf(cluster), AT_ONCE);
          expect(await driver.reconfigure(computeOf(cluster), "<vc>new</vc>")).to.equal("nextBoot");
          expect((await nodeOf(computeOf(cluster))).state).to.equal("off");
          await removeNodes(cluster);
        });
      });

      describe("resize", () => {
        check("gives the shape, and again does nothing", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          const { machineId } = await nodeOf(ref);
          for (const shape of [
            { cpus: 2, memory: backend.memory * 2 },
            { cpus: 1, memory: backend.memory },
          ]) {
            const { live } = await nodeOf(ref);
            const fits = within(live.cpus, shape.cpus) && within(live.memory, shape.memory);
            expect(await driver.resize(ref, shape, AT_ONCE)).to.equal(fits ? "live" : "restarted");
            expect(await nodeOf(ref)).to.deep.include({ ...shape, machineId, state: "running" });
            expect(await driver.resize(ref, shape, AT_ONCE)).to.equal("live");
          }
          await removeNodes(cluster);
        });

        check("doesn't restart a machine for what read says can change while it runs", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          const { live } = await nodeOf(ref);
          if (driver.capabilities.liveResize && backend.guestsAnswer) {
            expect(live.cpus.max).to.be.greaterThan(1);
          }
          const shape = { cpus: live.cpus.max, memory: live.memory.min };
          expect(await driver.resize(ref, shape, AT_ONCE)).to.equal("live");
          expect(await nodeOf(ref)).to.deep.include({ ...shape, state: "running" });
          await removeNodes(cluster);
        });

        check("leaves a machine off that is off", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref);
          await driver.shutdown(ref, AT_ONCE);
          await driver.resize(ref, { cpus: 2, memory: backend.memory }, AT_ONCE);
          expect(await nodeOf(ref)).to.deep.include({ cpus: 2, state: "off" });
          await removeNodes(cluster);
        });

        check("grows a disk, of a machine that runs and of one that is off, and never shrinks it", async () => {
          const cluster = shared;
          const ref = computeOf(cluster);
          await boot(ref, { plan: { diskSize: 40 } });
          expect((await nodeOf(ref)).diskSize).to.equal(40);
          const { machineId } = await nodeOf(ref);
          const shape = { cpus: 1, memory: backend.memory };
          await driver.resize(ref, { ...shape, diskSize: 60 }, AT_ONCE);
          expect(await nodeOf(ref)).to.deep.include({ diskSize: 60, machineId, state: "running" });
          await driver.resize(ref, { ...shape, diskSize: 20 }, AT_ONCE);
          expect((await nodeOf(ref)).diskSize).to.equal(60);
          await driver.shutdown(ref, AT_ONCE);
          await driver.resize(ref, { ...shape, diskSize: 20 }, AT_ONCE);
          await driver.resize(ref, { ...shape, diskSize: 80 }, AT_ONCE);
          expect(await nodeOf(ref)).to.deep.include({ diskSize: 80, state: "off" });
          await removeNodes(cluster);
        });
      });

      describe("shutdown", () => {
        check("asks the guest, and waits no longer than it takes", async () => {
          const cluster = shared;
          await boot(computeOf(cluster));
          await backend.makeUnhealthy(cluster.name, "compute-0");
          // A guest that is just starting doesn't listen yet.
          await eventually(async () => expect(await driver.diagnose(computeOf(cluster))).to.not.equal(""));
          const started = Date.now();
          await driver.shutdown(computeOf(cluster), { graceSeconds: 120 });
          expect(Date.now() - started).to.be.lessThan(60_000);
          expect((await nodeOf(computeOf(cluster))).state).to.equal("off");
          await removeNodes(cluster);
        });

        check("pulls the plug when the time is up, keeps the disk, and again does nothing", async () => {
          const cluster = await allocated({ other: "image" });
          const ref = frontendOf(cluster);
          await boot(ref);
          const { machineId } = await nodeOf(ref);
          await backend.scribble(cluster.name, "frontend");
          await driver.shutdown(ref, { graceSeconds: 1 });
          await driver.shutdown(ref, { graceSeconds: 1 });
          expect(await nodeOf(ref)).to.deep.include({ state: "off", machineId });
          expect(await backend.isScribbled(cluster.name, "frontend")).to.equal(true);
          await destroy(cluster);
        });
      });

      describe("a machine that is gone", () => {
        check("is NotFound to whatever needs it, and success to remove", async () => {
          const cluster = await allocated();
          const ref = computeOf(cluster);
          await rejects(driver.channel(ref), NotFound, "compute-0");
          await rejects(driver.reconfigure(ref, "<vc/>"), NotFound, "compute-0");
          await rejects(driver.resize(ref, { cpus: 1, memory: backend.memory }, AT_ONCE), NotFound, "compute-0");
          await rejects(driver.shutdown(ref, AT_ONCE), NotFound, "compute-0");
          await driver.remove(ref, AT_ONCE);
          await destroy(cluster);
        });
      });

      describe("remove", () => {
        const states: Record<string, () => Promise<unknown>> = {
          "is running": async () => undefined,
          "is off": () => backend.turnOff(shared.name, "frontend"),
          "has lost its machine and not its disk": () => backend.forgetMachine(shared.name, "frontend"),
        };
        for (const [state, bring] of Object.entries(states)) {
          check(`takes everything of a node that ${state}, and again does nothing`, async () => {
            const ref = frontendOf(shared);
            await boot(ref);
            await bring();
            await driver.remove(ref, AT_ONCE);
            await driver.remove(ref, AT_ONCE);
            expect([...(await driver.read(shared.name))]).to.deep.equal([]);
          });
        }

        check("takes everything of a node whose cluster has lost its network", async () => {
          const cluster = await allocated();
          await boot(frontendOf(cluster));
          await backend.forgetNetwork(cluster.name);
          await driver.remove(frontendOf(cluster), AT_ONCE);
          await driver.release(cluster, { keepBaseImage: false });
        });

        check("keeps a frontend's disk where it is told to, for a later cluster of the same name", async function () {
          if (driver.capabilities.lacks?.retainDisks !== undefined) {
            this.skip();
          }
          const cluster = await allocated();
          const keys = await driver.allocate(cluster);
          const ref = frontendOf(cluster);
          await boot(ref);
          await backend.scribble(cluster.name, "frontend");
          await driver.remove(ref, { ...AT_ONCE, keepDisk: true });
          await driver.remove(ref, { ...AT_ONCE, keepDisk: true });
          await driver.release(cluster, { keepBaseImage: false, keepDisks: true });
          expect((await driver.read(cluster.name)).size).to.equal(0);
          const kept = (await driver.survey()).find(({ name }) => name === cluster.name);
          expect(kept).to.deep.include({ hasKeptDisk: true, machines: [], publicAddresses: [] });

          expect(await driver.allocate(cluster)).to.deep.equal(keys);
          await driver.fixImages(cluster, SILENT);
          await rejects(boot(ref, { keepDisk: false }), ForeignOwner, "frontend");
          await boot(ref, { keepDisk: true });
          expect(await backend.isScribbled(cluster.name, "frontend")).to.equal(true);
          expect((await driver.survey()).find(({ name }) => name === cluster.name)).not.to.have.property("hasKeptDisk");
          await destroy(cluster);
          expect((await driver.survey()).map(({ name }) => name)).not.to.include(cluster.name);
        });

        check("succeeds for a node of a cluster that was never there", async () => {
          await driver.remove(frontendOf(await planned()), AT_ONCE);
        });

        check("leaves the siblings alone", async () => {
          const cluster = shared;
          await Promise.all([boot(computeOf(cluster, 0)), boot(computeOf(cluster, 1))]);
          await driver.remove(computeOf(cluster, 1), AT_ONCE);
          expect([...(await driver.read(cluster.name))].map(([node, { state }]) => [node, state])).to.deep.equal([
            ["compute-0", "running"],
          ]);
          await removeNodes(cluster);
        });
      });

      describe("with another's mark", () => {
        check("is refused by every operation on its machines", async () => {
          const theirs = shared;
          await boot(frontendOf(theirs));
          const asMade = await nodeOf(frontendOf(theirs));
          const ours: ClusterRecord = { ...theirs, mark: markOf("logical", "somebody@else") };
          for (const [operation, work] of nodeOperations(driver, frontendOf(ours))) {
            await rejects(work(), ForeignOwner, theirs.mark.owner, operation);
          }
          expect(await nodeOf(frontendOf(theirs))).to.deep.equal(asMade);
          await removeNodes(theirs);
        });

        check("is refused where only a disk is left", async () => {
          const theirs = shared;
          await boot(frontendOf(theirs));
          await backend.forgetMachine(theirs.name, "frontend");
          await backend.scribble(theirs.name, "frontend");
          const ours: ClusterRecord = { ...theirs, mark: markOf("logical", "somebody@else") };
          await rejects(driver.remove(frontendOf(ours), AT_ONCE), ForeignOwner, theirs.mark.owner);
          expect(await backend.isScribbled(theirs.name, "frontend")).to.equal(true);
          await removeNodes(theirs);
        });
      });

      describe("without a mark", () => {
        check("is refused as a machine of a node's name", async () => {
          const cluster = shared;
          await backend.makeStrangerMachine(cluster.name, "compute-0");
          for (const [operation, work] of nodeOperations(driver, computeOf(cluster))) {
            await rejects(work(), ForeignOwner, "compute-0", operation);
          }
          expect((await driver.read(cluster.name)).get("compute-0")?.mark).to.equal(undefined);
          expect(await backend.removeStranger(), "as it was").to.equal(true);
          await removeNodes(cluster);
        });
      });
    });

    // ── Interruption ───────────────────────────────────────────────────────────────────────────────────────────────

    /** Runs the work interrupted at one request after the other until it gets through; after each run `then`. */
    async function interruptedEverywhere(
      work: () => Promise<unknown>,
      then: (step: number) => Promise<unknown>,
      from = 0,
    ) {
      for (let step = from; ; step += backend.interruptEvery) {
        await backend.interruptAfter(step);
        const done = await work().then(
          () => true,
          () => false,
        );
        await backend.interruptAfter(undefined);
        await then(step);
        if (done) {
          expect(step, "requests before the work was done").to.be.greaterThan(0);
          return;
        }
      }
    }
    /** Where not every request is tried, tests that go on in different ways begin apart. */
    const apart = () => Math.floor(backend.interruptEvery / 2);

    describe("an interrupted operation", () => {
      check("allocate is taken up again", async () => {
        const record = await planned();
        await interruptedEverywhere(
          () => driver.allocate(record),
          async () => {
            const keys = await backend.otherProcess.allocate(record);
            expect(await recorded(record.name)).to.deep.equal({ ...(await asRecorded(record)), keys });
            await driver.release(record, { keepBaseImage: false });
            expect(await backend.leftovers()).to.deep.equal(clean);
          },
        );
      });

      check("allocate can be given up from wherever it was", async () => {
        const record = await planned();
        await interruptedEverywhere(
          () => driver.allocate(record),
          async (step) => {
            await backend.otherProcess.release(record, { keepBaseImage: false });
            expect(await backend.leftovers(), `after step ${step}`).to.deep.equal(clean);
          },
          apart(),
        );
      });

      check("fixImages is taken up again, with a whole disk", async () => {
        const record = await planned();
        await driver.allocate(record);
        await interruptedEverywhere(
          () => driver.fixImages(record, SILENT),
          async () => {
            await backend.otherProcess.fixImages(record, SILENT);
            expect(await backend.holdsBase(record.image.frontend.digest)).to.equal(true);
            await driver.release(record, { keepBaseImage: false });
            expect(await backend.leftovers()).to.deep.equal(clean);
            await driver.allocate(record);
          },
        );
        await destroy(record);
      });

      check("boot is taken up again", async () => {
        const cluster = await allocated();
        const ref = frontendOf(cluster);
        await interruptedEverywhere(
          () => boot(ref),
          async () => {
            await boot(ref);
            expect((await driver.read(cluster.name)).size).to.equal(1);
            expect(await nodeOf(ref)).to.deep.include({ state: "running", ...autostart(true), mark: cluster.mark });
            await driver.remove(ref, AT_ONCE);
          },
        );
        await destroy(cluster);
      });

      check("boot can be given up from wherever it was", async () => {
        const cluster = await allocated();
        const withoutNodes = await backend.leftovers();
        await interruptedEverywhere(
          () => boot(frontendOf(cluster)),
          async (step) => {
            await backend.otherProcess.remove(frontendOf(cluster), AT_ONCE);
            expect(await backend.leftovers(), `after step ${step}`).to.deep.equal(withoutNodes);
          },
          apart(),
        );
        await destroy(cluster);
      });

      check("remove and release are taken up again", async () => {
        const cluster = await allocated();
        await boot(frontendOf(cluster));
        await boot(computeOf(cluster));
        await interruptedEverywhere(
          () => driver.remove(computeOf(cluster), AT_ONCE),
          async () => {
            const left = (await backend.leftovers()).filter((line) => /compute-0/.test(line));
            const seen = (await backend.otherProcess.read(cluster.name)).has("compute-0");
            expect(seen, `a compute of which is left: ${left.join(", ") || "nothing"}`).to.equal(left.length > 0);
          },
        );
        await interruptedEverywhere(
          () => driver.remove(frontendOf(cluster), AT_ONCE),
          async () => undefined,
        );
        await interruptedEverywhere(
          () => driver.release(cluster, { keepBaseImage: false }),
          async () => undefined,
        );
      });
    });

    // ── Whose it is ────────────────────────────────────────────────────────────────────────────────────────────────

    describe("what carries another's mark", () => {
      check("is refused and left alone, whatever part of it differs", async () => {
        const theirs = await allocated();
        for (const part of ["owner", "organization", "project", "stack", "cluster"] as const) {
          const ours: ClusterRecord = { ...theirs, mark: { ...theirs.mark, [part]: "somebody-else" } };
          await rejects(driver.allocate(ours), ForeignOwner, theirs.mark.owner, `allocate (${part})`);
          await rejects(
            driver.release(ours, { keepBaseImage: false }),
            ForeignOwner,
            theirs.mark.owner,
            `release (${part})`,
          );
        }
        expect(await driver.find(theirs.name)).to.deep.equal(theirs);
        expect(await backend.holdsBase(theirs.image.frontend.digest)).to.equal(!backend.storesNoBases);
        expect((await driver.describe()).takenAddresses.get(theirs.plan.frontend.publicIp)?.cluster).to.equal(
          theirs.name,
        );
        await destroy(theirs);
      });
    });

    describe("what carries no mark", () => {
      check("is refused as a network of the cluster's name", async () => {
        const record = await planned();
        await backend.makeStrangerNetwork(record.name);
        await rejects(driver.find(record.name), ForeignOwner, record.name);
        await rejects(driver.allocate(record), ForeignOwner, record.name);
        await rejects(driver.release(record, { keepBaseImage: false }), ForeignOwner, record.name);
        expect(await backend.removeStranger(), "as it was").to.equal(true);
      });
    });

    // ── A site that doesn't answer ─────────────────────────────────────────────────────────────────────────────────

    check("throws Unreachable from every operation when the site doesn't answer", async () => {
      const record = await planned();
      const away = backend.unreachable;
      const operations: Array<[string, () => Promise<unknown>]> = [
        ["siteId", () => away.siteId()],
        ["describe", () => away.describe()],
        ["find", () => away.find(record.name)],
        ["read", () => away.read(record.name)],
        ["allocate", () => away.allocate(record)],
        ...(backend.storesNoBases
          ? []
          : [["fixImages", () => away.fixImages(record, SILENT)] as [string, () => Promise<unknown>]]),
        ["release", () => away.release(record, { keepBaseImage: false })],
        ["inspect", () => away.inspect(record)],
        ["survey", () => away.survey()],
        ["lock", () => away.lock(record, { seconds: 0, progress: SILENT })],
        ...nodeOperations(away, frontendOf(record)),
      ];
      for (const [operation, work] of operations) {
        await rejects(work(), Unreachable, "", operation);
      }
    });

    // ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────────

    function nodeOperations(of: Driver, ref: NodeRef<ClusterRecord>): Array<[string, () => Promise<unknown>]> {
      const shape = { cpus: 2, memory: backend.memory };
      const request = {
        role: "frontend",
        plan: ref.cluster.plan.frontend,
        vcOut: "<vc/>",
        keepDisk: false,
        power: "on",
        stop: AT_ONCE,
        progress: SILENT,
      } as const;
      return [
        ["boot", () => of.boot(ref, request)],
        ["waitFor", () => of.waitFor(ref, "running", { seconds: 1, progress: SILENT })],
        ["channel", () => of.channel(ref)],
        ["reconfigure", () => of.reconfigure(ref, "<vc/>")],
        ["resize", () => of.resize(ref, shape, AT_ONCE)],
        ["shutdown", () => of.shutdown(ref, AT_ONCE)],
        ["remove", () => of.remove(ref, AT_ONCE)],
      ];
    }

    /** The same cluster with a plan that fits the site as it is now. */
    async function replanned(record: ClusterRecord, computes = record.plan.computes.length): Promise<ClusterRecord> {
      const { frontend, privateNetwork } = record.plan;
      const [site, present] = await Promise.all([driver.describe(), driver.find(record.name)]);
      const held = site.takenSubnets.get(privateNetwork.cidr)?.cluster === record.name;
      const wish = {
        name: record.name,
        numCpus: computes,
        cpusPerNode: 1,
        memoryPerNode: backend.memory,
        frontend: { cpus: 1, memory: backend.memory },
      };
      const dealt = held
        ? { privateCidr: privateNetwork.cidr, publicIp: frontend.publicIp, macs: present && macsOf(present.plan) }
        : {};
      const { addresses, macs } = driver.capabilities;
      const plan = addresses === "site" ? planBySite(wish, site, present?.plan) : planCluster(wish, site, dealt, macs);
      return { ...record, plan };
    }
  });
}

function within({ min, max }: Range, value: number): boolean {
  return min <= value && value <= max;
}

/** A stand-in: drivers take it as text. */
function vcOutOf({ cluster, node }: NodeRef): string {
  return `<?xml version="1.0" ?>\n<vc><!-- ${cluster.name} ${node} --></vc>\n`;
}

function withPlan(record: ClusterRecord, change: { publicIp?: string; cidr?: string }): ClusterRecord {
  if (record.plan.privateNetwork.cidr === SITE_DECIDES) {
    return record;
  }
  const net = subnet(change.cidr ?? record.plan.privateNetwork.cidr);
  const publicIp = change.publicIp ?? record.plan.frontend.publicIp;
  const { privateIp, privateMac } = record.plan.frontend;
  const known = macsOf(record.plan);
  const mac = (ip: string) => (privateMac === macOf(privateIp) ? macOf(ip) : (known.get(ip) ?? SITE_DECIDES));
  const at = (place: number) => ({ privateIp: hostAt(net, place), privateMac: mac(hostAt(net, place)) });
  const plan: ClusterPlan = {
    ...record.plan,
    privateNetwork: { cidr: net.cidr },
    frontend: { ...record.plan.frontend, ...at(1), publicIp, publicMac: mac(publicIp) },
    computes: record.plan.computes.map((compute, index) => ({ ...compute, ...at(-1 - index) })),
  };
  return { ...record, plan };
}

async function rejects(
  work: Promise<unknown>,
  errorClass: ErrorClass,
  mentions = "",
  operation = "the operation",
): Promise<VirtualClusterError> {
  const outcome = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(outcome, `${operation} should fail with ${errorClass.name}`).to.be.instanceOf(errorClass);
  const error = outcome as VirtualClusterError;
  expect(error.message).to.include(mentions);
  return error;
}
