import { setTimeout } from "node:timers/promises";
import { Unreachable } from "../errors";
import { oneSession } from "./credentials";
import { NoLeader, refusal } from "./refusals";
import { type Template, templateText } from "./template-text";
import { callXmlRpc, type RpcArgument } from "./xml-rpc";

/** What only looks may be asked again when a connection breaks. */
const ONLY_LOOKS = /\.(info|infoextended|infoset|config|version)$/;
const TRIES = 3;
const PAUSE_MS = 100;
/** Until one of several servers leads the others again. */
const ELECTION_SECONDS = 30;

/** OpenNebula's calls as `oned` takes them, with our session in front. */
export class OneClient {
  constructor(readonly endpoint: string) {}

  /** @returns the XML document or the id that the call gives */
  async call(method: string, ...args: readonly RpcArgument[]): Promise<string | number> {
    const end = Date.now() + ELECTION_SECONDS * 1000;
    for (let tries = 1; ; tries++) {
      try {
        return await this.once(`one.${method}`, args);
      } catch (error) {
        const isOnlyLook = ONLY_LOOKS.test(method) && tries < TRIES && error instanceof Unreachable;
        if (!isOnlyLook && !(error instanceof NoLeader && Date.now() < end)) {
          throw error;
        }
        await setTimeout(PAUSE_MS * Math.min(tries, 10));
      }
    }
  }

  async text(method: string, ...args: readonly RpcArgument[]): Promise<string> {
    return String(await this.call(method, ...args));
  }

  async id(method: string, ...args: readonly RpcArgument[]): Promise<number> {
    return Number(await this.call(method, ...args));
  }

  /** Adds attributes to what an object has, or changes them: replacing would take all others away. */
  async append(kind: "vn" | "image" | "vm" | "template", id: number, attributes: Template): Promise<void> {
    await this.call(`${kind}.update`, id, templateText(attributes), 1);
  }

  private async once(method: string, args: readonly RpcArgument[]): Promise<string | number> {
    const [done, value = "", code = 0, object = -1] = await callXmlRpc(this.endpoint, method, [oneSession(), ...args]);
    if (done !== true) {
      throw refusal(method, String(value), Number(code), Number(object));
    }
    return typeof value === "boolean" ? String(value) : value;
  }
}
