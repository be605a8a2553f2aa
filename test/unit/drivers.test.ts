import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { Batcher } from "../../provider/src/drivers/batcher";
import type { Mark } from "../../provider/src/drivers/driver";
import { AddressTaken, NotReady, VirtualClusterError } from "../../provider/src/drivers/errors";
import { isOurs, refuseForeign } from "../../provider/src/drivers/ownership";
import { Reverter } from "../../provider/src/drivers/reverter";

describe("Batcher", () => {
  it("answers what is asked at the same time with one request", async () => {
    const requests: string[][] = [];
    const batcher = new Batcher<string, string>(async (keys) => {
      requests.push([...keys]);
      return new Map(keys.map((key) => [key, key.toUpperCase()]));
    }, 5);
    expect(await Promise.all(["a", "b", "a"].map((key) => batcher.get(key)))).to.deep.equal(["A", "B", "A"]);
    expect(requests).to.deep.equal([["a", "b"]]);
  });

  it("never gives an answer that is older than the question", async () => {
    let state = "old";
    const batcher = new Batcher<string, string>(async (keys) => {
      const seen = state;
      await setTimeout(30);
      return new Map(keys.map((key) => [key, seen]));
    }, 1);
    const first = batcher.get("x");
    await setTimeout(15); // The request is on its way.
    state = "new";
    expect(await Promise.all([first, batcher.get("x")])).to.deep.equal(["old", "new"]);
  });

  it("tells everybody who asked when it fails, and works again then", async () => {
    let fails = true;
    const batcher = new Batcher<string, string>(async (keys) => {
      if (fails) {
        throw new Error("site is away");
      }
      return new Map(keys.map((key) => [key, "there"]));
    }, 1);
    const outcomes = await Promise.allSettled([batcher.get("a"), batcher.get("b")]);
    expect(outcomes.map(({ status }) => status)).to.deep.equal(["rejected", "rejected"]);
    fails = false;
    expect(await batcher.get("a")).to.equal("there");
    expect(await batcher.get("unknown")).to.equal("there");
  });

  it("gives undefined for what isn't there", async () => {
    expect(await new Batcher<string, string>(async () => new Map(), 1).get("x")).to.equal(undefined);
  });
});

describe("Reverter", () => {
  async function run(outcome: "fails" | "succeeds", failingUndo = false): Promise<string[]> {
    const undone: string[] = [];
    const work = async () => {
      await using reverter = new Reverter();
      reverter.add(async () => undone.push("first"));
      reverter.add(async () => {
        undone.push("second");
        if (failingUndo) {
          throw new Error("can't be undone");
        }
      });
      if (outcome === "fails") {
        throw new Error("the work failed");
      }
      reverter.succeed();
    };
    const error = await work().catch((reason: Error) => reason.message);
    expect(error).to.equal(outcome === "fails" ? "the work failed" : undefined);
    return undone;
  }

  it("undoes the last step first", async () => {
    expect(await run("fails")).to.deep.equal(["second", "first"]);
  });

  it("undoes nothing that succeeded", async () => {
    expect(await run("succeeds")).to.deep.equal([]);
  });

  it("goes on when an undo fails, and tells what failed first", async () => {
    expect(await run("fails", true)).to.deep.equal(["second", "first"]);
  });
});

describe("ownership", () => {
  const mark: Mark = {
    version: 1,
    owner: "tester@example",
    organization: "organization",
    project: "docking",
    stack: "dev",
    cluster: "dock",
    createdAt: "2024-02-29T12:00:00.000Z",
  };

  it("is the same whenever it was made", () => {
    const later = { ...mark, createdAt: "now" };
    expect(isOurs(later, { name: "dock", mark })).to.equal(true);
  });

  for (const part of ["owner", "organization", "project", "stack", "cluster"] as const) {
    it(`is another's where the ${part} differs`, () => {
      expect(isOurs({ ...mark, [part]: "other" }, { name: "dock", mark })).to.equal(false);
    });
  }

  it("says whose it is, or that it is nobody's", () => {
    const ours = { name: "dock", mark: { ...mark, owner: "me@here" } };
    expect(() => refuseForeign("network dock", mark, ours)).to.throw(
      /network dock: belongs to tester@example .*organization\/docking\/dev/,
    );
    expect(() => refuseForeign("network dock", undefined, ours)).to.throw(/carries no mark/);
  });
});

describe("errors of the contract", () => {
  it("read as sentences: what, what happened, what to do", () => {
    const error = new AddressTaken("public address 192.0.2.1", "cluster other has it", "Run `pulumi up` again");
    expect(error.message).to.equal("public address 192.0.2.1: cluster other has it. Run `pulumi up` again.");
    expect(error.name).to.equal("AddressTaken");
    expect(new VirtualClusterError("It failed").message).to.equal("It failed.");
    expect(new NotReady("node x", "it stopped!", "").message).to.equal("node x: it stopped!");
  });

  it("show people no stack of ours", () => {
    expect(new AddressTaken("x", "y").stack).to.equal("");
  });

  it("keep the property that was named first", () => {
    expect(new AddressTaken("x").about("publicIp").about("site").property).to.equal("publicIp");
  });
});
