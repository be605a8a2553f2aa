import { element, elements, parseXml, textOf, type XmlElement } from "../../../provider/src/images/xml";
import { CODE, Refused } from "./wire";

/** A template as OpenNebula keeps it: by name, each value a text or a group; several of one name stay several. */
export type Value = string | Group;
export type Group = Map<string, string>;
export type Template = Map<string, Value[]>;

/** @throws Refused for what OpenNebula's grammar refuses */
export function parseTemplate(text: string): Template {
  return text.trimStart().startsWith("<") ? fromXml(text) : fromText(text);
}

function fromText(text: string): Template {
  const template: Template = new Map();
  let at = 0;
  const malformed = () => new Refused(CODE.INTERNAL, "Parse error: syntax error");
  const skip = (pattern: RegExp) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    at += found?.[0].length ?? 0;
    return found;
  };
  const quoted = (): string => {
    let value = "";
    for (at += 1; text[at] !== '"'; at += 1) {
      if (at >= text.length) {
        throw malformed();
      }
      if (text[at] === "\\" && text[at + 1] === '"') {
        at += 1;
      }
      value += text[at];
    }
    at += 1;
    return value;
  };
  const name = (): string => {
    const [, found] = skip(/([A-Za-z0-9_]+)[ \t]*=[ \t]*/y) ?? [];
    if (!found) {
      throw malformed();
    }
    return found.toUpperCase();
  };
  for (skip(/\s+/y); at < text.length; skip(/\s+/y)) {
    const attribute = name();
    let value: Value;
    if (text[at] === "[") {
      at += 1;
      const group: Group = new Map();
      skip(/\s+/y);
      for (;;) {
        const key = name();
        group.set(key, text[at] === '"' ? quoted() : (skip(/[^,\]\s]+/y)?.[0] ?? ""));
        skip(/\s+/y);
        const [separator] = skip(/[,\]]/y) ?? [];
        if (!separator) {
          throw malformed();
        }
        if (separator === "]") {
          break;
        }
        skip(/\s+/y);
      }
      value = group;
    } else if (text[at] === '"') {
      value = quoted();
    } else {
      value = skip(/[^\n]+/y)?.[0].trim() ?? "";
      if (value === "") {
        throw malformed();
      }
    }
    template.set(attribute, [...(template.get(attribute) ?? []), value]);
  }
  return template;
}

function fromXml(text: string): Template {
  const [root] = Object.values(parseXml(text)) as XmlElement[];
  const names = Object.keys(root ?? {}).filter((name) => name !== "#text");
  return new Map(
    names.map((name) => [
      name,
      elements(root, name).map((value) => {
        const keys = Object.keys(value).filter((key) => key !== "#text");
        return keys.length > 0 ? new Map(keys.map((key) => [key, textOf(element(value, key))])) : textOf(value);
      }),
    ]),
  );
}

export function single(template: Template, name: string): string | undefined {
  const value = template.get(name)?.[0];
  return typeof value === "string" ? value : undefined;
}

export function groups(template: Template, name: string): Group[] {
  return (template.get(name) ?? []).filter((value): value is Group => typeof value !== "string");
}

export function copyOf(template: Template): Template {
  return new Map(
    [...template].map(([name, values]) => [
      name,
      values.map((value) => (typeof value === "string" ? value : new Map(value))),
    ]),
  );
}

// ── Writing ────────────────────────────────────────────────────────────────────────────────────────────────────────

export function cdata(text: string): string {
  return `<![CDATA[${text}]]>`;
}

export function tag(name: string, content: string): string {
  return `<${name}>${content}</${name}>`;
}

/** Sorted by name, as OpenNebula's maps are. */
export function templateXml(template: Template): string {
  return [...template]
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .flatMap(([name, values]) =>
      values.map((value) => tag(name, typeof value === "string" ? cdata(value) : groupXml(value))),
    )
    .join("");
}

export function groupXml(group: Group): string {
  return [...group]
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .map(([name, value]) => tag(name, cdata(value)))
    .join("");
}
