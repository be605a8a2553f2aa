import { XMLParser, XMLValidator } from "fast-xml-parser";

/** Larger than any honest XML of a repository, or of a site but for the lists of a cloud. */
const MOST_CHARACTERS = 16 * 1024 * 1024;
/** What a section of plain text holds is no markup. */
const PLAIN_TEXT_OR_TYPE = /<!\[CDATA\[[\s\S]*?\]\]>|<!(DOCTYPE|ENTITY)/gi;

/** An XML element as the parser gives it: attributes begin with `@`, text of mixed elements is `#text`. */
export interface XmlElement {
  readonly [name: string]: XmlValue | undefined;
}
export type XmlValue = string | XmlElement | readonly XmlValue[];

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: "@",
  parseTagValue: false,
  parseAttributeValue: false,
  ignoreDeclaration: true,
  ignorePiTags: true,
});

/**
 * Parses XML that comes from elsewhere. Document types are refused: nothing honest here has one, and entities are how
 * small files become large.
 * @throws RangeError in words for people
 */
export function parseXml(text: string, mostCharacters = MOST_CHARACTERS): XmlElement {
  if (text.length > mostCharacters) {
    throw new RangeError(`is larger than ${mostCharacters / 1024 / 1024} MiB`);
  }
  if (hasDocumentType(text)) {
    throw new RangeError("has a document type or entities, which are not allowed");
  }
  const valid = XMLValidator.validate(text);
  if (valid !== true) {
    throw new RangeError(`is not well-formed XML: ${valid.err.msg} (line ${valid.err.line})`);
  }
  try {
    return parser.parse(text) as XmlElement;
  } catch (error) {
    // Names that would reach the objects of this program, entities that grow.
    throw new RangeError(`is not XML that can be read: ${(error as Error).message}`);
  }
}

function hasDocumentType(text: string): boolean {
  for (const [, type] of text.matchAll(PLAIN_TEXT_OR_TYPE)) {
    if (type) {
      return true;
    }
  }
  return false;
}

/** All child elements of a name, in order. */
export function elements(parent: XmlElement | undefined, name: string): readonly XmlElement[] {
  const value = parent?.[name];
  const list = value === undefined ? [] : Array.isArray(value) ? (value as readonly XmlValue[]) : [value as XmlValue];
  return list.map((item) => (typeof item === "string" ? { "#text": item } : (item as XmlElement)));
}

/** The first child element at a path. */
export function element(parent: XmlElement | undefined, ...path: readonly string[]): XmlElement | undefined {
  return path.reduce<XmlElement | undefined>((at, name) => elements(at, name)[0], parent);
}

export function attribute(of: XmlElement | undefined, name: string): string | undefined {
  const value = of?.[`@${name}`];
  return typeof value === "string" ? value : undefined;
}

export function textOf(of: XmlElement | undefined): string {
  const value = of?.["#text"];
  return typeof value === "string" ? value.trim() : "";
}
