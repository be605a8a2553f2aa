import { expect } from "chai";
import { InvalidImage } from "../../provider/src/drivers/errors";
import { parseVcIn } from "../../provider/src/images/repository/vc-in";
import { file, vcIn } from "./image-folder";

const NIC = '<interface type="network"><model type="virtio"/></interface>';

describe("a vc-in.xml", () => {
  const diskOf = (text: string) => parseVcIn(text, "here").frontend.disk;
  const packed = (name: string, isGzip: boolean, ...parts: string[]) => ({ name, isGzip, parts });

  it("says by each of its forms how a disk is packed", () => {
    const disk = "d.raw";
    const splitGzip = file("splited_gzip", disk, "d.gz.a", "d.gz.b");
    const forms: ReadonlyArray<readonly [string, ReturnType<typeof packed>]> = [
      [vcIn({ disk }), packed(disk, false, disk)],
      [vcIn({ disk: "d.raw.gz" }), packed("d.raw.gz", true, "d.raw.gz")],
      [vcIn({ disk, beside: file("raw", disk) }), packed(disk, false, disk)],
      [vcIn({ disk, beside: file("gzip", disk, "d.raw.gz") }), packed(disk, true, "d.raw.gz")],
      [vcIn({ disk, beside: file("splited", disk, "d.b", "d.a") }), packed(disk, false, "d.b", "d.a")],
      [vcIn({ disk, beside: splitGzip }), packed(disk, true, "d.gz.a", "d.gz.b")],
      [vcIn({ disk }, undefined, `<files>${splitGzip}</files>`), packed(disk, true, "d.gz.a", "d.gz.b")],
      // Both, for tools of all years; and inside the domain, where some wrote it.
      [
        vcIn({ disk, beside: splitGzip }, undefined, `<files>${splitGzip}</files>`),
        packed(disk, true, "d.gz.a", "d.gz.b"),
      ],
      [vcIn({ disk, domain: `<x>${splitGzip}</x>` }), packed(disk, true, "d.gz.a", "d.gz.b")],
      [vcIn({ disk, beside: "<file type='gzip'><part>d.raw.gz</part></file>" }), packed(disk, true, "d.raw.gz")],
    ];
    for (const [text, expected] of forms) {
      expect(diskOf(text), text).to.deep.equal(expected);
    }
  });

  it("may list files that are no disks, and leave out a name that the part tells, as PRAGMA's own example does", () => {
    const files = `<files>
      ${file("splited_gzip", "fe.raw", "fe.raw.gz.a", "fe.raw.gz.b")}
      <file type="gzip"><part>node.raw.gz</part></file>
      <file type="raw"><part>dummy.py</part></file>
      ${file("splited", "copy.raw", "copy.raw.a", "copy.raw.b")}
    </files>`;
    const { frontend, compute } = parseVcIn(vcIn({ disk: "fe.raw" }, { disk: "node.raw" }, files), "here");
    expect(frontend.disk).to.deep.equal(packed("fe.raw", true, "fe.raw.gz.a", "fe.raw.gz.b"));
    expect(compute.disk).to.deep.equal(packed("node.raw", true, "node.raw.gz"));
  });

  it("gives computes the packing of the frontend's disk where that is theirs", () => {
    const text = vcIn({ disk: "d.raw", beside: file("gzip", "d.raw", "d.raw.gz") }, { disk: "d.raw" });
    expect(parseVcIn(text, "here").compute.disk).to.deep.equal(packed("d.raw", true, "d.raw.gz"));
  });

  it("says what machines it asks for, their NICs, waits and network", () => {
    const shape = (memory: string) => `<memory ${memory}</memory><vcpu placement="static">3</vcpu>`;
    const network = `<networks><network name="private"><ipaddress>10.1.1.1</ipaddress><netmask>255.255.0.0</netmask></network>
      <frontend><public>eth1</public></frontend></networks>`;
    const text = vcIn(
      { domain: `${shape(">2097152")}` },
      { beside: '<boot_dependency parent="frontend"><wait type="clock" value="300"/></boot_dependency>' },
      network,
    ).replace("</devices>", `${NIC}${NIC}</devices>`);
    const { frontend, compute, ...rest } = parseVcIn(text, "here");
    expect(frontend).to.deep.include({ nics: 2, shape: { cpus: 3, memory: 2048 } });
    expect(compute).to.deep.include({ nics: 0, wait: 300, shape: { cpus: 1, memory: 512 } });
    expect(rest).to.deep.equal({
      hasCompute: true,
      privateNetwork: { ipAddress: "10.1.1.1", netmask: "255.255.0.0" },
      publicInterface: "eth1",
    });
    const memories = [
      'unit="GiB">2',
      'unit="MiB">2048',
      'unit="bytes">2147483648',
      'unit="b">2147483648',
      'unit="G">2',
    ];
    for (const memory of memories) {
      expect(parseVcIn(vcIn({ domain: shape(memory) }), "here").frontend.shape.memory, memory).to.equal(2048);
    }
    expect(parseVcIn(vcIn({ domain: shape('unit="KB">1000000') }), "here").frontend.shape.memory).to.equal(954);
  });

  const disk = "d.raw";
  const twice = (element: string) => vcIn({ domain: element + element });
  const wrong: Record<string, readonly [string, RegExp]> = {
    "a ZFS volume": [
      vcIn().replace('file="frontend.raw"', 'volume="vc-fe" pool="tank" host="nas"'),
      /frontend's disk is the ZFS volume "vc-fe": |ZFS volume "vc-fe"\. Only files/,
    ],
    "an unknown packing": [
      vcIn({ disk, beside: file("bzip2", disk, "x") }),
      /<file> of d\.raw has type "bzip2".*splited/,
    ],
    "a split disk without parts": [vcIn({ disk, beside: file("splited", disk) }), /has no <part>/],
    "a packed disk without its file": [vcIn({ disk, beside: file("gzip", disk) }), /has no <part>/],
    "a packed disk in two files": [vcIn({ disk, beside: file("gzip", disk, "a", "b") }), /2 parts and type "gzip"/],
    "an empty part": [vcIn({ disk, beside: file("splited", disk, "a", "") }), /empty <part>/],
    "a part twice": [vcIn({ disk, beside: file("splited", disk, "a", "b", "a") }), /names a <part> twice/],
    "two packings": [
      vcIn({ disk, beside: file("gzip", disk, "a") }, undefined, `<files>${file("gzip", disk, "b")}</files>`),
      /d\.raw is described twice/,
    ],
    "the packing of another file": [
      vcIn({ disk, beside: file("gzip", "e.raw", "a") }),
      /is about another file than d\.raw/,
    ],
    "two memories": [twice("<memory>1</memory>"), /has 2 <memory> elements in frontend/],
    "two vcpus": [twice("<vcpu>1</vcpu>"), /has 2 <vcpu> elements in frontend/],
    "two frontends": [vcIn().replace(/(<frontend>.*<\/frontend>)/, "$1$1"), /has 2 <frontend> elements/],
    "two domains": [vcIn().replace(/(<domain.*<\/domain>)/, "$1$1"), /has 2 <domain> elements in frontend/],
    "two sources": [vcIn().replace(/(<source[^>]*>)/, "$1$1"), /has 2 <source> elements/],
    "two private networks": [
      vcIn({}, undefined, '<networks><network name="private"/><network name="private"/></networks>'),
      /2 private networks/,
    ],
    "no whole cpus": [vcIn({ domain: "<vcpu>1.5</vcpu>" }), /frontend's <vcpu> is "1\.5"/],
    "cpus beyond reason": [vcIn({ domain: "<vcpu>1000000</vcpu>" }), /frontend's <vcpu>/],
    "an unknown unit": [vcIn({ domain: '<memory unit="PiP">1</memory>' }), /<memory> is "1" in "PiP"/],
    "memory that is no number": [vcIn({ domain: "<memory>much</memory>" }), /<memory> is "much"/],
    "a wait of another kind": [
      vcIn({}, { beside: "<boot_dependency><wait type='moon' value='1'/></boot_dependency>" }),
      /compute's boot_dependency\/wait is "1" of type "moon"/,
    ],
    "what moves a terminal's cursor": [vcIn({ domain: "<vcpu>\u001b[2J</vcpu>" }), /has control characters/],
    "a document type": [`<!DOCTYPE vc [<!ENTITY a "b">]>${vcIn()}`, /document type or entities/],
    "elements within elements without end": [`${"<a>".repeat(50_000)}${"</a>".repeat(50_000)}`, /./],
    "parts within parts without end": [vcIn({ beside: `${"<a>".repeat(20_000)}${"</a>".repeat(20_000)}` }), /./],
    "the names of objects of this program": [vcIn({ beside: "<__proto__><file/></__proto__>" }), /./],
  };
  for (const [what, [text, message]] of Object.entries(wrong)) {
    it(`is refused with ${what}`, () => {
      expect(() => parseVcIn(text, "here"))
        .to.throw(InvalidImage, message)
        .with.property("message")
        .that.matches(/^here: [^\n]*$/);
    });
  }
});
