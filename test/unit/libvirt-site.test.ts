import { expect } from "chai";
import { Contradiction } from "../../provider/src/drivers/errors";
import { describePublicNetwork, publicAddressesOf } from "../../provider/src/drivers/libvirt/site";
import { parseNetwork } from "../../provider/src/drivers/libvirt/xml";
import type { LibvirtSettings } from "../../provider/src/drivers/settings";

const NETWORK = parseNetwork(`<network>
  <name>campus</name>
  <bridge name="campus"/>
  <ip address="192.168.122.1" netmask="255.255.255.0"/>
</network>`);

function describeWith(given: Partial<LibvirtSettings>) {
  const settings: LibvirtSettings = { driver: "libvirt", ...given };
  const network = describePublicNetwork(NETWORK, settings);
  return { network, addresses: publicAddressesOf(NETWORK, network, settings) };
}

describe("the public network of a libvirt site", () => {
  it("is what libvirt says, and hands out all but the gateway", () => {
    const { network, addresses } = describeWith({});
    expect(network).to.deep.include({ cidr: "192.168.122.0/24", gateway: "192.168.122.1" });
    expect(addresses).to.have.length(253);
    expect(describeWith({ publicAddresses: ["192.168.122.0/30"] }).addresses).to.deep.equal(["192.168.122.2"]);
  });

  it("stays what libvirt says where only a gateway is said, so that a stray one shows", () => {
    const { network } = describeWith({ gateway: "192.0.2.1" });
    expect(network).to.deep.include({ cidr: "192.168.122.0/24", gateway: "192.0.2.1" });
  });

  it("is that of a gateway which is said with its netmask", () => {
    const { network, addresses } = describeWith({ gateway: "192.0.2.1", netmask: "255.255.255.128" });
    expect(network).to.deep.include({ cidr: "192.0.2.0/25", gateway: "192.0.2.1" });
    expect(addresses).to.include("192.0.2.126").and.not.include("192.0.2.127");
  });

  for (const stray of ["192.0.2.7", "192.168.122.0", "192.168.122.255"]) {
    it(`hands out no ${stray}, which no host of it can have`, () => {
      expect(() => describeWith({ publicAddresses: ["192.168.122.9", stray] }))
        .to.throw(Contradiction, `site.publicAddresses ${stray}:`)
        .with.property("property", "site");
    });
  }
});
