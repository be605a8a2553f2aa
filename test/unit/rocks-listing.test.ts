import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import type { Mark } from "../../provider/src/drivers/driver";
import { SiteFailure } from "../../provider/src/drivers/errors";
import { errorIn } from "../../provider/src/drivers/rocks/frontend";
import { parseListing } from "../../provider/src/drivers/rocks/listing";
import { stateOf } from "../../provider/src/drivers/rocks/machines";
import { decodeMark, encodeMark } from "../../provider/src/drivers/rocks/marks";
import { isVmName, nodeOf, refuseBadName, vmName } from "../../provider/src/drivers/rocks/names";
import { freeVlan, type PlacedNode, place as placeAmong } from "../../provider/src/drivers/rocks/placement";
import {
  parseAttributes,
  parseClusters,
  parseHosts,
  parseInterfaces,
  parseNetworks,
  parseVms,
} from "../../provider/src/drivers/rocks/tables";
import { vlansOf } from "../../provider/src/drivers/rocks/vlans";
import { runRocks } from "../stand-ins/rocks/commands";
import { freshSite } from "../stand-ins/rocks/site";

const FOLDER = join(__dirname, "..", "fixtures", "rocks");

/** What a recorded command has printed. */
function recorded(number: number): string {
  const file = readdirSync(FOLDER).find((name) => Number(name.slice(0, 3)) === number) ?? "";
  const text = readFileSync(join(FOLDER, file), "utf8");
  const from = text.indexOf("\n", text.indexOf("--- stdout")) + 1;
  return text.slice(from, text.indexOf("--- stderr", from));
}

