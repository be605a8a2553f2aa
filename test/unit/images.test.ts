import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { InvalidImage, NotFound, VirtualClusterError } from "../../provider/src/drivers/errors";
import { fetchImage } from "../../provider/src/images/repository/fetch";
import { findImage, parseVcdb } from "../../provider/src/images/repository/repository";
import { parseVcIn } from "../../provider/src/images/repository/vc-in";
import { parseXml } from "../../provider/src/images/xml";

const DISK = `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='frontend.raw'/><target dev='vda'/></disk>`;
const domain = (devices: string) => `<domain type='kvm'><name>x</name><devices>${devices}</devices></domain>`;
const vcIn = (parts: { virtualization?: string; frontend?: string; rest?: string } = {}) => `<?xml version='1.0'?>
<vc version='0.1'>
  ${parts.virtualization ?? "<virtualization engine='kvm' type='hvm' arch='x86_64'/>"}
  <driver>rocks6_client</driver>
  ${parts.frontend ?? `<frontend>${domain(DISK)}</frontend>`}
  ${parts.rest ?? ""}
</vc>`;

async function rejection(work: Promise<unknown>): Promise<VirtualClusterError> {
  return work.then(
    () => {
      throw new Error("it should have failed");
    },
    (error: VirtualClusterError) => error,
  );
}

describe("vc-in.xml", () => {
  it("names the disks and whether computes wait", () => {
    const compute = `<compute><boot_dependency parent='frontend'><wait type='clock' value='300'/></boot_dependency>
      ${domain(DISK.replace("frontend.raw", "compute.raw"))}</compute>`;
    const read = parseVcIn(vcIn({ rest: compute }), "here");
    expect([read.frontend.disk.name, read.compute.disk.name]).to.deep.equal(["frontend.raw", "compute.raw"]);
    expect(read.compute.wait).to.equal(300);
    expect(read).to.include({ hasCompute: true });
  });

  it("without a compute part boots computes from the frontend's disk", () => {
    const read = parseVcIn(vcIn(), "here");
    expect(read.compute).to.equal(read.frontend);
    expect(read).to.include({ hasCompute: false });
  });

  it("may have a CD drive beside the disk", () => {
    const drive = "<disk type='file' device='cdrom'><source file='install.iso'/></disk>";
    const text = vcIn({ frontend: `<frontend>${domain(drive + DISK)}</frontend>` });
    expect(parseVcIn(text, "here").frontend.disk.name).to.equal("frontend.raw");
  });

  const frontendWith = (devices: string) => vcIn({ frontend: `<frontend>${domain(devices)}</frontend>` });
  const wrong: Record<string, [string, RegExp]> = {
    "another document": ["<domain/>", /no <vc> element/],
    "no XML": ["name,path", /not well-formed/],
    "XML that is cut off": [vcIn().slice(0, -6), /not well-formed/],
    "no virtualization": [vcIn({ virtualization: "" }), /arch is missing/],
    "another architecture": [
      vcIn({ virtualization: "<virtualization engine='kvm' arch='aarch64'/>" }),
      /arch is "aarch64".*x86_64/,
    ],
    "another engine": [
      vcIn({ virtualization: "<virtualization engine='xen' arch='x86_64'/>" }),
      /engine is "xen".*kvm/,
    ],
    "no frontend": [vcIn({ frontend: "" }), /no <frontend>/],
    "no disk": [frontendWith(""), /frontend has 0 disks/],
    "two disks": [frontendWith(DISK + DISK), /frontend has 2 disks/],
    "a disk in another format": [frontendWith(DISK.replace("raw'", "qcow2'")), /type "qcow2".*raw/],
    "a disk without a file": [frontendWith("<disk device='disk'><driver type='raw'/></disk>"), /no source file/],
    "a compute without a disk": [vcIn({ rest: `<compute>${domain("")}</compute>` }), /compute has 0 disks/],
  };
  for (const [what, [text, message]] of Object.entries(wrong)) {
    it(`is refused with ${what}`, () => {
      expect(() => parseVcIn(text, "/images/vc-in.xml"))
        .to.throw(InvalidImage, message)
        .with.property("message")
        .that.matches(/^\/images\/vc-in\.xml: /);
    });
  }
});

describe("XML from elsewhere", () => {
  it("is refused with a document type, which is how small files become large", () => {
    const lol = `<!DOCTYPE v [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><v>&b;</v>`;
    expect(() => parseXml(lol)).to.throw(RangeError, "document type");
    expect(() => parseXml("<!doctype v SYSTEM 'file:///etc/passwd'><v/>")).to.throw(RangeError, "document type");
  });

  it("is refused when it is too large", () => {
    expect(() => parseXml(`<v>${" ".repeat(17 * 1024 * 1024)}</v>`)).to.throw(RangeError, "16 MiB");
  });

  it("is refused with names that would reach the objects of this program", () => {
    for (const name of ["constructor", "__proto__", "prototype"]) {
      expect(() => parseVcIn(vcIn({ rest: `<${name}><polluted>1</polluted></${name}>` }), "here"), name).to.throw(
        InvalidImage,
      );
    }
    expect(({} as Record<string, unknown>).polluted).to.equal(undefined);
  });
});

