import { goOnAfterKill } from "../acceptance/interruption";
import { World } from "../acceptance/world";

describe("an up that is killed", function () {
  this.timeout(180_000);
  let world: World;

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
  });

  after(async () => {
    await world.dispose();
  });

  for (const step of [
    /looking at the image/,
    /are reserved/,
    /base image stored/,
    /frontend: started/,
    /compute-\d: started/,
  ]) {
    it(`is finished by the next one, when it happens at "${step.source}"`, async () => {
      const args = {
        image: "fake",
        repository: world.fakeImages,
        numCpus: 4,
        memoryPerNode: 64,
        frontend: { memory: 64 },
        waitFor: "none",
      };
      await goOnAfterKill(world, args, step);
    });
  }
});
