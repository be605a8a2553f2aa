import { expect } from "chai";
import * as fc from "fast-check";
import {
  addressesOf,
  contains,
  fromNumber,
  hostAt,
  hostCount,
  isIpv4,
  macOf,
  overlap,
  subnet,
  subnetOf,
  toNumber,
} from "../../provider/src/plan/addresses";

const anyNumber = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const anyIp = anyNumber.map(fromNumber);
const anySubnet = fc.tuple(anyIp, fc.integer({ min: 8, max: 30 })).map(([ip, prefix]) => subnet(`${ip}/${prefix}`));

describe("addresses", () => {
  it("are the same after a round trip through a number", () => {
    fc.assert(
      fc.property(anyNumber, (value) => {
        expect(toNumber(fromNumber(value))).to.equal(value);
        expect(isIpv4(fromNumber(value))).to.equal(true);
      }),
    );
  });

  it("are refused in any other writing than four decimal parts", () => {
    for (const text of [
      "",
      "1.2.3",
      "1.2.3.4.5",
      "256.1.1.1",
      "01.2.3.4",
      "0x7f.1",
      "1.2.3.4 ",
      " 1.2.3.4",
      "::1",
      "1.2.3.4\n",
    ]) {
      expect(isIpv4(text), JSON.stringify(text)).to.equal(false);
    }
  });

  it("have each a MAC of their own, in lower case, unicast and administered locally", () => {
    fc.assert(
      fc.property(anyIp, anyIp, (one, other) => {
        expect(macOf(one) === macOf(other)).to.equal(one === other);
        expect(macOf(one)).to.match(/^02(:[0-9a-f]{2}){5}$/);
      }),
    );
  });
});

describe("subnet", () => {
  it("begins at its network address", () => {
    expect(subnet("192.0.2.77/24")).to.deep.equal({
      cidr: "192.0.2.0/24",
      network: "192.0.2.0",
      netmask: "255.255.255.0",
      prefix: 24,
    });
  });

  it("is the same by prefix and by netmask", () => {
    fc.assert(
      fc.property(anySubnet, (net) => {
        expect(subnetOf(net.network, net.netmask)).to.deep.equal(net);
      }),
    );
  });

  it("holds its hosts and nothing beside them", () => {
    fc.assert(
      fc.property(anySubnet, (net) => {
        const [first, last] = [hostAt(net, 1), hostAt(net, -1)];
        expect(contains(net, first) && contains(net, last)).to.equal(true);
        expect(toNumber(last) - toNumber(first) + 1).to.equal(hostCount(net));
        expect(toNumber(first)).to.equal(toNumber(net.network) + 1);
        expect(contains(net, fromNumber((toNumber(last) + 2) % 2 ** 32))).to.equal(false);
      }),
    );
  });

  it("overlaps another exactly where they share an address", () => {
    fc.assert(
      fc.property(anySubnet, anySubnet, (one, other) => {
        const ends = ({ network, prefix }: typeof one) =>
          [toNumber(network), toNumber(network) + 2 ** (32 - prefix) - 1] as const;
        const [[a, b], [c, d]] = [ends(one), ends(other)];
        expect(overlap(one, other)).to.equal(a <= d && c <= b);
        expect(overlap(other, one)).to.equal(overlap(one, other));
        expect(overlap(one, one)).to.equal(true);
      }),
    );
  });

  it("refuses what isn't one", () => {
    for (const text of ["", "1.2.3.4", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3/24", "::/0", "1.2.3.4/24/8", "1.2.3.4/ 24"]) {
      expect(() => subnet(text), JSON.stringify(text)).to.throw(RangeError);
    }
    expect(() => subnetOf("192.0.2.1", "255.0.255.0")).to.throw(RangeError, "255.0.255.0");
  });
});

describe("addressesOf", () => {
  it("takes single addresses, ranges and subnets, in order, each once", () => {
    const list = ["192.0.2.9", "192.0.2.8-192.0.2.10", "198.51.100.0/30"];
    expect(addressesOf(list)).to.deep.equal(["192.0.2.9", "192.0.2.8", "192.0.2.10", "198.51.100.1", "198.51.100.2"]);
  });

  it("takes all of a subnet that has no network and broadcast address", () => {
    expect(addressesOf(["192.0.2.4/32"])).to.deep.equal(["192.0.2.4"]);
    expect(addressesOf(["192.0.2.4/31"])).to.deep.equal(["192.0.2.4", "192.0.2.5"]);
  });

  it("names the item that is wrong", () => {
    for (const item of [
      "nonsense",
      "192.0.2.9-192.0.2.8",
      "192.0.2.1-",
      "-192.0.2.1",
      "192.0.2.1-192.0.2.2-192.0.2.3",
      "192.0.2.0/40",
    ]) {
      expect(() => addressesOf(["192.0.2.1", item]), item).to.throw(RangeError, item);
    }
  });

  it("refuses a slip that would make millions", () => {
    expect(() => addressesOf(["0.0.0.0/0"])).to.throw(RangeError, "0.0.0.0/0");
    expect(() => addressesOf(["10.0.0.0/16", "10.1.0.0/16"])).to.throw(RangeError, "10.1.0.0/16");
  });
});
