import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { examineDisk } from "../../provider/src/images/examine";
import { debugfsTarget } from "../../provider/src/images/root/file-system";
import { makeFakeDisk } from "../conformance/fake-guest";

const MIB = 1024 * 1024;
/** As much of each original program as tells the dialects that it reads. */
const KNOWS_BOTH = `frontend = vc_out_xmlroot.find('./frontend')\ntry:\n  frontend.attrib["gw"]\nexcept:\n  frontend.find("public")\n`;
const KNOWS_A = `public_node = vc_out_xmlroot.findall('./frontend/public')[0]\ngw = public_node.attrib["gw"]\n`;
const DYNIP = "opt/rocks/lib/python2.6/site-packages/rocks/commands/reconfigure/__init__.py";

describe("what reads the network in an image", () => {
  let folder: string;
  let disk: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "reader-"));
    disk = join(folder, "disk.raw");
  });

  after(() => rm(folder, { recursive: true }));

  async function found(files: Readonly<Record<string, string>>, ...changes: string[]) {
    await makeFakeDisk(disk, { virtio: true, heedsPowerButton: false, files });
    for (const change of changes) {
      await execa("debugfs", ["-w", "-R", change, debugfsTarget(disk, MIB)]);
    }
    const { reads, vcOutDialect } = await examineDisk(disk);
    return { reads, vcOutDialect };
  }
  const vcOut = (vcOutDialect?: "A") => ({ reads: undefined, vcOutDialect });
  const other = (reads: string) => ({ reads, vcOutDialect: undefined });

  const cases: Record<string, [Record<string, string>, object]> = {
    "this project's guest program": [{ "usr/sbin/vc-guest": "#!/bin/sh\n" }, vcOut()],
    "this project's guest program beside cloud-init": [{ "usr/sbin/vc-guest": "", "usr/bin/cloud-init": "" }, vcOut()],
    "vc-out-parser of today": [{ "opt/vc-out-parser/vc-out-parser.py": KNOWS_BOTH }, vcOut()],
    "vc-out-parser of 2015": [{ "opt/vc-out-parse/vc-out-parser.py": KNOWS_A }, vcOut("A")],
    "dynip of Rocks 7": [{ [DYNIP.replace("2.6", "2.7")]: KNOWS_BOTH }, vcOut()],
    "dynip of Rocks 6": [{ [DYNIP]: KNOWS_A }, vcOut("A")],
    "a service of the image's own": [
      {
        "etc/systemd/system/my-cluster.service": "[Service]\nExecStart=/opt/mine /root/vc-out.xml\n",
        "usr/bin/cloud-init": "",
      },
      vcOut(),
    ],
    "a line in rc.local": [{ "etc/rc.local": "/opt/mine < /root/vc-out.xml\n" }, vcOut()],
    "cloud-init": [{ "usr/bin/cloud-init": "" }, other("cloud-init")],
    "nothing, cloud-init being switched off": [
      { "usr/bin/cloud-init": "", "etc/cloud/cloud-init.disabled": "" },
      other("files"),
    ],
    "nothing, whatever else its services do": [
      { "etc/systemd/system/cluster.service": "[Service]\nExecStart=/bin/true\n" },
      other("files"),
    ],
    "nothing in an empty one": [{}, other("files")],
  };
  for (const [what, [files, expected]] of Object.entries(cases)) {
    it(`is ${what}`, async () => {
      expect(await found(files)).to.deep.equal(expected);
    });
  }

  it("is found where folders are links to others, as /lib is to /usr/lib", async () => {
    const files = { "usr/bin/vc-guest": "", name: "" };
    expect(await found(files, "symlink /usr/sbin bin")).to.deep.equal(vcOut());
  });

  it("is looked for inside the image only, where links lead out of it", async () => {
    expect(await found({ "opt/mine/x": "" }, "symlink /usr ../../../../../usr", "symlink /etc /etc")).to.deep.equal(
      other("files"),
    );
  });

  it("may be as large as it wants: no more than its beginning is read", async () => {
    const unit = `${"#".repeat(9 * MIB)}\n/root/vc-out.xml\n`;
    expect(await found({ "etc/rc.local": unit })).to.deep.equal(other("files"));
  });

  it("sees whether something takes the file from OpenNebula's context disc", async () => {
    const seen = async (files: Readonly<Record<string, string>>) => {
      await makeFakeDisk(disk, { virtio: true, heedsPowerButton: false, files });
      const { takesContext, reportsReady } = await examineDisk(disk);
      return [takesContext, reportsReady];
    };
    const oneContext = { "etc/one-context.d/loc-10-network": "", "usr/bin/cloud-init": "" };
    expect(await seen(oneContext)).to.deep.equal([true, true]);
    const program = await readFile(join(__dirname, "..", "..", "provider", "guest", "vc-guest"), "utf8");
    // It says nothing to OneGate.
    expect(await seen({ "usr/sbin/vc-guest": program })).to.deep.equal([true, undefined]);
    expect(await seen({ ...oneContext, "usr/sbin/vc-guest": program })).to.deep.equal([true, true]);
    // One from before it knew the disc.
    const none = [undefined, undefined];
    expect(await seen({ "usr/sbin/vc-guest": "#!/bin/sh\n#   vc-guest replace\n" })).to.deep.equal(none);
    expect(await seen({ "usr/bin/cloud-init": "" })).to.deep.equal(none);
  });
});
