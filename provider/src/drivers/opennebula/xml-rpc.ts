import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { element, elements, parseXml, textOf, type XmlElement } from "../../images/xml";
import { SiteFailure, Unreachable } from "../errors";

/** What a call takes: text, numbers as 32-bit integers, truth values. */
export type RpcArgument = string | number | boolean;

/** A method that the other side doesn't know, wrong parameters, a body that is no XML-RPC. */
export class RpcFault extends SiteFailure {
  constructor(
    readonly code: number,
    method: string,
    text: string,
  ) {
    super(`${method} at OpenNebula`, `protocol error ${code}: ${text}`);
  }
}

/** The connection broke after the request may have arrived: whether it was carried out nobody knows. */
export class ConnectionLost extends Unreachable {}

/** More connections than this only wait for each other. */
const MOST_CONNECTIONS = 8;
/** Registering an image takes a front-end that looks for a slow URL more than a minute and a half. */
const TIMEOUT_SECONDS = 240;
/** Larger than the lists of ten thousand machines with their vc-out.xml. */
export const MOST_BYTES = 256 * 1024 * 1024;

const agents = {
  "http:": new HttpAgent({ keepAlive: false, maxSockets: MOST_CONNECTIONS }),
  "https:": new HttpsAgent({ keepAlive: false, maxSockets: MOST_CONNECTIONS }),
};

/**
 * One XML-RPC call over http(s): the body with its length in front, since `oned` takes no chunks, and a connection of its
 * own, since `oned` closes each after its answer. The kept clients of npm know no `i8`, which every refusal ends with.
 * @returns the elements of the array that is the answer
 * @throws Unreachable, ConnectionLost, RpcFault
 */
export async function callXmlRpc(endpoint: string, method: string, args: readonly RpcArgument[]): Promise<RpcValue[]> {
  const body = Buffer.from(encodeCall(method, args));
  const { status, text } = await post(endpoint, body);
  if (status !== 200) {
    throw new Unreachable(
      `OpenNebula at ${endpoint}`,
      `answers with HTTP ${status}`,
      "See whether site.endpoint is the address of its XML-RPC, which ends with /RPC2",
    );
  }
  return decodeAnswer(method, text);
}

export function encodeCall(method: string, args: readonly RpcArgument[]): string {
  const params = args.map((arg) => `<param><value>${encodeValue(arg)}</value></param>`).join("");
  return `<?xml version="1.0" encoding="UTF-8"?><methodCall><methodName>${method}</methodName><params>${params}</params></methodCall>`;
}

function encodeValue(arg: RpcArgument): string {
  switch (typeof arg) {
    case "boolean":
      return `<boolean>${arg ? 1 : 0}</boolean>`;
    case "number":
      return `<int>${arg}</int>`;
    case "string":
      return `<string>${escapeXml(arg)}</string>`;
  }
}

const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;" };

function escapeXml(text: string): string {
  return text.replaceAll(/[&<>\r]/g, (character) => ESCAPES[character] ?? "");
}

export type RpcValue = string | number | boolean;

/**
 * A list is one long string full of entities, which a parser of XML is slow with: strings are taken out before it and put
 * in again.
 * @throws RpcFault, SiteFailure for what is no answer
 */
export function decodeAnswer(method: string, text: string): RpcValue[] {
  const strings: string[] = [];
  const decode = (value: XmlElement | undefined) => decodeValue(value, strings);
  let answer: XmlElement | undefined;
  try {
    const envelope = text.replaceAll(
      /<string>([^<]*)<\/string>/g,
      (_, content: string) => `<string>${strings.push(unescapeXml(content.trim())) - 1}</string>`,
    );
    answer = element(parseXml(envelope), "methodResponse");
  } catch (error) {
    throw new SiteFailure(`${method} at OpenNebula`, `its answer ${(error as Error).message}`);
  }
  const fault = element(answer, "fault", "value", "struct");
  if (fault) {
    const members = new Map(
      elements(fault, "member").map((member) => [textOf(element(member, "name")), decode(element(member, "value"))]),
    );
    throw new RpcFault(Number(members.get("faultCode")), method, String(members.get("faultString")));
  }
  const data = element(answer, "params", "param", "value", "array", "data");
  if (!data) {
    throw new SiteFailure(`${method} at OpenNebula`, "its answer is no array");
  }
  return elements(data, "value").map(decode);
}

function unescapeXml(text: string): string {
  return text
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&quot;", '"')
    .replaceAll("&apos;", "'")
    .replaceAll(/&#(x[0-9a-f]+|\d+);/gi, (_, code: string) => String.fromCodePoint(Number(code.replace(/^x/i, "0x"))))
    .replaceAll("&amp;", "&");
}

function decodeValue(value: XmlElement | undefined, strings: readonly string[]): RpcValue {
  for (const type of ["i4", "int", "i8"]) {
    const number = element(value, type);
    if (number) {
      return Number(textOf(number));
    }
  }
  const boolean = element(value, "boolean");
  if (boolean) {
    return textOf(boolean) === "1";
  }
  const string = element(value, "string");
  return string ? (strings[Number(textOf(string) || -1)] ?? "") : textOf(value);
}

function post(endpoint: string, body: Buffer): Promise<{ readonly status: number; readonly text: string }> {
  const url = new URL(endpoint);
  const secure = url.protocol === "https:";
  return new Promise((resolve, reject) => {
    let sent = false;
    const fail = (reason: string) => {
      const ErrorClass = sent ? ConnectionLost : Unreachable;
      reject(
        new ErrorClass(
          `OpenNebula at ${endpoint}`,
          reason,
          "See whether oned runs there, and site.endpoint (or ONE_XMLRPC) names it",
        ),
      );
      request.destroy();
    };
    const options = {
      method: "POST",
      headers: { "Content-Type": "text/xml", "Content-Length": body.length },
      timeout: TIMEOUT_SECONDS * 1000,
    };
    const receive = (response: IncomingMessage) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > MOST_BYTES) {
          fail(`its answer has more than ${MOST_BYTES / 1024 / 1024} MiB`);
        }
        chunks.push(chunk);
      });
      response.on("end", () =>
        response.complete
          ? resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString("utf8") })
          : fail("its answer was cut off"),
      );
      response.on("error", (error) => fail(error.message));
    };
    const request = secure
      ? httpsRequest(url, { ...options, agent: agents["https:"] }, receive)
      : httpRequest(url, { ...options, agent: agents["http:"] }, receive);
    request.on("socket", (socket) => {
      const established = () => {
        sent = true;
      };
      socket.once(secure ? "secureConnect" : "connect", established);
    });
    request.on("timeout", () => fail(`no answer within ${TIMEOUT_SECONDS} s`));
    request.on("error", (error: NodeJS.ErrnoException) => fail(error.code ?? error.message));
    request.end(body);
  });
}
