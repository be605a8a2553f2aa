import { element, elements, parseXml, textOf, type XmlElement } from "../../../provider/src/images/xml";

/** What `oned` answers, in the very bytes. */
export interface Call {
  readonly method: string;
  readonly args: readonly (string | number | boolean | readonly number[])[];
}

/** A refusal with its code and the id of what it is about. */
export class Refused extends Error {
  constructor(
    readonly code: number,
    message: string,
    readonly object = -1,
  ) {
    super(message);
  }
}

/** A protocol error. */
export class Fault extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

export const CODE = {
  AUTHENTICATION: 256,
  AUTHORIZATION: 512,
  NO_EXISTS: 1024,
  ACTION: 2048,
  INTERNAL: 8192,
  ALLOCATE: 16384,
} as const;

export function decodeCall(body: string): Call {
  let call: XmlElement | undefined;
  try {
    call = element(parseXml(body), "methodCall");
  } catch {
    throw new Fault(-503, "Call is not valid XML.  XML document is not valid");
  }
  return {
    method: textOf(element(call, "methodName")),
    args: elements(element(call, "params"), "param").map((param) => decode(element(param, "value"))),
  };
}

function decode(value: XmlElement | undefined): string | number | boolean | readonly number[] {
  const number = element(value, "int") ?? element(value, "i4");
  if (number) {
    return Number(textOf(number));
  }
  const boolean = element(value, "boolean");
  if (boolean) {
    return textOf(boolean) === "1";
  }
  const array = element(value, "array", "data");
  if (array) {
    return elements(array, "value").map((item) => Number(decode(item)));
  }
  // Leading and trailing white space counts here, and the parser trims it.
  const text = element(value, "string");
  return textOf(text ?? value);
}

const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function envelope(lines: readonly string[]): string {
  return ['<?xml version="1.0" encoding="UTF-8"?>', "<methodResponse>", ...lines, "</methodResponse>", ""].join("\r\n");
}

function answer(values: readonly string[]): string {
  const items = values.map((value) => `<value>${value}</value>`);
  return envelope([
    "<params>",
    "<param><value><array><data>",
    ...items,
    "</data></array></value></param>",
    "</params>",
  ]);
}

export function success(value: string | number): string {
  const encoded = typeof value === "number" ? `<i4>${value}</i4>` : `<string>${escaped(value)}</string>`;
  return answer(["<boolean>1</boolean>", encoded, "<i4>0</i4>"]);
}

export function failure(method: string, { code, message, object }: Refused): string {
  const text = `<string>${escaped(`[${method}] ${message}`)}</string>`;
  return answer(["<boolean>0</boolean>", text, `<i4>${code}</i4>`, `<i4>${object}</i4>`, "<i8>-1</i8>"]);
}

export function fault({ code, message }: Fault): string {
  return envelope([
    "<fault>",
    "<value><struct>",
    "<member><name>faultCode</name>",
    `<value><i4>${code}</i4></value></member>`,
    "<member><name>faultString</name>",
    `<value><string>${escaped(message)}</string></value></member>`,
    "</struct></value>",
    "</fault>",
  ]);
}
