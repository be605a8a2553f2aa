import { InvalidImage } from "../../drivers/errors";
import type { Description } from "../repository/repository";
import { parseVcIn } from "../repository/vc-in";
import { element, elements, parseXml, type XmlElement } from "../xml";
import { type Finding, finding, type Rule } from "./rule";

/** What an image's vc-in.xml must say. */
export const DESCRIPTION_RULES: readonly Rule<Description>[] = [
  {
    id: "vc-in",
    level: "error",
    asks: "The vc-in.xml is well-formed, for KVM on x86_64, and has exactly one RAW disk for each node type.",
    find: ({ origin, text }) => {
      try {
        parseVcIn(text, origin);
        return [];
      } catch (error) {
        if (error instanceof InvalidImage) {
          return finding(
            true,
            error.detail,
            error.hint || "Mend the vc-in.xml: docs/image-standard.md has one to start from",
          );
        }
        throw error;
      }
    },
  },
  {
    id: "frontend-nics",
    level: "warning",
    asks: "Its frontend has two NICs: the first private, the second public.",
    find: (description) => nics(description, "frontend", 2),
  },
  {
    id: "compute-nics",
    level: "warning",
    asks: "Its compute has one NIC, private.",
    find: (description) => nics(description, "compute", 1),
  },
];

function nics({ text }: Description, node: "frontend" | "compute", expected: number): readonly Finding[] | undefined {
  const part = partOf(text, node);
  if (!part) {
    return undefined;
  }
  const count = elements(element(part, "domain", "devices"), "interface").length;
  return finding(
    count !== expected,
    `${node} has ${count} NIC${count === 1 ? "" : "s"}`,
    `Give its domain ${expected} <interface> element${expected === 1 ? "" : "s"}: sites that take them from there would make too few, or too many`,
  );
}

function partOf(text: string, node: string): XmlElement | undefined {
  try {
    return element(parseXml(text), "vc", node);
  } catch (error) {
    if (error instanceof RangeError) {
      return undefined;
    }
    throw error;
  }
}
