import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { home } from "../../provider/src/home";
import { kvmUsable } from "../../provider/src/kvm";
import { eventually } from "../eventually";
import { contextDisc } from "../unit/context-disc";
import { VC_OUT_SAMPLES } from "../unit/guest-machine";

const MACS = ["0a:64:33:80:00:03", "0a:64:33:80:00:04"];
const base64 = (text: string) => Buffer.from(text).toString("base64");

/** A machine with nothing on its disk but the demo image, and an OpenNebula's context disc in its drive. */
describe("a guest that is given its vc-out.xml on a context disc", function () {
  this.timeout(600_000);
  let folder: string;
  let stop: () => Promise<unknown> = async () => undefined;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-disc-"));
  });

  after(async () => {
    await stop();
    await rm(folder, { recursive: true });
  });

  it("is configured from it at boot, and follows when the disc is made anew", async () => {
    const vcOut = await readFile(join(VC_OUT_SAMPLES, "B-frontend", "vc-out.xml"), "utf8");
    const [disc, next, disk, serial, qmp] = ["one.iso", "two.iso", "disk.qcow2", "serial.log", "qmp"].map((name) =>
      join(folder, name),
    ) as [string, string, string, string, string];
    await writeFile(disc, contextDisc({ NETWORK: "YES", VC_OUT_XML_BASE64: base64(vcOut) }));
    const image = join(home("images"), "demo", "frontend.raw");
    await execa("qemu-img", ["create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", disk]);
    const nics = MACS.flatMap((mac, index) => [
      ...[
        "-netdev",
        `hubport,id=net${index},hubid=${index}`,
        "-device",
        `virtio-net-pci,netdev=net${index},mac=${mac}`,
      ],
    ]);
    const machine = execa(
      "qemu-system-x86_64",
      [
        ...[
          "-machine",
          "pc",
          "-accel",
          kvmUsable() ? "kvm" : "tcg",
          "-m",
          "256",
          "-display",
          "none",
          "-nodefaults",
          "-vga",
          "std",
        ],
        ...["-drive", `file=${disk},format=qcow2,if=none,id=disk`, "-device", "virtio-blk-pci,drive=disk,bootindex=1"],
        ...["-drive", `file=${disc},format=raw,if=ide,media=cdrom,readonly=on,id=context`],
        ...["-serial", `file:${serial}`, "-qmp", `unix:${qmp},server=on,wait=off`],
        ...nics,
      ],
      { reject: false, stdin: "ignore" },
    );
    stop = async () => {
      machine.kill("SIGKILL");
      await machine;
    };
    await said(serial, /vc-guest: ready \S+/, 240);

    const changed = vcOut.replace(/fqdn="[^".]+/, 'fqdn="another');
    expect(changed).to.not.equal(vcOut);
    await writeFile(
      next,
      contextDisc({ NETWORK: "YES", VC_OUT_XML_BASE64: base64(`${changed}<!-- broken -->`.replace("</vc>", "")) }),
    );
    await command(qmp, "blockdev-change-medium", { device: "context", filename: next, format: "raw", force: true });
    // It says on the console what is wrong with the new one: so it has been read.
    await said(serial, /vc-guest: failed: \/root\/vc-out\.xml: it does not end with <\/vc>/, 120);
  });
});

async function said(file: string, words: RegExp, seconds: number): Promise<void> {
  await eventually(async () => expect(await readFile(file, "latin1").catch(() => "")).to.match(words), seconds);
}

/** One command of QEMU's monitor. */
async function command(path: string, execute: string, args: object): Promise<void> {
  const socket: Socket = connect(path);
  try {
    let answers = "";
    socket.on("data", (chunk) => {
      answers += chunk;
    });
    const send = (message: object) => socket.write(`${JSON.stringify(message)}\n`);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    send({ execute: "qmp_capabilities" });
    send({ execute, arguments: args, id: "ours" });
    for (let tries = 0; tries < 100 && !answers.includes('"id": "ours"'); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(answers).to.not.include('"error"');
  } finally {
    socket.destroy();
  }
}
