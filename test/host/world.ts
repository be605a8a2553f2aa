import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemorySite } from "../../provider/src/drivers/memory/site";
import type { Properties } from "../../provider/src/resources/host";
import { makeFakeDisk } from "../conformance/fake-guest";
import { EngineDied, type LifeCycles, Stack } from "../unit/stack";
import { Host, type Remains } from "./host";
import { shimTexts } from "./provider-client";
import { contentOf, type SiteContent } from "./site-content";

const DISK = `<disk device="disk"><driver type="raw"/><source file="disk.raw"/></disk>`;
const VC_IN = `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/>
  <frontend><domain><devices>${DISK}</devices></domain></frontend></vc>`;

/** What a program asks for. */
export interface Wish extends Properties {
  readonly numCpus: number;
  readonly cpusPerNode: number;
  readonly memoryPerNode: number;
  readonly frontend: { readonly cpus: number; readonly memory: number };
  readonly publicKey: string;
}

/** A public key of somebody's; the letter tells them apart. */
export function publicKey(letter: string): string {
  const bytes = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${letter.repeat(32)}`, "latin1");
  return `ssh-ed25519 ${bytes.toString("base64")} tester`;
}

/** Where a run of `pulumi` is cut off, if anywhere. */
export interface Interruption {
  /** Before which of its changes of the site the host dies, from 0. */
  readonly hostAtStep?: number;
  /** By SIGKILL; else the host is thrown away, which is faster and leaves the same. */
  readonly killed?: boolean;
  /** Before which of its writes of the state the engine dies, from 0. What was running then goes on to its end. */
  readonly engineAtWrite?: number;
}

/** An in-memory site, whose stacks' work is done by Pulumi's own host. */
export class World {
  site: SiteContent = contentOf(new MemorySite());

  private constructor(
    private readonly folder: string,
    private readonly host: Host,
  ) {}

  static async create(): Promise<World> {
    const folder = await mkdtemp(join(tmpdir(), "vc-host-"));
    const image = join(folder, "images", "demo");
    await mkdir(image, { recursive: true });
    await writeFile(join(image, "vc-in.xml"), VC_IN);
    await writeFile(join(folder, "images", "vcdb.txt"), "demo,demo/vc-in.xml\n");
    await makeFakeDisk(join(image, "disk.raw"), { virtio: true, heedsPowerButton: false });
    return new World(folder, new Host(await shimTexts(), join(folder, "legacy")));
  }

  empty(): void {
    this.site = contentOf(new MemorySite());
  }

  /** One run of `pulumi` for this stack: a host of its own does the work. */
  async run(
    owner: string,
    work: (lifeCycles: LifeCycles) => Promise<unknown>,
    { hostAtStep: diesAt, killed = false }: Pick<Interruption, "hostAtStep" | "killed">,
  ): Promise<Remains> {
    const config = {
      "virtual-cluster:owner": owner,
      "virtual-cluster:site": JSON.stringify({ driver: "memory", name: "shared" }),
      "virtual-cluster:repository": join(this.folder, "images"),
    };
    const remains = await this.host.live({ siteName: "shared", site: this.site, config, diesAt, killed }, work);
    this.site = remains.site;
    return remains;
  }

  async dispose(): Promise<void> {
    await this.host.stop();
    await rm(this.folder, { recursive: true });
  }
}

/** One program's cluster at the site, as its users work with it. */
export class Tenant {
  private lifeCycles: LifeCycles | undefined;
  readonly stack: Stack;

  constructor(
    private readonly world: World,
    readonly clusterName: string,
  ) {
    const now = () => {
      if (!this.lifeCycles) {
        throw new Error("no host is running");
      }
      return this.lifeCycles;
    };
    const lifeCycles: LifeCycles = {
      get claim() {
        return now().claim;
      },
      get cluster() {
        return now().cluster;
      },
      get frontend() {
        return now().frontend;
      },
      get compute() {
        return now().compute;
      },
    };
    this.stack = new Stack(lifeCycles, { name: clusterName, clusterName });
  }

  up(wish: Wish, interruption: Interruption = {}): Promise<Remains> {
    return this.run(() => this.stack.up({ image: "demo", ...wish }), interruption);
  }

  /** `pulumi up --refresh` */
  refreshAndUp(wish: Wish, interruption: Interruption = {}): Promise<Remains> {
    return this.run(async () => {
      await this.stack.refresh();
      await this.stack.up({ image: "demo", ...wish });
    }, interruption);
  }

  refresh(): Promise<Remains> {
    return this.run(() => this.stack.refresh(), {});
  }

  destroy(interruption: Interruption = {}): Promise<Remains> {
    return this.run(() => this.stack.destroy(), interruption);
  }

  /** What can be put back with `restore`: the state, and the site with it. */
  save(): () => void {
    const state = new Map(this.stack.state);
    const site = structuredClone(this.world.site);
    return () => {
      this.stack.restore(state);
      this.world.site = structuredClone(site);
    };
  }

  private async run(work: () => Promise<unknown>, interruption: Interruption): Promise<Remains> {
    this.stack.dieAfterWrites(interruption.engineAtWrite ?? Number.POSITIVE_INFINITY);
    let engineDied = false;
    const whileItLives = async (lifeCycles: LifeCycles) => {
      this.lifeCycles = lifeCycles;
      await work().catch((error: Error) => {
        engineDied = error instanceof EngineDied;
        if (!engineDied) {
          throw error;
        }
      });
    };
    const remains = await this.world.run(`owner of ${this.clusterName}`, whileItLives, interruption);
    return { ...remains, died: remains.died || engineDied };
  }
}
