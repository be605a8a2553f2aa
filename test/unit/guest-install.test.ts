import { access, lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { GUEST_FOLDER } from "./guest-machine";

const WANTED = "etc/systemd/system/multi-user.target.wants/vc-guest.service";

describe("the guest program's installer", () => {
  let tree: string;
  const exists = (path: string) =>
    lstat(join(tree, path)).then(
      () => true,
      () => false,
    );
  const folders = async (...paths: string[]) => {
    for (const path of ["etc", "usr/sbin", ...paths]) {
      await mkdir(join(tree, path), { recursive: true });
    }
  };
  const install = async () => {
    const { stdout, stderr } = await execa(join(GUEST_FOLDER, "install"), [tree]);
    return stdout + stderr;
  };
  const mode = async (path: string) => (await lstat(join(tree, path))).mode & 0o777;

  beforeEach(async () => {
    tree = await mkdtemp(join(tmpdir(), "guest-install-"));
  });
  afterEach(() => rm(tree, { recursive: true }));

  for (const folder of ["lib/systemd/system", "usr/lib/systemd/system"]) {
    it(`enables a service where systemd lies in /${folder}`, async () => {
      await folders(folder);
      await install();
      expect(await mode("usr/sbin/vc-guest")).to.equal(0o755);
      expect(await readFile(join(tree, "usr/sbin/vc-guest"), "utf8")).to.equal(
        await readFile(join(GUEST_FOLDER, "vc-guest"), "utf8"),
      );
      await access(join(tree, "usr/lib/vc/network-stacks"));
      // Through the link: it must lead to the unit inside the tree.
      expect(await readFile(join(tree, WANTED), "utf8")).to.include("ExecStart=/usr/sbin/vc-guest boot");
    });
  }

  it("starts before the network on Red Hat's System V init", async () => {
    await folders("etc/rc.d/init.d", "etc/rc.d/rc3.d");
    await symlink("rc.d/init.d", join(tree, "etc/init.d"));
    await install();
    for (const level of [2, 3, 4, 5]) {
      expect(await readlink(join(tree, `etc/rc.d/rc${level}.d/S09vc-guest`))).to.equal("../init.d/vc-guest");
    }
    const script = await readFile(join(tree, "etc/rc.d/init.d/vc-guest"), "utf8");
    expect(script)
      .to.match(/^# chkconfig: 2345 09 /m)
      .and.match(/^# Default-Start: +2 3 4 5$/m);
    expect(await mode("etc/rc.d/init.d/vc-guest")).to.equal(0o755);
  });

  it("starts right before the network on Debian's System V init", async () => {
    await folders("etc/init.d", "etc/rcS.d");
    await symlink("../init.d/networking", join(tree, "etc/rcS.d/S10networking"));
    await install();
    expect((await readdir(join(tree, "etc/rcS.d"))).sort()).to.deep.equal(["S09vc-guest", "S10networking"]);
    expect(await readFile(join(tree, "etc/init.d/vc-guest"), "utf8")).to.match(/^# Default-Start: +S$/m);
  });

  it("says what is left to do where it knows no init", async () => {
    await folders();
    expect(await install()).to.include("let its init run `/usr/sbin/vc-guest boot`");
    expect(await exists("usr/sbin/vc-guest")).to.equal(true);
  });

  it("does the same again, and doesn't write through what it finds", async () => {
    await folders("usr/lib/systemd/system");
    const outside = join(tree, "outside");
    await writeFile(outside, "as it was");
    await symlink(outside, join(tree, "usr/sbin/vc-guest"));
    await install();
    await install();
    expect(await readFile(outside, "utf8")).to.equal("as it was");
  });

  it("refuses a folder that is no root file system", async () => {
    const { exitCode, stderr } = await execa(join(GUEST_FOLDER, "install"), [tree], { reject: false });
    expect(exitCode).to.equal(1);
    expect(stderr).to.include("not a root file system");
  });

  it("installs a unit that systemd accepts", async function () {
    const unit = join(GUEST_FOLDER, "service", "vc-guest.service");
    const verified = await execa("systemd-analyze", ["verify", "--man=no", "--recursive-errors=no", unit], {
      reject: false,
    });
    if (verified.code === "ENOENT") {
      this.skip();
    }
    // The program itself is not installed here.
    const complaints = verified.stderr
      .split("\n")
      .filter((line) => line && !line.includes("/usr/sbin/vc-guest is not"));
    expect(complaints).to.deep.equal([]);
  });
});
