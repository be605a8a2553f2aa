import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { expect } from "chai";
import { messagesIn, messagesOf, quotedIn } from "../docs/messages";
import { PAGES } from "../docs/pages";

const ROOT = join(__dirname, "..", "..");

/** What needs no section of its own. */
const NEED_NONE = [
  // Only what is filled in has words: they are another message's, a schema's or what a site said.
  /^(disk |publicKey |libvirt at )?…?[ :(…).-]*$/,
  /^publicKey: …$/,
  // For tests, and for trying a program.
  /^drivers\/memory\//,
  // How the quickstart's own commands are used.
  /Interrupted\.|--help` |site-helper: unknown operation/,
  // It says what failed above it, or what to run by hand.
  /^`pulumi …` failed|could not be asked over ssh/,
];

for (const [file, withTables] of PAGES) {
  describe(relative(ROOT, file), () => {
    it("has the tables that follow from the code (npm run docs)", () => {
      const page = readFileSync(file, "utf8");
      expect(page).to.equal(withTables(page));
    });
  });
}

describe("docs/troubleshooting.md", () => {
  it("has a section for each message that asks for an action", () => {
    const quoted = quotedIn(readFileSync(join(ROOT, "docs", "troubleshooting.md"), "utf8"));
    const messages = messagesIn(join(ROOT, "provider", "src"));
    expect(messages).to.have.length.above(80);
    const missing = messages.filter(
      ({ at, text }) =>
        !quoted.some((words) => words.test(text)) && !NEED_NONE.some((words) => words.test(text) || words.test(at)),
    );
    expect(missing.map(({ at, text }) => `${at}: ${text}`)).to.deep.equal([]);
  });

  it("would miss a new one: messages are found with their words, and only their own heading fits", () => {
    const source = `
      throw new NoCapacity(\`disk \${name}\`, large ? "is full" : \`has \${left} left\`, "Make room");
      throw new SiteFailure("no hint", "so no action");
      throw invalid("is no disk", "Take another");
      failures.push({ property, reason: \`\${property} is odd\` });
    `;
    const texts = messagesOf("a.ts", source).map(({ text }) => text);
    expect(texts).to.deep.equal(["disk …: is full", "disk …: has … left", "…: is no disk", "… is odd"]);
    const quoted = quotedIn("# disk\n\n## disk …: is full / has … left\n\nis no disk is odd\n");
    const fits = texts.map((text) => quoted.some((words) => words.test(text)));
    expect(fits).to.deep.equal([true, true, false, false]);
  });
});
