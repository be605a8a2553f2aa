import { expect } from "chai";
import * as fc from "fast-check";
import { COMPUTE_NODE_POLICIES } from "../../provider/src/resources/compute-node";
import { FRONTEND_NODE_POLICIES } from "../../provider/src/resources/frontend-node";
import { isKnown, PartialFailure, same, UNKNOWN, withoutUndefined } from "../../provider/src/resources/host";
import {
  diffByPolicy,
  IN_PLACE,
  KEPT,
  kept,
  LIVE_OR_RESTART,
  type PolicyTable,
  REPLACE,
  refusals,
  refused,
  reshapings,
} from "../../provider/src/resources/policy";
import { VIRTUAL_CLUSTER_POLICIES } from "../../provider/src/resources/virtual-cluster";

interface Inputs {
  readonly keys: string;
  readonly cpus: number;
  readonly diskSize?: number;
  readonly id: string;
  readonly image: string;
  readonly owner: string;
}
const POLICIES: PolicyTable<Inputs> = {
  keys: IN_PLACE,
  cpus: LIVE_OR_RESTART,
  diskSize: { change: "grow", reason: "a disk never shrinks", hint: "Leave it out" },
  id: REPLACE,
  image: refused("the disk holds data", "Make another"),
  owner: KEPT,
};
const OLD = { keys: "a", cpus: 1, diskSize: 20, id: "x", image: "demo", owner: "me" };

describe("update policy", () => {
  it("lets the engine compare what changes in place or with a restart", () => {
    for (const change of [{}, { keys: "b" }, { cpus: 2 }]) {
      const { changes, replaces } = diffByPolicy(POLICIES, OLD, { ...OLD, ...change }, false);
      expect({ changes, replaces }).to.deep.equal({ changes: undefined, replaces: [] });
    }
  });

  it("names what replaces, the old one deleted first", () => {
    expect(diffByPolicy(POLICIES, OLD, { ...OLD, id: "y", keys: "b" }, false)).to.deep.equal({
      changes: true,
      replaces: ["id"],
      deleteBeforeReplace: true,
    });
  });

  it("asks for an update where something has drifted", () => {
    expect(diffByPolicy(POLICIES, OLD, OLD, true)).to.deep.include({ changes: true, replaces: [] });
  });

  it("never says that nothing changes: the engine knows better", () => {
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.dictionary(fc.constantFrom(...Object.keys(OLD)), fc.anything()),
        (drifted, change) => {
          expect(diffByPolicy(POLICIES, OLD, { ...OLD, ...change }, drifted).changes).to.not.equal(false);
        },
      ),
    );
  });

  it("takes the unknown for no replacement and no refusal", () => {
    const unknown = { keys: UNKNOWN, cpus: UNKNOWN, diskSize: UNKNOWN, id: UNKNOWN, image: UNKNOWN, owner: UNKNOWN };
    expect(diffByPolicy(POLICIES, OLD, unknown, false).replaces).to.deep.equal([]);
    expect(refusals(POLICIES, OLD, unknown)).to.deep.equal([]);
  });

  it("refuses in one sentence each, with reason and way out", () => {
    expect(refusals(POLICIES, OLD, { ...OLD, image: "other", cpus: 2 })).to.deep.equal([
      { property: "image", reason: "image can't change: the disk holds data. Make another." },
    ]);
  });

  it("says which changes restart a machine, by what it can take while it runs", () => {
    const changesTo = (cpus: number, live?: object) =>
      reshapings(POLICIES, { ...OLD, ...(live && { live: { cpus: live } }) }, { ...OLD, cpus, keys: "b" });
    expect(changesTo(2, { min: 1, max: 2 })).to.deep.equal([{ change: "cpus 1 → 2", restart: false }]);
    expect(changesTo(3, { min: 1, max: 2 })).to.deep.equal([{ change: "cpus 1 → 3", restart: true }]);
    expect(changesTo(2)).to.deep.equal([{ change: "cpus 1 → 2", restart: true }]);
    expect(changesTo(1)).to.deep.equal([]);
  });

  it("lets a disk grow, and refuses to shrink it with both sizes", () => {
    expect(refusals(POLICIES, OLD, { ...OLD, diskSize: 30 })).to.deep.equal([]);
    const { diskSize: _, ...withoutSize } = OLD;
    expect(refusals(POLICIES, OLD, withoutSize)).to.deep.equal([]);
    expect(refusals(POLICIES, withoutSize, OLD)).to.deep.equal([]);
    expect(refusals(POLICIES, OLD, { ...OLD, diskSize: 10 })).to.deep.equal([
      { property: "diskSize", reason: "diskSize can't change from 20 to 10: a disk never shrinks. Leave it out." },
    ]);
  });

  it("doesn't make anew what an older state knows less of", () => {
    const { id: _, ...older } = OLD;
    expect(diffByPolicy(POLICIES, older, OLD, false).replaces).to.deep.equal([]);
  });

  it("gives the first value of what is kept", () => {
    expect(kept(POLICIES, OLD)).to.deep.equal({ owner: "me" });
    expect(kept(POLICIES, {})).to.deep.equal({});
  });

  for (const [resource, policies] of Object.entries({
    VirtualCluster: VIRTUAL_CLUSTER_POLICIES,
    FrontendNode: FRONTEND_NODE_POLICIES,
    ComputeNode: COMPUTE_NODE_POLICIES,
  })) {
    it(`of ${resource} has a reason and a way out for everything that is refused`, () => {
      for (const [property, policy] of Object.entries(policies)) {
        expect(policy?.change, property).to.be.oneOf([
          "inPlace",
          "liveOrRestart",
          "grow",
          "replace",
          "refused",
          "kept",
        ]);
        if (policy.change === "refused" || policy.change === "grow") {
          expect(
            [policy.reason, policy.hint].every((text) => /^\S.*[^.\s]$/.test(text)),
            property,
          ).to.equal(true);
        }
      }
    });
  }

  it("never loses a frontend's data by a replacement", () => {
    const replacing = Object.entries(FRONTEND_NODE_POLICIES).filter(([, { change }]) => change === "replace");
    expect(replacing).to.deep.equal([]);
    expect(Object.entries(VIRTUAL_CLUSTER_POLICIES).filter(([, { change }]) => change === "replace")).to.deep.equal([]);
  });
});

