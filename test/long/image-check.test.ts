import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { checkImage } from "../../provider/src/images/standard/check";
import { onPath } from "../../provider/src/setup/programs";
import { makeBtrfsDisk } from "../unit/disk-corpus";

describe("vc image check", () => {
  it("looks into a btrfs root as into any other, where libguestfs is installed", async function () {
    if (onPath("guestfish").length === 0) {
      this.skip();
    }
    const folder = await mkdtemp(join(tmpdir(), "check-"));
    try {
      const report = await checkImage({ frontend: await makeBtrfsDisk(join(folder, "disk.raw")) });
      expect(report.parts.map(({ findings, notLookedAt }) => ({ findings, notLookedAt }))).to.deep.equal([
        { findings: [], notLookedAt: [] },
      ]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