describe("vcdb.txt", () => {
  it("has a name and a path a line; all else is passed over", () => {
    const text =
      "demo,demo/vc-in.xml\r\n\n# comment,x\nno comma\nthree,parts,here\n spaced , a/b.xml \n,nothing\nnothing,\n";
    expect([...parseVcdb(text)]).to.deep.equal([
      ["demo", "demo/vc-in.xml"],
      ["spaced", "a/b.xml"],
    ]);
  });
});

describe("a repository", () => {
  let folder: string;
  let repository: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "repository-"));
    repository = join(folder, "images");
    await mkdir(join(repository, "demo"), { recursive: true });
    await writeFile(join(repository, "vcdb.txt"), "zebra,zebra/vc-in.xml\ndemo,demo/vc-in.xml\n");
    await writeFile(join(repository, "demo", "vc-in.xml"), vcIn());
    await writeFile(join(repository, "demo", "frontend.raw"), "disk");
    await writeFile(join(folder, "secret"), "secret");
  });

  afterEach(() => rm(folder, { recursive: true }));

  it("gives the disks of an image as absolute paths", async () => {
    const disk = join(repository, "demo", "frontend.raw");
    const found = await findImage(repository, "demo");
    expect(found.frontend).to.equal(found.compute).and.to.deep.include({ name: "frontend.raw", size: 4 });
    expect(await fetchImage(found, () => undefined)).to.deep.include({
      vcName: "demo",
      frontendDisk: disk,
      computeDisk: disk,
    });
  });

  it("may itself be a symbolic link", async () => {
    await symlink(repository, join(folder, "link"));
    expect((await findImage(join(folder, "link"), "demo")).vcName).to.equal("demo");
  });

  it("lists the names it knows when it is asked for another", async () => {
    const error = await rejection(findImage(repository, "dmeo"));
    expect(error).to.be.instanceOf(NotFound);
    expect(error.message).to.match(/"dmeo".*demo, zebra/);
  });

  it("is named when it isn't there", async () => {
    const missing = join(folder, "nowhere");
    expect((await rejection(findImage(missing, "demo"))).message).to.include(missing);
  });

  it("may have a manifest that says how its nodes get to know their network", async () => {
    const manifest = join(repository, "demo", "manifest.json");
    const said = async (content: unknown) => {
      await writeFile(manifest, typeof content === "string" ? content : JSON.stringify(content));
      return (await findImage(repository, "demo")).manifest;
    };
    try {
      expect(await said({ reads: "cloud-init", recipe: "x" })).to.deep.equal({ reads: "cloud-init" });
      expect(await said({ vcOutDialect: "A", reads: "vc-out.xml" })).to.deep.equal({
        vcOutDialect: "A",
        reads: "vc-out.xml",
      });
      for (const [content, value] of [
        [{ reads: "dhcp" }, '"dhcp"'],
        [{ vcOutDialect: "b" }, '"b"'],
        [[], "is []"],
        ["{", "not JSON"],
      ] as const) {
        const error = await rejection(said(content));
        expect(error).to.be.instanceOf(InvalidImage);
        expect(error.message).to.include(value).and.include("manifest.json");
      }
      await rm(manifest);
      await symlink("../../../etc/passwd", manifest);
      expect(await rejection(findImage(repository, "demo"))).to.be.instanceOf(VirtualClusterError);
    } finally {
      await rm(manifest);
    }
    expect((await findImage(repository, "demo")).manifest).to.deep.equal({});
  });

  it("names the file that an image lacks", async () => {
    await rm(join(repository, "demo", "frontend.raw"));
    const error = await rejection(findImage(repository, "demo"));
    expect(error).to.be.instanceOf(NotFound);
    expect(error.message).to.include("frontend.raw");
    expect((await rejection(findImage(repository, "zebra"))).message).to.include("zebra/vc-in.xml");
  });

  it("is refused with a file that is absurdly large", async () => {
    await truncate(join(repository, "vcdb.txt"), 2 * 1024 * 1024);
    expect(await rejection(findImage(repository, "demo"))).to.be.instanceOf(InvalidImage);
  });

  const escapes: Record<string, () => Promise<string>> = {
    "a path upwards": async () => "../../secret",
    "a path upwards after a detour": async () => "../demo/../../secret",
    "an absolute path": async () => join(folder, "secret"),
    "a symbolic link": async () => {
      await symlink(join(folder, "secret"), join(repository, "demo", "link"));
      return "link";
    },
    "a linked folder": async () => {
      await symlink(folder, join(repository, "demo", "up"));
      return "up/secret";
    },
    "a control character": async () => "secret\nx",
  };
  for (const [what, makeName] of Object.entries(escapes)) {
    it(`can't be left by a disk with ${what}`, async () => {
      const text = vcIn().replace("frontend.raw", await makeName());
      await writeFile(join(repository, "demo", "vc-in.xml"), text);
      const error = await rejection(findImage(repository, "demo"));
      expect(error).to.be.instanceOf(InvalidImage);
    });
  }

  it("can't be left by its list of names", async () => {
    await writeFile(join(repository, "vcdb.txt"), "demo,../secret\n");
    expect(await rejection(findImage(repository, "demo"))).to.be.instanceOf(InvalidImage);
  });
});