describe("values on their way to the engine", () => {
  const json = fc.jsonValue() as fc.Arbitrary<unknown>;
  const shuffled = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(shuffled)
      : typeof value === "object" && value !== null
        ? Object.fromEntries(
            Object.entries(value)
              .reverse()
              .map(([key, item]) => [key, shuffled(item)]),
          )
        : value;

  it("are the same in any order of keys, and only then", () => {
    fc.assert(
      fc.property(json, json, (one, other) => {
        expect(same(one, shuffled(one))).to.equal(true);
        expect(same({ a: one }, { a: one, b: undefined })).to.equal(true);
        if (JSON.stringify(one) !== JSON.stringify(other) && JSON.stringify(shuffled(one)) !== JSON.stringify(other)) {
          expect(same([one, 1], [other, 2])).to.equal(false);
        }
      }),
    );
    expect(same([1, 2], [2, 1])).to.equal(false);
    expect(same({ a: 1 }, { a: "1" })).to.equal(false);
    expect(same(undefined, null)).to.equal(false);
  });

  it("lose what is undefined, at any depth, and nothing else", () => {
    const value = { a: undefined, b: [{ c: undefined, d: null, e: 0 }], f: { g: { h: undefined, i: "" } } };
    expect(withoutUndefined(value)).to.deep.equal({ b: [{ d: null, e: 0 }], f: { g: { i: "" } } });
  });

  it("are known unless something in them isn't", () => {
    expect([1, "x", null, undefined, [], {}, { a: [{ b: "c" }] }].every(isKnown)).to.equal(true);
    expect([UNKNOWN, [UNKNOWN], { a: [{ b: UNKNOWN }] }].some(isKnown)).to.equal(false);
  });

  it("carry __provider in a partial failure, since the host doesn't add it", () => {
    const failure = new PartialFailure("id", { ready: false, gone: undefined }, { __provider: "text" }, "why");
    expect(failure.properties).to.deep.equal({ ready: false, __provider: "text" });
    expect(Object.keys(failure.properties)).to.not.include("gone");
    expect(failure.reasons).to.deep.equal(["why"]);
  });
});
