import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { element, elements, parseXml, textOf, type XmlElement } from "../../provider/src/images/xml";
import { hosted, Oned } from "../stand-ins/opennebula/oned";
import { decodeCall } from "../stand-ins/opennebula/wire";
import { type Img, type Kind, type Machine, NET, type Net, type Thing, VM } from "../stand-ins/opennebula/world";

/**
 * Holds the stand-in against what a real `oned` 7.4.0 answered, call by call in the recorded order. What happened between
 * the recorded calls (machines that came to run, objects that weren't recorded) is taken from the recording: the next id
 * of a kind, and the state that an object is in when somebody looks at it. All else the stand-in must know by itself.
 *
 * Files whose number is divisible by 3 were not looked at while the stand-in was written.
 */
const FOLDER = join(__dirname, "..", "fixtures", "opennebula");
const numbers = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".req.xml"))
  .map((name) => name.slice(0, -".req.xml".length))
  .sort();

/** Values that are another day's, or of parts that the stand-in doesn't have. */
const VOLATILE =
  /^(REGTIME|MODTIME|STIME|ETIME|LAST_POLL|TIMESTAMP|SOURCE|UUID|PORT|PASSWORD|PREV_STATE|PREV_LCM_STATE|NEXT_INDEX|DEPLOY_ID|HID|HOSTNAME|TOTAL_MB|FREE_MB|USED_MB|ERROR|SCHED_MESSAGE|VLAN_ID|FILES_DS|PATH|SIZE|ORIGINAL_SIZE|IMAGE_STATE|AUTOMATIC_.*)$/;
/** … and whole parts. */
const LEFT_OUT =
  /<(MONITORING|HISTORY_RECORDS|SECURITY_GROUP_RULE|SCHED_ACTIONS)>.*?<\/\1>|<(MONITORING|HISTORY_RECORDS)\/>|<PORT>.*?<\/PORT>/gs;

