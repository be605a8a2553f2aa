import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const CHANGED = [
  "PATH",
  "PULUMI_HOME",
  "VIRTUAL_CLUSTER_HOME",
  "PULUMI_BACKEND_URL",
  "VIRTUAL_CLUSTER_AUDIT_LOG",
  "VIRTUAL_CLUSTER_LIMITS",
];

/** A folder of programs that answer as told, the only ones on PATH beside the system's. */
export class FakePrograms {
  private readonly before = CHANGED.map((name) => [name, process.env[name]] as const);

  private constructor(readonly folder: string) {
    Object.assign(process.env, {
      PATH: `${folder}:/usr/sbin:/usr/bin:/sbin:/bin`,
      PULUMI_HOME: join(folder, "none"),
      VIRTUAL_CLUSTER_HOME: join(folder, "home"),
    });
    delete process.env.PULUMI_BACKEND_URL;
  }

  static async create(): Promise<FakePrograms> {
    return new FakePrograms(await mkdtemp(join(tmpdir(), "vc-unit-")));
  }

  /** @param script lines of a shell's */
  async program(name: string, script: string): Promise<void> {
    const file = join(this.folder, name);
    await writeFile(file, `#!/bin/sh\n${script}\n`);
    await chmod(file, 0o755);
  }

  /** @param answers by the beginning of the command line; lines of a shell script */
  async pulumi(answers: Readonly<Record<string, string>>): Promise<void> {
    const cases = Object.entries(answers).map(([command, does]) => `"${command}"*) ${does};;`);
    await this.program("pulumi", `case "$*" in\n${cases.join("\n")}\n*) echo "not expected: $*" >&2; exit 1;;\nesac`);
  }

  /** A Pulumi that is logged in, with these stacks' states by name; the first is selected. */
  async pulumiWith(stacks: Readonly<Record<string, unknown>>): Promise<void> {
    const names = Object.keys(stacks);
    const fileOf = (name: string) => join(this.folder, `${name.replaceAll("/", "-")}.json`);
    for (const name of names) {
      await writeFile(fileOf(name), JSON.stringify(stacks[name]));
    }
    const exports = names.map((name) => [`stack export --stack ${name} `, `cat "${fileOf(name)}"`]);
    await this.pulumi({
      whoami: `echo '{"url": "https://example.com"}'`,
      "stack ls": `echo '${JSON.stringify(names.map((name) => ({ name })))}'`,
      ...Object.fromEntries(exports),
      "stack export --stack": "exit 6",
      "stack export": names[0] ? `cat "${fileOf(names[0])}"` : "echo 'error: no stack selected' >&2; exit 255",
      config: "echo '{}'",
    });
  }

  async read(name: string): Promise<string> {
    return readFile(join(this.folder, name), "utf8");
  }

  async dispose(): Promise<void> {
    for (const [name, value] of this.before) {
      if (value === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = value;
      }
    }
    await rm(this.folder, { recursive: true });
  }
}
