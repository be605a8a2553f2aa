import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { NotFound, type VirtualClusterError } from "../../provider/src/drivers/errors";
import { findPublicKey, parsePublicKey } from "../../provider/src/resources/public-key";

const TYPES: ReadonlyArray<readonly string[]> = [
  ["ed25519"],
  ["rsa", "-b", "2048"],
  ["ecdsa", "-b", "256"],
  ["ecdsa", "-b", "521"],
];

describe("a public key", () => {
  let folder: string;
  let text: string;
  let privateText: string;
  const environment = { HOME: process.env.HOME, VIRTUAL_CLUSTER_HOME: process.env.VIRTUAL_CLUSTER_HOME };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "keys-"));
    for (const [index, type] of TYPES.entries()) {
      const file = join(folder, `key-${index}`);
      await execa("ssh-keygen", ["-q", "-N", "", "-C", "a comment", "-f", file, "-t", ...type], { stdin: "ignore" });
    }
    text = (await readFile(join(folder, "key-0.pub"), "utf8")).trim();
    privateText = await readFile(join(folder, "key-0"), "utf8");
  });

  afterEach(() => {
    for (const [name, value] of Object.entries(environment)) {
      if (value === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = value;
      }
    }
  });

  after(() => rm(folder, { recursive: true }));

  const refusal = (given: string, origin?: string): VirtualClusterError => {
    try {
      parsePublicKey(given, origin);
    } catch (error) {
      return error as VirtualClusterError;
    }
    throw new Error("it should have been refused");
  };

  for (const [index, type] of TYPES.entries()) {
    it(`of type ${type.join(" ")} is taken as ssh-keygen wrote it`, async () => {
      const written = await readFile(join(folder, `key-${index}.pub`), "utf8");
      expect(parsePublicKey(written)).to.equal(written.trim());
    });
  }

  it("needs no comment", () => {
    const bare = text.split(" ").slice(0, 2).join(" ");
    expect(parsePublicKey(bare)).to.equal(bare);
  });

  it("is refused when it is the private one, which isn't repeated", () => {
    const error = refusal(privateText, "/home/me/.ssh/id");
    expect(error.message)
      .to.match(/is a private key.*\.pub/)
      .and.include("/home/me/.ssh/id");
    expect(error.message).to.not.include(privateText.split("\n")[1]);
    expect(error.property).to.equal("publicKey");
  });

  const malformed: Record<string, () => string> = {
    "is empty": () => "",
    "is some text": () => "my key",
    "has an unknown type": () => text.replace("ssh-ed25519", "ssh-dss"),
    "says another type than its bytes": () => text.replace("ssh-ed25519", "ssh-rsa"),
    "is cut off in the middle": () => text.slice(0, 50),
    "has nothing behind its type": () => "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    "lacks its last bytes": () =>
      text
        .split(" ")
        .map((part, index) => (index === 1 ? part.slice(0, -4) : part))
        .join(" "),
    "has bytes too many": () =>
      text
        .split(" ")
        .map((part, index) => (index === 1 ? `${part}AAAA` : part))
        .join(" "),
    "has characters that aren't base64": () => text.replace("AAAAC3", "AAAAC3!!"),
    "has options before it": () => `command="rm -rf /" ${text}`,
    "is two keys": () => `${text}\n${text}`,
    "hides a second line in its comment": () => `${text}\r${text}`,
  };
  for (const [what, make] of Object.entries(malformed)) {
    it(`is refused when it ${what}`, () => {
      const error = refusal(make());
      expect(error.property).to.equal("publicKey");
      expect(error.message).to.match(/^publicKey: .*\.$/);
    });
  }

  it("is this user's where none is given: ed25519 before rsa, then the quickstart's", async () => {
    const [ours, quickstarts] = [join(folder, "home"), join(folder, "virtual-cluster")];
    process.env.HOME = ours;
    process.env.VIRTUAL_CLUSTER_HOME = quickstarts;
    const missing = await findPublicKey().catch((error: unknown) => error);
    expect(missing).to.be.instanceOf(NotFound);
    expect((missing as VirtualClusterError).message).to.include("ssh-keygen -t ed25519");

    const rsa = await readFile(join(folder, "key-1.pub"), "utf8");
    await mkdir(quickstarts);
    await writeFile(join(quickstarts, "id_ed25519.pub"), text);
    expect(await findPublicKey()).to.equal(text);
    await mkdir(join(ours, ".ssh"), { recursive: true });
    await writeFile(join(ours, ".ssh", "id_rsa.pub"), rsa);
    expect(await findPublicKey()).to.equal(rsa.trim());
    await writeFile(join(ours, ".ssh", "id_ed25519.pub"), text.replace("a comment", "mine"));
    expect(await findPublicKey()).to.include("mine");
  });
});
