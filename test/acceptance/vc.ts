import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import type { Life } from "./life";

/** What a person does with `vc` in the folder of a program whose cluster is up, with computes `compute-0` and `compute-1`. */
export async function expectVcWorks({ world, cluster, stack }: Life): Promise<void> {
  const status = await world.vc("status");
  expect(status.exitCode, status.all).to.equal(0);
  for (const node of ["frontend", "compute-0", "compute-1"]) {
    expect(status.stdout).to.match(new RegExp(`^demo +${node} +running +yes +1 +256 MiB `, "m"));
  }

  const words = ["a b", "it's", "$HOME"];
  const [login, run] = await Promise.all([
    world.vc("ssh", "compute-1", "--", "printf", "%s|", ...words),
    world.vc("run", "--frontend", "--", "hostname -s; test $(hostname -s) != compute-1"),
  ]);
  expect(login).to.include({ exitCode: 0, stdout: words.map((word) => `${word}|`).join("") });
  expect(run.exitCode).to.equal(1);
  expect(run.stdout.split("\n").sort()).to.deep.equal([
    ...["compute-0: compute-0", "compute-1: compute-1", `frontend: ${cluster}`],
  ]);
  expect(run.stderr).to.match(/it failed on 1 of 3: compute-1 \(exit code 1\)/);

  const [there, back] = ["there and", "back"].map((name) => join(world.home, name)) as [string, string];
  await writeFile(there, "what was written\n");
  expect((await world.vc("cp", there, "compute-0:/root/my file")).exitCode).to.equal(0);
  expect((await world.vc("cp", "compute-0:/root/my file", back)).exitCode).to.equal(0);
  expect(await readFile(back, "utf8")).to.equal("what was written\n");

  const [console, diagram, doctor, site, log] = await Promise.all([
    world.vc("console", "compute-0"),
    world.vc("diagram", stack),
    world.vc("doctor"),
    world.vc("site", "--json"),
    world.vc("site", "log", "--json"),
  ]);
  expect(console.stdout).to.match(/vc-guest: ready compute-0/);
  expect(diagram.stdout).to.match(/^<svg [^>]*aria-label="Virtual clusters: demo with 2 computes"/);
  expect(doctor, doctor.all).to.include({ exitCode: 0 });
  expect(JSON.parse(site.stdout).owners).to.have.lengthOf(1);
  expect(JSON.parse(site.stdout).owners[0]).to.include({ clusters: 1, machines: 3, cpus: 3, addresses: 1 });
  const changes = log.stdout.split("\n").map((line) => JSON.parse(line));
  expect(changes.map(({ operation, node, outcome }) => [operation, node, outcome].join(" "))).to.have.members([
    ...["create  done", "create frontend done", "create compute-0 done", "create compute-1 done"],
  ]);
}
