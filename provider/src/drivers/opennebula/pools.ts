import { Batcher } from "../batcher";
import type { OneClient } from "./client";
import {
  type Image,
  parseImages,
  parseTemplates,
  parseVms,
  parseVnets,
  type Vm,
  type VmTemplate,
  type Vnet,
} from "./objects";
import { VM } from "./vm-states";

/** What the engine asks at once arrives within this time. */
const TOGETHER_MS = 12;
/** The caller's own objects: every user has names of their own, and nothing of ours belongs to another user. */
const MINE = -3;
const VISIBLE = -2;
const ALL = -1;
const NOT_DONE = -1;

/** One list, asked for once and read once for all that want it at the same time. */
class Shared<T> {
  private readonly batcher: Batcher<"all", readonly T[]>;

  constructor(load: () => Promise<readonly T[]>) {
    this.batcher = new Batcher(async () => new Map([["all", await load()]]), TOGETHER_MS);
  }

  async get(): Promise<readonly T[]> {
    return (await this.batcher.get("all")) ?? [];
  }
}

/** The objects of the user whom we are at a site, as they are now. Questions asked at the same time share one request. */
export class Pools {
  private readonly allVms: Shared<Vm>;
  private readonly ownVnets: Shared<Vnet>;
  private readonly allVnets: Shared<Vnet>;
  private readonly ownImages: Shared<Image>;
  private readonly ownTemplates: Shared<VmTemplate>;
  private readonly someVms: Batcher<number, Vm>;

  constructor(client: OneClient) {
    const list = (method: string, filter: number, ...more: number[]) => client.text(method, filter, ALL, ALL, ...more);
    this.allVms = new Shared(async () => parseVms(await list("vmpool.infoextended", MINE, NOT_DONE)));
    this.ownVnets = new Shared(async () => parseVnets(await list("vnpool.info", MINE)));
    this.allVnets = new Shared(async () => parseVnets(await list("vnpool.info", VISIBLE)));
    this.ownImages = new Shared(async () => parseImages(await list("imagepool.info", MINE)));
    this.ownTemplates = new Shared(async () => parseTemplates(await list("templatepool.info", MINE)));
    this.someVms = new Batcher(async (ids) => {
      const vms = parseVms(await client.text("vmpool.infoset", ids.join(","), true));
      return new Map(vms.map((vm) => [vm.id, vm]));
    }, TOGETHER_MS);
  }

  /** With the attributes that users gave them, which only the extended list has. One that is done is gone. */
  async vms(): Promise<Vm[]> {
    return (await this.allVms.get()).filter(({ state }) => state !== VM.DONE);
  }

  /** One machine; asked for many at the same time it is one request. Undefined when it is gone, or done. */
  async vm(id: number): Promise<Vm | undefined> {
    const vm = await this.someVms.get(id);
    return vm?.state === VM.DONE ? undefined : vm;
  }

  vnets(): Promise<readonly Vnet[]> {
    return this.ownVnets.get();
  }

  /** Others' too, as far as we may use them. */
  visibleVnets(): Promise<readonly Vnet[]> {
    return this.allVnets.get();
  }

  images(): Promise<readonly Image[]> {
    return this.ownImages.get();
  }

  templates(): Promise<readonly VmTemplate[]> {
    return this.ownTemplates.get();
  }
}
