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

/** The objects of the user whom we are at a site, as they are now. Questions asked at the same time share one request. */
export class Pools {
  private readonly all: Batcher<"vms" | "vnets" | "visibleVnets" | "images" | "templates", string>;
  private readonly some: Batcher<number, Vm>;

  constructor(private readonly client: OneClient) {
    this.all = new Batcher(async (pools) => {
      const load = async (pool: (typeof pools)[number]) => [pool, await this.load(pool)] as const;
      return new Map(await Promise.all(pools.map(load)));
    }, TOGETHER_MS);
    this.some = new Batcher(async (ids) => {
      const vms = parseVms(await this.client.text("vmpool.infoset", ids.join(","), true));
      return new Map(vms.map((vm) => [vm.id, vm]));
    }, TOGETHER_MS);
  }

  /** With the attributes that users gave them, which only the extended list has. One that is done is gone. */
  async vms(): Promise<Vm[]> {
    return parseVms(await this.text("vms")).filter(({ state }) => state !== VM.DONE);
  }

  /** One machine; asked for many at the same time it is one request. Undefined when it is gone, or done. */
  async vm(id: number): Promise<Vm | undefined> {
    const vm = await this.some.get(id);
    return vm?.state === VM.DONE ? undefined : vm;
  }

  async vnets(): Promise<Vnet[]> {
    return parseVnets(await this.text("vnets"));
  }

  /** Others' too, as far as we may use them. */
  async visibleVnets(): Promise<Vnet[]> {
    return parseVnets(await this.text("visibleVnets"));
  }

  async images(): Promise<Image[]> {
    return parseImages(await this.text("images"));
  }

  async templates(): Promise<VmTemplate[]> {
    return parseTemplates(await this.text("templates"));
  }

  private async text(pool: "vms" | "vnets" | "visibleVnets" | "images" | "templates"): Promise<string> {
    return (await this.all.get(pool)) ?? "";
  }

  private load(pool: "vms" | "vnets" | "visibleVnets" | "images" | "templates"): Promise<string> {
    switch (pool) {
      case "vms":
        return this.client.text("vmpool.infoextended", MINE, ALL, ALL, NOT_DONE);
      case "vnets":
        return this.client.text("vnpool.info", MINE, ALL, ALL);
      case "visibleVnets":
        return this.client.text("vnpool.info", VISIBLE, ALL, ALL);
      case "images":
        return this.client.text("imagepool.info", MINE, ALL, ALL);
      case "templates":
        return this.client.text("templatepool.info", MINE, ALL, ALL);
    }
  }
}