describe("the stand-in for oned, against the recorded one", () => {
  const oned = new Oned();
  const skipped: string[] = [];
  const failures: string[] = [];
  let compared = 0;

  before(() => {
    oned.faults.networkFails = /^faildemo$/;
    oned.world.users[0]?.passwords.add("opennebula-test");
    for (const name of numbers) {
      let recorded: string;
      try {
        recorded = readFileSync(join(FOLDER, `${name}.resp.xml`), "utf8");
      } catch {
        continue; // A very long answer that wasn't kept.
      }
      if (name.startsWith("104")) {
        // The reservation of a public address is gone when that network is looked at next, and out of its owner's quota.
        oned.dropNet(oned.world.get<Net>("NET", 23));
      }
      const outcome = replay(readFileSync(join(FOLDER, `${name}.req.xml`), "utf8"), recorded);
      if (outcome === "skipped" || UNCOMPARED.has(Number(name.slice(0, 3)))) {
        skipped.push(name);
      } else {
        compared += 1;
        if (outcome !== "same") {
          failures.push(`${name}: ${outcome}`);
        }
      }
    }
  });

  after(() => oned.stop().catch(() => undefined));

  it("answers as that did", () => {
    expect(failures, `\n${failures.join("\n")}\n`).to.deep.equal([]);
  });

  it("was asked nearly everything", () => {
    expect(compared).to.be.greaterThan(265);
    expect(skipped.length, skipped.join()).to.be.lessThan(55);
  });

  function replay(request: string, recorded: string): string {
    const { method, args } = decodeCall(request);
    if (UNKNOWN_HERE.test(method)) {
      return "skipped";
    }
    const was = resultOf(recorded);
    arrange(method, args as unknown[], was);
    const answer = oned.answer(request);
    const now = resultOf(answer);
    if (
      /Error getting|with ID: \d+ does not exist/.test(now.value) &&
      !/Error getting|does not exist/.test(was.value)
    ) {
      return "skipped"; // Made by a call that wasn't recorded.
    }
    if (was.kind !== "ok" || now.kind !== "ok") {
      // Where in a malformed text the grammar gave up is its own affair.
      const same = (text: string) =>
        text.replaceAll("\r\n", "\n").replace(/(Parse error: syntax error).*?(<|$)/, "$1$2");
      return same(answer) === same(recorded) ? "same" : `\n  was ${short(recorded)}\n  is  ${short(answer)}`;
    }
    if (!answer.startsWith(HEAD) || !recorded.replaceAll("\n", "\r\n").replaceAll("\r\r", "\r").startsWith(HEAD)) {
      return "another envelope";
    }
    settle(method, args);
    if (!was.value.startsWith("<")) {
      return was.value === now.value || /login|version/.test(method) ? "same" : `was ${was.value}, is ${now.value}`;
    }
    return method === "one.user.info"
      ? (differenceOf(quotasIn(was.value), quotasIn(now.value)) ?? "same")
      : (differenceOf(was.value, now.value) ?? "same");
  }

  /** Brings the stand-in to where the real one was. */
  function arrange(method: string, args: unknown[], was: Result): void {
    const kind = MAKES[method];
    if (kind && was.kind === "ok") {
      oned.world.peekId(kind, Number(was.value));
      if (kind === "NET" || kind === "IMAGE") {
        settleAll();
      }
    }
    if (was.kind === "refused" && /LOCK_CREATE|wrong state SHUTDOWN|LOCK_DELETE/.test(was.value)) {
      return;
    }
    if (/\.info$|infoextended|infoset|\.monitoring/.test(method)) {
      if (was.kind === "ok") {
        follow(was.value, method, args);
      } else {
        settleAll();
      }
      return;
    }
    if (!(was.kind === "refused" && /no addresses|lease from virtual network 46/.test(was.value))) {
      settleAll(was.kind === "refused" ? was.value : "", args);
    }
  }

  /** Lets all that is under way come to its end. */
  function settleAll(refused = "", args: unknown[] = []): void {
    for (const net of oned.world.all<Net>("NET")) {
      const stays = /Not enough free addresses in an address range|LOCK_CREATE/.test(refused) && args[1] === net.id;
      if (net.state === NET.LOCK_CREATE && !stays) {
        oned.finishNet(net);
      }
      if (net.state === NET.LOCK_DELETE) {
        oned.dropNet(net);
      }
    }
    for (const image of oned.world.all<Img>("IMAGE")) {
      oned.finishImage(image);
      if (image.state === 7) {
        oned.world.remove(image);
      }
    }
    for (const machine of oned.world.all<Machine>("VM")) {
      const wanted = /state ([A-Z_]+)/.exec(refused)?.[1];
      const [, state, lcm] = STATES.find(([stateName]) => stateName === wanted) ?? [];
      if (state !== undefined && args.includes(machine.id)) {
        Object.assign(machine, { state, lcm });
      } else if (machine.state === VM.PENDING) {
        Object.assign(machine, { state: VM.ACTIVE, lcm: 3, host: 0 });
      } else if (machine.state === VM.ACTIVE && machine.lcm !== 3 && machine.lcm !== 36) {
        const rest = RESTS.get(machine.lcm);
        if (machine.lcm === 11 || machine.lcm === 12) {
          oned.done(machine);
        } else if (rest !== undefined) {
          Object.assign(machine, { state: rest, lcm: 0 });
        } else {
          machine.lcm = 3;
        }
      }
    }
  }

  /** What a user's own list doesn't have any more was taken away by a call that wasn't recorded. */
  function forgetUnlisted(
    root: string,
    method: string,
    args: readonly unknown[],
    of: (kind: string) => readonly XmlElement[],
  ) {
    const isWhole = args[1] === -3 && args[2] === -1 && args[3] === -1 && (args[4] === undefined || args[4] === -1);
    if (!isWhole) {
      return;
    }
    const listed = (kind: string) => new Set(of(kind).map((one) => Number(textOf(element(one, "ID")))));
    const gone = <T extends Thing>(kind: Kind, name: string) =>
      root === `${name}_POOL`
        ? oned.world.all<T>(kind).filter(({ id, uid }) => uid === 2 && !listed(name).has(id))
        : [];
    for (const machine of gone<Machine>("VM", "VM").filter(({ state }) => state !== VM.DONE && /pool/.test(method))) {
      oned.done(machine);
    }
    for (const thing of [...gone("IMAGE", "IMAGE"), ...gone("TEMPLATE", "VMTEMPLATE")]) {
      oned.world.remove(thing);
    }
    for (const net of gone<Net>("NET", "VNET")) {
      oned.dropNet(net);
    }
  }

  /** Puts objects that a document shows into the states in which it shows them. */
  function follow(document: string, method: string, args: readonly unknown[]): void {
    const root = parseXml(document);
    const [first = ""] = Object.keys(root);
    const of = (kind: string) =>
      first === kind ? elements(root, kind) : elements(element(root, `${kind}_POOL`), kind);
    forgetUnlisted(first, method, args, of);
    for (const vm of of("VM")) {
      const machine = oned.world.find<Machine>("VM", Number(textOf(element(vm, "ID"))));
      const [state, lcm] = ["STATE", "LCM_STATE"].map((name) => Number(textOf(element(vm, name)))) as [number, number];
      if (!machine) {
        continue;
      }
      if (state === VM.DONE && machine.state !== VM.DONE) {
        oned.done(machine);
      }
      Object.assign(machine, { state, lcm });
      machine.host ??= state === VM.ACTIVE ? 0 : undefined;
      if (machine.host !== undefined) {
        hosted(machine);
      }
      for (const [index, nic] of elements(element(vm, "TEMPLATE"), "NIC").entries()) {
        dealAs(machine, index, textOf(element(nic, "IP")), textOf(element(nic, "MAC")));
      }
      for (const name of ["ERROR", "SCHED_MESSAGE"]) {
        const text = textOf(element(vm, "USER_TEMPLATE", name));
        if (text) {
          machine.user.set(name, [text]);
        }
      }
    }
    for (const vnet of of("VNET")) {
      const net = oned.world.find<Net>("NET", Number(textOf(element(vnet, "ID"))));
      const state = Number(textOf(element(vnet, "STATE")));
      if (net && state !== NET.LOCK_CREATE) {
        oned.finishNet(net);
        if (net.state !== NET.LOCK_DELETE) {
          net.state = state;
        }
      }
    }
    for (const shown of of("IMAGE")) {
      const image = oned.world.find<Img>("IMAGE", Number(textOf(element(shown, "ID"))));
      const state = Number(textOf(element(shown, "STATE")));
      if (image && image.state === 4 && state !== 4) {
        oned.finishImage(image);
      }
      if (image && state === 1) {
        for (const machine of oned.world.all<Machine>("VM").filter(({ lcm, id }) => lcm === 12 && image.vms.has(id))) {
          oned.done(machine);
        }
      }
      if (image && state === 2 && image.state === 1) {
        image.state = 2;
      }
    }
  }

  /** Gives a machine the address that it got: which comes next round a range depends on machines that weren't recorded. */
  function dealAs(machine: Machine, index: number, ip: string, mac: string): void {
    const nic = machine.nics[index];
    const before = nic?.get("IP");
    if (!nic || before === undefined || before === ip) {
      return;
    }
    const holder = `VM ${machine.id}`;
    for (const { leases } of oned.world.find<Net>("NET", Number(nic.get("NETWORK_ID")))?.ranges ?? []) {
      if (leases.get(before) === holder) {
        leases.delete(before);
        leases.set(ip, holder);
      }
    }
    nic.set("IP", ip).set("MAC", mac);
    for (const [name, value] of machine.context ?? []) {
      machine.context?.set(name, value.replace(before, ip));
    }
    machine.context?.set(`ETH${index}_MAC`, mac);
  }

  /** What isn't asked about again comes to its end at once. */
  function settle(method: string, args: readonly unknown[]): void {
    if (method === "one.datastore.allocate" || method === "one.vn.chmod") {
      settleAll();
    }
    const machine = method === "one.vm.action" ? oned.world.find<Machine>("VM", Number(args[2])) : undefined;
    if (args[1] === "resume" && (machine?.state === VM.SUSPENDED || machine?.state === VM.POWEROFF)) {
      // It goes on a moment after the answer.
      Object.assign(machine, { state: VM.ACTIVE, lcm: 3 });
    }
  }
});

