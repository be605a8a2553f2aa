/** What a template holds: single values, groups of values (`NIC=[ … ]`), or several groups of one name. */
export type TemplateValue = string | number | TemplateGroup | readonly TemplateGroup[];
export type TemplateGroup = Readonly<Record<string, string | number | undefined>>;
export type Template = Readonly<Record<string, TemplateValue | undefined>>;

/**
 * OpenNebula's template text. In quoted values only the quote itself is escaped, and a backslash stays one; so a value
 * must not end with a backslash. Ours that may hold anything are base64.
 */
export function templateText(template: Template): string {
  return Object.entries(template)
    .flatMap(([name, value]) => {
      if (value === undefined) {
        return [];
      }
      const values: readonly (string | number | TemplateGroup)[] = Array.isArray(value)
        ? value
        : [value as string | number | TemplateGroup];
      return values.map((one) => `${name}=${typeof one === "object" ? group(one) : quoted(one)}\n`);
    })
    .join("");
}

function group(values: TemplateGroup): string {
  const items = Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${quoted(value)}`],
  );
  return `[ ${items.join(", ")} ]`;
}

function quoted(value: string | number): string {
  const text = String(value);
  if (text.endsWith("\\")) {
    throw new RangeError(`${JSON.stringify(text)} can't be written into a template: it ends with a backslash`);
  }
  return `"${text.replaceAll('"', '\\"')}"`;
}

export function base64(text: string): string {
  return Buffer.from(text, "utf8").toString("base64");
}

export function fromBase64(text: string): string {
  return Buffer.from(text, "base64").toString("utf8");
}
