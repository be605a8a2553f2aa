import { cp, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { execa } from "execa";

export const GUEST_FOLDER = join(__dirname, "..", "..", "provider", "guest");
export const VC_OUT_SAMPLES = join(__dirname, "..", "fixtures", "vc-out");

/** The network cards of the machines that PRAGMA's sample files were written for. */
const CARDS = {
  "A-frontend": { eth0: "7a:77:6e:40:00:09", eth1: "7a:77:6e:40:00:10" },
  "A-compute": { ens3: "7a:77:6e:40:00:15" },
  "B-frontend": { eth0: "0a:64:33:80:00:03", eth1: "0a:64:33:80:00:04" },
  "B-compute": { ens3: "0a:64:33:80:00:05" },
} as const;

export type Sample = keyof typeof CARDS;
export const SAMPLES = Object.keys(CARDS) as Sample[];

/** What runs the guest program: a shell, and a folder that has what it shall find first in PATH. */
export interface Interpreter {
  readonly shell: readonly string[];
  readonly path?: string;
}

/** A machine's root file system, as far as the guest program looks at it. What changes the running machine is printed. */
export class Machine {
  interpreter: Interpreter = { shell: ["sh"] };

  private constructor(readonly root: string) {}

  static async make(sample: Sample, vcOut?: string): Promise<Machine> {
    const machine = new Machine(await mkdtemp(join(tmpdir(), "guest-")));
    for (const folder of ["root", "etc/vc", "etc/ssh", "tmp", "run", "var/log", "dev"]) {
      await mkdir(join(machine.root, folder), { recursive: true });
    }
    for (const [card, mac] of Object.entries(CARDS[sample])) {
      await machine.write(`sys/class/net/${card}/address`, `${mac}\n`);
    }
    await machine.write(
      "root/vc-out.xml",
      vcOut ?? (await readFile(join(VC_OUT_SAMPLES, sample, "vc-out.xml"), "utf8")),
    );
    return machine;
  }

  async run(operation: string, input = ""): Promise<{ output: string; failed: boolean }> {
    const [shell = "sh", ...args] = this.interpreter.shell;
    const { all, failed } = await execa(shell, [...args, join(GUEST_FOLDER, "vc-guest"), operation], {
      env: {
        VC_ROOT: this.root,
        VC_DRY_RUN: "1",
        VC_LIB: GUEST_FOLDER,
        ...(this.interpreter.path && { PATH: `${this.interpreter.path}:${process.env.PATH}` }),
      },
      input,
      all: true,
      reject: false,
    });
    return { output: all, failed };
  }

  async status(): Promise<Record<string, unknown>> {
    return JSON.parse((await this.run("status")).output) as Record<string, unknown>;
  }

  read(path: string): Promise<string> {
    return readFile(join(this.root, path), "utf8");
  }

  async write(path: string, content: string): Promise<void> {
    await mkdir(dirname(join(this.root, path)), { recursive: true });
    await writeFile(join(this.root, path), content);
  }

  async link(path: string, target: string): Promise<void> {
    await mkdir(dirname(join(this.root, path)), { recursive: true });
    await rm(join(this.root, path), { force: true });
    await symlink(target, join(this.root, path));
  }

  /** Puts a tree over what is there. */
  async add(tree: string): Promise<void> {
    await cp(tree, this.root, { recursive: true });
  }

  async mode(path: string): Promise<number> {
    return (await stat(join(this.root, path))).mode & 0o777;
  }

  remove(): Promise<void> {
    return rm(this.root, { recursive: true });
  }
}
