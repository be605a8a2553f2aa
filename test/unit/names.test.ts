import { expect } from "chai";
import * as fc from "fast-check";
import { CLUSTER_NAME, type ClusterIdentity, clusterNameOf, computeName } from "../../provider/src/plan/names";

const identity = (part: fc.Arbitrary<string>): fc.Arbitrary<ClusterIdentity> =>
  fc.record({ organization: part, project: part, stack: part, cluster: part });
const joined = ({ project, stack, cluster }: ClusterIdentity) => [project, stack, cluster].join("-");
const anyText = fc.string({ unit: "binary", minLength: 1, maxLength: 40 });
const nearlyName = fc.string({ unit: fc.constantFrom(..."aB1-_é. "), minLength: 1, maxLength: 30 });

describe("clusterNameOf", () => {
  it("is project, stack and name where that is a name", () => {
    const name = clusterNameOf({ organization: "organization", project: "docking", stack: "dev", cluster: "dock" });
    expect(name).to.equal("docking-dev-dock");
  });

  it("is always a valid host name", () => {
    fc.assert(
      fc.property(identity(fc.oneof(anyText, nearlyName)), (who) => {
        expect(clusterNameOf(who)).to.match(CLUSTER_NAME);
        expect(clusterNameOf(who)).to.not.match(/-$/);
      }),
    );
  });

  it("keeps what can be read of a name that is too long", () => {
    const name = clusterNameOf({ organization: "o", project: "p".repeat(70), stack: "dev", cluster: "dock" });
    expect(name).to.match(/^p{54}-[0-9a-f]{8}$/);
  });

  it("differs for different clusters of an organisation, unless their parts read the same when joined", () => {
    fc.assert(
      fc.property(identity(nearlyName), identity(nearlyName), (one, other) => {
        const organization = "organization";
        fc.pre(joined(one) !== joined(other));
        expect(clusterNameOf({ ...one, organization })).to.not.equal(clusterNameOf({ ...other, organization }));
      }),
      { numRuns: 500 },
    );
  });

  it("differs where a hash is in it anyway, even if the parts read the same when joined", () => {
    const [one, other] = [
      { organization: "o", project: "Dock-a", stack: "b", cluster: "c" },
      { organization: "o", project: "Dock", stack: "a-b", cluster: "c" },
    ];
    expect(clusterNameOf(one)).to.not.equal(clusterNameOf(other));
    expect(clusterNameOf(one)).to.not.equal(clusterNameOf({ ...one, organization: "another" }));
  });
});

describe("computeName", () => {
  it("counts from 0, without padding", () => {
    expect([0, 1, 10].map(computeName)).to.deep.equal(["compute-0", "compute-1", "compute-10"]);
  });
});
