import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { home } from "../../provider/src/home";

/** Folders of a test's own: a repository, and this user's home. */
export class ImageFolder implements AsyncDisposable {
  private constructor(
    readonly folder: string,
    private readonly homeBefore: string | undefined,
  ) {}

  static async create(): Promise<ImageFolder> {
    const folder = await mkdtemp(join(tmpdir(), "vc-images-"));
    const made = new ImageFolder(folder, process.env.VIRTUAL_CLUSTER_HOME);
    process.env.VIRTUAL_CLUSTER_HOME = join(folder, "home");
    await mkdir(made.repository);
    return made;
  }

  get repository(): string {
    return join(this.folder, "images");
  }

  /** Adds an image `demo` with those files. */
  async put(vcIn: string, files: Readonly<Record<string, Buffer | string>>): Promise<void> {
    const all = { "../vcdb.txt": "demo,demo/vc-in.xml\n", "vc-in.xml": vcIn, ...files };
    for (const [name, content] of Object.entries(all)) {
      const file = join(this.repository, "demo", name);
      await mkdir(dirname(file), { recursive: true });
      await writeFile(file, content);
    }
  }

  /** What is in the cache that takes room, and what is left of making something. */
  async kept(): Promise<string[]> {
    const names = await readdir(home("cache", "images")).catch(() => [] as string[]);
    return names.filter((name) => !/\.(lock|json)$/.test(name));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.homeBefore === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    } else {
      process.env.VIRTUAL_CLUSTER_HOME = this.homeBefore;
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

export interface Described {
  /** What stands in a node part beside its domain. */
  readonly beside?: string;
  readonly domain?: string;
  readonly disk?: string;
}

/** A vc-in.xml. */
export function vcIn(frontend: Described = {}, compute?: Described, rest = ""): string {
  const part = (name: string, { beside = "", domain = "", disk = `${name}.raw` }: Described) =>
    `<${name}>${beside}<domain type="kvm">${domain}<devices><disk type="file" device="disk">` +
    `<driver name="qemu" type="raw"/><source file="${disk}"/></disk></devices></domain></${name}>`;
  return `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/><driver>rocks6_client</driver>
    ${part("frontend", frontend)}${compute ? part("compute", compute) : ""}${rest}</vc>`;
}

export function file(type: string, name: string, ...parts: readonly string[]): string {
  return `<file type="${type}" filename="${name}">${parts.map((part) => `<part>${part}</part>`).join("")}</file>`;
}