/** Replayed and not compared, each for one of these reasons. */
const UNCOMPARED = new Set(
  [
    // Machines, leases and tags that calls have made which weren't recorded: counts and lists differ. The driver finds
    // its own by their tags.
    "191 205 207 212 215 218 252 257 278 345 346",
    // States that an image had between two recorded calls, and one time-out. The fault tests have such states.
    "276 277 295",
    // Which range a reservation comes from that names none: the driver names range and address.
    "077 091 093",
    // What the stand-in doesn't model: attributes from datastore drivers, snapshots, templates that were cloned,
    // the default security group. The driver reads none of them.
    "029 265 270 289 307 317",
    // A login token that the recorded one had made: a stand-in makes another.
    "288",
  ].flatMap((numbers) => numbers.split(" ").map(Number)),
);

const HEAD = '<?xml version="1.0" encoding="UTF-8"?>\r\n<methodResponse>\r\n';
/** Parts of OpenNebula that no driver of ours uses. */
const UNKNOWN_HERE = /^one\.(secgroup|vmpool\.monitoring|vm\.monitoring|hostpool|system\.config)/;

const MAKES: Readonly<Record<string, Kind>> = {
  "one.vn.allocate": "NET",
  "one.vn.reserve": "NET",
  "one.vntemplate.instantiate": "NET",
  "one.image.allocate": "IMAGE",
  "one.image.clone": "IMAGE",
  "one.vm.allocate": "VM",
  "one.template.instantiate": "VM",
  "one.template.allocate": "TEMPLATE",
};

