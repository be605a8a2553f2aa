import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { contextDisc } from "./context-disc";
import { Machine } from "./guest-machine";

const base64 = (text: string) => Buffer.from(text).toString("base64");

describe("the guest program and OpenNebula's context disc", () => {
  let machine: Machine;
  let vcOut: string;

  beforeEach(async () => {
    machine = await Machine.make("B-frontend");
    vcOut = await machine.read("root/vc-out.xml");
    await rm(join(machine.root, "root", "vc-out.xml"));
    await mkdir(join(machine.root, "sys", "class", "block", "vda"), { recursive: true });
    await writeFile(join(machine.root, "dev", "vda"), Buffer.alloc(64 * 1024, "no disc "));
  });

  afterEach(() => rm(machine.root, { recursive: true }));

  async function insert(variables: Record<string, string>): Promise<void> {
    await mkdir(join(machine.root, "sys", "class", "block", "sr0"), { recursive: true });
    await writeFile(join(machine.root, "dev", "sr0"), contextDisc(variables));
  }

  it("takes the vc-out.xml and the keys at boot, and configures the machine from them", async () => {
    await insert({
      ETH0_IP: "10.1.1.1",
      SSH_PUBLIC_KEY: "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two",
      VC_OUT_XML_BASE64: base64(vcOut),
      VC_ROOT_KEY_BASE64: base64("private\n"),
      VC_ROOT_PUBLIC_KEY_BASE64: base64("ssh-ed25519 CCCC\n"),
      VC_HOST_KEY_BASE64: base64("host\n"),
      VC_HOST_PUBLIC_KEY_BASE64: base64("ssh-ed25519 DDDD\n"),
    });
    const { output, failed } = await machine.run("boot");
    expect(failed, output).to.equal(false);
    expect(await machine.read("root/vc-out.xml")).to.equal(vcOut);
    expect(await machine.read("root/.ssh/id_ed25519")).to.equal("private\n");
    expect(await machine.read("etc/ssh/ssh_host_ed25519_key")).to.equal("host\n");
    expect(await machine.status()).to.deep.include({ role: "frontend" });
  });

  it("takes what is new when the disc is made anew, and nothing twice", async () => {
    await insert({ VC_OUT_XML_BASE64: base64(vcOut) });
    await machine.run("boot");
    expect((await machine.run("context")).output).to.equal("");
    const changed = vcOut.replace("</vc>", "<!-- changed --></vc>");
    await insert({ VC_OUT_XML_BASE64: base64(changed) });
    await machine.run("context");
    expect(await machine.read("root/vc-out.xml")).to.equal(changed);
  });

  it("runs nothing that stands on the disc, and takes nothing else of it", async () => {
    await insert({
      START_SCRIPT: "touch /hurt",
      VC_OUT_XML_BASE64: `$(touch ${machine.root}/hurt)`,
      VC_ROOT_KEY_BASE64: "not base64!",
      VC_ETC_PASSWD_BASE64: base64("root::0:0"),
    });
    await machine.run("context");
    for (const path of ["hurt", "root/vc-out.xml", "etc/vc/id_ed25519"]) {
      expect(await machine.read(path).catch(() => "none"), path).to.equal("none");
    }
  });

  it("does nothing where there is no such disc", async () => {
    expect((await machine.run("context")).output).to.equal("");
  });
});
