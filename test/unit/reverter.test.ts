import { expect } from "chai";
import { Virsh } from "../../provider/src/drivers/libvirt/virsh";
import { Reverter } from "../../provider/src/drivers/reverter";

describe("Reverter", () => {
  it("x", async () => {
    const undone: number[] = [];
    {
      await using reverter = new Reverter();
      reverter.add(async () => undone.push(1));
    }
    expect(undone).to.deep.equal([1]);
    await new Virsh("test:///default").run(["list"]).then(console.log, (e) => console.log(e.message));
  });
});
