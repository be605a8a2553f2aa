import type { NodeSummary } from "@virtual-cluster/pulumi";
import { expect } from "chai";
import { execa } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import type { Life } from "./life";
import type { Shell } from "./shell";

/** What the default site's own network is from outside, and a port there. */
const OUTSIDE = "198.51.100.1";
const PORT = "2222";

/** What a cluster's users rely on, seen from inside its nodes, whichever way their network is configured. */
export async function expectWorksInside(life: Life, shell: Shell): Promise<void> {
  const { outputs } = await life.world.outputs<{ outputs: { demo: { nodes: NodeSummary[] } } }>();
  const { nodes } = outputs.demo;
  const [frontend, ...computes] = nodes as [NodeSummary, ...NodeSummary[]];
  const names = computes.map(({ name }) => name);

  const links = await shell.runOnAll(names, "ip -o link show; ip -o -4 addr show; ip -4 route show default");
  const hosts = await shell.runOnAll(
    names,
    `for name in ${[frontend.name, ...names].join(" ")}; do getent hosts $name; done`,
  );
  const machines = names.flatMap((name, index) => Array.from({ length: computes[index]?.cpus ?? 0 }, () => name));
  const machinefiles = await shell.runOnAll(names, "cat /tmp/machinefile; echo --; cat /etc/vc/machinefile");
  for (const [node, said] of Object.entries(links)) {
    const own = nodes.find(({ name }) => name === node) ?? frontend;
    const privateDevice = deviceOf(said, own.mac);
    expect(said, `private address of ${node}`).to.match(
      new RegExp(`^\\d+: ${privateDevice} +inet ${own.privateIp}/24 .*${own.privateIp.replace(/\d+$/, "255")}`, "m"),
    );
    const [, gateway, device] = /^default via (\S+) dev (\S+)/m.exec(said) ?? [];
    expect(said.match(/^default /gm), `default routes of ${node}`).to.have.lengthOf(1);
    if (own === frontend) {
      expect(said, "public address").to.match(new RegExp(`^\\d+: ${device} +inet ${own.publicIp}/`, "m"));
      expect(device, "way out of the frontend").not.to.equal(privateDevice);
    } else {
      expect([gateway, device], `way out of ${node}`).to.deep.equal([frontend.privateIp, privateDevice]);
    }
    const addresses = nodes.map(({ privateIp }) => privateIp);
    expect(
      hosts[node]?.split("\n").map((line) => line.split(/\s+/)[0]),
      `names that ${node} knows`,
    ).to.deep.equal(addresses);
    const [temporary, lasting] = machinefiles[node]?.split("\n--\n") ?? [];
    if (own === frontend) {
      expect(temporary?.split("\n"), "/tmp/machinefile").to.deep.equal(machines);
    }
    expect(lasting?.split("\n"), `machinefile of ${node}`).to.deep.equal(machines);
  }
  await expectLogins(shell, names);
  await expectWayOut(life, shell, names[0] as string, frontend.publicIp as string);
}

function deviceOf(links: string, mac: string): string {
  const device = new RegExp(`^\\d+: ([^:@]+)\\S* .*link/ether ${mac} `, "m").exec(links)?.[1];
  expect(device, `device of ${mac}`).to.not.equal(undefined);
  return device as string;
}

/** Without a question: from the frontend to each compute, and from each to its neighbour. */
async function expectLogins(shell: Shell, computes: readonly string[]): Promise<void> {
  const next = `$(( ($(hostname -s | cut -d- -f2) + 1) % ${computes.length} ))`;
  const said = await shell.runOnAll(computes, `hostname -s; ssh -n compute-${next} hostname -s`);
  for (const [index, compute] of computes.entries()) {
    expect(said[compute]?.split("\n"), `logins of ${compute}`).to.deep.equal([
      compute,
      computes[(index + 1) % computes.length],
    ]);
  }
}

/** A listener outside sees the frontend's address when a compute calls. */
async function expectWayOut(life: Life, shell: Shell, compute: string, publicIp: string): Promise<void> {
  const listener = execa("ip", [
    ...["netns", "exec", sitePaths(life.world.home).namespace, process.execPath, "-e"],
    `require("net").createServer(s => { console.log(s.remoteAddress); s.end(); process.exit() }).listen(${PORT}, "${OUTSIDE}")`,
  ]);
  await shell.run(`ssh -n ${compute} ssh -o BatchMode=yes -o ConnectTimeout=20 -p ${PORT} ${OUTSIDE} true || true`);
  expect((await listener).stdout.replace("::ffff:", "")).to.equal(publicIp);
}