const STATES: ReadonlyArray<readonly [string, number, number]> = [
  ["HOLD", 2, 0],
  ["POWEROFF", 8, 0],
  ["SHUTDOWN_POWEROFF", 3, 18],
  ["SHUTDOWN", 3, 12],
];

/** Where a machine comes to rest that is on its way there. */
const RESTS: ReadonlyMap<number, number> = new Map([
  [5, VM.STOPPED],
  [6, VM.SUSPENDED],
  [18, VM.POWEROFF],
  [30, VM.UNDEPLOYED],
]);

/** Of a user only the quotas that name an object; how much space is used depends on files that only the real one had. */
function quotasIn(user: string): string {
  const [quotas = ""] = /<DATASTORE_QUOTA>.*?<\/NETWORK_QUOTA>/s.exec(user) ?? [];
  return `<QUOTAS>${quotas.replaceAll(/<SIZE_USED>.*?<\/SIZE_USED>/gs, "")}</QUOTAS>`;
}

interface Result {
  readonly kind: "ok" | "refused" | "fault";
  readonly value: string;
}

function resultOf(body: string): Result {
  const root = element(parseXml(body), "methodResponse");
  if (element(root, "fault")) {
    return { kind: "fault", value: body };
  }
  const [done, value] = elements(element(root, "params", "param", "value", "array", "data"), "value");
  const text = textOf(element(value, "string") ?? element(value, "i4"));
  return { kind: textOf(element(done, "boolean")) === "1" ? "ok" : "refused", value: text };
}

function short(body: string): string {
  return resultOf(body).value.slice(0, 300);
}

/** The first place where two documents differ, in their very text but for what is volatile. */
function differenceOf(was: string, now: string): string | undefined {
  const [one, other] = [was, now].map((text) =>
    text
      .replaceAll(LEFT_OUT, "")
      .split(/(?=<(?!!\[CDATA))/)
      .map((piece) => {
        const [, name = ""] = /^<([A-Z0-9_]+)>/.exec(piece) ?? [];
        return VOLATILE.test(name) ? `<${name}>…` : piece;
      }),
  ) as [string[], string[]];
  const at = one.findIndex((piece, index) => piece !== other[index]);
  if (at < 0 && one.length === other.length) {
    return undefined;
  }
  const around = (pieces: string[]) => pieces.slice(Math.max(0, at - 2), at + 3).join("");
  return `\n  was …${around(one)}…\n  is  …${around(other)}…`;
}