describe("what rocks lists", () => {
  it("is read by the places of its headers: values with blanks, dashes, the colon of the owner", () => {
    expect(parseHosts(recorded(32)).slice(1, 6)).to.deep.equal([
      { name: "vm-container-0-0", membership: "VM Container", cpus: 16 },
      { name: "vm-container-0-1", membership: "VM Container", cpus: 16 },
      { name: "compute-0-0", membership: "Compute", cpus: 8 },
      { name: "vc-alpha", membership: "Frontend", cpus: 1 },
      { name: "vm-vc-alpha-0", membership: "Hosted VM", cpus: 4 },
    ]);
    expect(parseInterfaces(recorded(46)).find(({ iface }) => iface === "vlan10")).to.deep.equal({
      ...{ host: "vm-container-0-0", subnet: "private", iface: "vlan10", mac: "", ip: "", vlan: 10 },
    });
    expect(parseNetworks(recorded(4)).map(({ name, zone }) => [name, zone])).to.deep.equal([
      ["private", "local"],
      ["public", "pragma.test"],
    ]);
  });

  it("puts the rows of one machine together", () => {
    const vms = parseVms(recorded(88), () => "");
    expect(vms.find(({ name }) => name === "vm-vc-alpha-1")).to.deep.equal({
      ...{ name: "vm-vc-alpha-1", host: "vm-container-0-1", memory: 4096, cpus: 3, status: "nostate", disks: [] },
      macs: ["0a:64:33:80:00:03", "0a:64:33:80:00:42"],
    });
  });

  it("names the only machine, which Rocks doesn't", () => {
    const nics = parseInterfaces(recorded(46));
    const [vm] = parseVms(recorded(37), (mac) => nics.find((nic) => nic.mac === mac)?.host ?? "");
    expect(vm).to.deep.include({ name: "vc-alpha", host: "rocks", status: "nostate" });
    expect(vm?.disks).to.deep.equal(["file:/state/partition1/kvm/disks/vc-alpha.vda,vda,virtio"]);
  });

  it("is nothing at all where there is nothing", () => {
    expect(parseVms(recorded(18), () => "")).to.deep.equal([]);
  });

  it("puts clients to the frontend before them, and reads statuses", () => {
    const alpha = parseClusters(recorded(80)).find(({ frontend }) => frontend === "vc-alpha");
    expect(alpha).to.deep.include({ clients: ["vm-vc-alpha-0", "vm-vc-alpha-1"], isVirtual: true });
    expect([...(alpha?.statuses ?? [])]).to.deep.include.members([["vm-vc-alpha-0", "active"]]);
    expect(parseClusters(recorded(20))[0]).to.deep.include({ frontend: "rocks", isVirtual: false });
  });

  it("is the same as JSON and as a table, of hosts, machines, NICs, networks and clusters", () => {
    const state = freshSite();
    runRocks(state, ["add", "cluster", "198.51.100.21", "2", "fe-name=vc", "cluster-naming=true", "vlan=7"]);
    for (const [command, owner] of [
      [["list", "host"], "host"],
      [["list", "host", "vm", "status=true", "showdisks=true"], "vm-host"],
      [["list", "host", "interface"], "host"],
      [["list", "network"], "network"],
      [["list", "cluster", "status=true"], "frontend"],
    ] as const) {
      const [table, json] = [command, [...command, "json=true"]].map((words) => runRocks(state, words).stdout);
      expect(json).to.match(/^\[/);
      expect(parseListing(json ?? "", owner)).to.deep.equal(parseListing(table ?? "", owner));
    }
    const old = { ...state, version: "6.2" as const };
    expect(runRocks(old, ["list", "host", "json=true"]).stdout).to.equal(runRocks(state, ["list", "host"]).stdout);
  });

  it("is read around what Rocks says of hosts that are down", () => {
    const [header, ...rows] = recorded(2).split("\n");
    const mixed = ["vm-container-0-0: down", header, "vm-container-0-1: down", ...rows].join("\n");
    expect(parseHosts(mixed)).to.deep.equal(parseHosts(recorded(2)));
  });

  it("is a failure where it begins as JSON and isn't", () => {
    for (const text of ['[{"host": ', "[1, 2]", '[{"host": "x"}]']) {
      expect(() => parseListing(text, "host"), text).to.throw(SiteFailure);
    }
  });

  it("has the attributes of a host and those of all", () => {
    expect(parseAttributes(recorded(74)).get("pragma_owner")).to.equal("alice");
    expect(parseAttributes(recorded(13)).get("Kickstart_PublicHostname")).to.equal("rocks.pragma.test");
  });
});

describe("what rocks says of a failure", () => {
  it("is its error line without the usage, whatever the release", () => {
    expect(errorIn(recorded(100))).to.equal('cannot resolve host "nosuch"');
    expect(errorIn(recorded(115))).to.equal(
      "Node vc-alpha already exists. Select a different hostname, cabinet and/or rank value.",
    );
    expect(errorIn(recorded(121))).to.match(/^could not find a partition on host \(compute-0-0\)/);
    const old = runRocks({ ...freshSite(), version: "6.1" }, ["list", "host", "nosuch"]);
    expect([old.exitCode, errorIn(old.stdout)]).to.deep.equal([255, 'cannot resolve host "nosuch"']);
    expect(errorIn(recorded(27))).to.equal(undefined);
  });
});

describe("the status of a machine at a Rocks site", () => {
  it("is off only where Rocks knows that", () => {
    expect(["nostate", "shutoff"].map(stateOf)).to.deep.equal(["off", "off"]);
    expect(["nostate-error", "", "anything"].map(stateOf)).to.deep.equal(["unknown", "unknown", "unknown"]);
    expect(["active", "paused", "crashed"].map(stateOf)).to.deep.equal(["running", "paused", "crashed"]);
  });
});

describe("names at a Rocks site", () => {
  it("are refused where Rocks would take them for something else", () => {
    for (const name of [
      "compute",
      "vm-container",
      "hosted-vm",
      "rack7",
      "rackspace",
      "boot",
      "interface",
      "localhost",
      "select-name",
      "x' or '1'='1",
      "Vc",
      "vc.x",
      "%",
      "",
    ]) {
      expect(isVmName(name), name).to.equal(false);
      expect(() => refuseBadName(name), name).to.throw("can't be a host's name at a Rocks site");
    }
    expect(() => refuseBadName("a".repeat(56))).to.not.throw();
    expect(() => refuseBadName("a".repeat(57))).to.throw();
  });

  it("lead from nodes to machines and back", () => {
    for (const node of ["frontend", "compute-0", "compute-17"]) {
      expect(nodeOf("dock", vmName("dock", node))).to.equal(node);
    }
    for (const other of ["vm-dock-2-0", "vm-dock-", "vm-dock-x", "vm-dock-01", "docks"]) {
      expect(nodeOf("dock", other), other).to.equal(undefined);
    }
  });
});

describe("placement at a Rocks site", () => {
  const node = (name: string, cpus: number, memory = 512) => ({ node: name, cpus, memory });
  const rooms = [
    { name: "vm-container-0-0", cpus: 4, memory: 4096, isPublic: false },
    { name: "vm-container-0-1", cpus: 3, memory: 4096, isPublic: true },
  ];
  const place = (nodes: readonly PlacedNode[], among = rooms, silent: readonly string[] = []) =>
    placeAmong(nodes, among, new Set(silent));

  it("spreads nodes, the largest first", () => {
    const placed = place([node("a", 1), node("b", 3), node("c", 2)]);
    expect(Object.fromEntries(placed)).to.deep.equal({
      b: "vm-container-0-0",
      c: "vm-container-0-1",
      a: "vm-container-0-0",
    });
  });

  it("keeps what has a public NIC for the frontend", () => {
    const placed = place([node("a", 3), node("frontend", 1), node("b", 2)]);
    expect(placed.get("frontend")).to.equal("vm-container-0-1");
  });

  it("names the node that fits nowhere", () => {
    expect(() => place([node("a", 4), node("b", 4)])).to.throw("b asks for 4 cpus");
    expect(() => place([node("a", 1, 5000)])).to.throw("5000 MiB");
    expect(() => place([node("a", 4)], rooms, ["vm-container-0-0"])).to.throw("vm-container-0-0: no answer");
    expect(() => place([node("a", 1)], [])).to.throw("there is none");
  });

  it("takes the lowest VLAN that is free, and reads lists of them", () => {
    expect(freeVlan(vlansOf([7, "10-12"]), new Set([7, 10]))).to.equal(11);
    expect(() => freeVlan([7], new Set([7]))).to.throw("no VLAN is left");
    for (const wrong of ["1", "9-3", "5000", "x", "2-5000"]) {
      expect(() => vlansOf([wrong]), wrong).to.throw(RangeError);
    }
  });
});

describe("a mark in Rocks' tables", () => {
  const mark: Mark = {
    version: 1,
    ...{ owner: `Zoë <"&'> ✓`, organization: "o", project: "p", stack: "s", cluster: "c" },
    createdAt: "2024-02-29T12:00:00.000Z",
  };

  it("comes through SQL and a table, and what isn't one is none", () => {
    expect(encodeMark(mark)).to.match(/^[\w-]+$/);
    const state = freshSite();
    runRocks(state, ["set", "host", "attr", "compute-0-0", "virtual_cluster", encodeMark(mark)]);
    const listed = parseAttributes(runRocks(state, ["list", "host", "attr", "compute-0-0"]).stdout);
    expect(decodeMark(listed.get("virtual_cluster"))).to.deep.equal(mark);
    for (const text of [undefined, "", "alice", encodeMark({ ...mark, version: 2 as 1 })]) {
      expect(decodeMark(text)).to.equal(undefined);
    }
  });
});
