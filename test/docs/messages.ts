import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as ts from "typescript";

/** Something that the provider may say and that asks for an action. */
export interface Message {
  /** `file:line`. */
  readonly at: string;
  /** Its words, hint left out; `…` stands for what is filled in. */
  readonly text: string;
}

/** All that is said in the source files below a folder. */
export function messagesIn(folder: string): Message[] {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
  return files.sort().flatMap((file) => messagesOf(file, readFileSync(join(folder, file), "utf8")));
}

/** Errors that come with a hint, errors of set-up, whose one sentence holds theirs, and reasons of `check`. */
export function messagesOf(file: string, text: string): Message[] {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found: Message[] = [];
  const visit = (node: ts.Node): void => {
    const { line } = source.getLineAndCharacterOfPosition(node.getStart());
    found.push(...textsOf(node).map((words) => ({ at: `${file}:${line + 1}`, text: words })));
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function textsOf(node: ts.Node): string[] {
  if (ts.isNewExpression(node)) {
    const [summary, detail, hint] = node.arguments ?? [];
    if (summary && node.expression.getText() === "SetupError") {
      return wordsOf(summary);
    }
    return summary && detail && hint && /^[A-Z]/.test(node.expression.getText())
      ? joined(wordsOf(summary), detail)
      : [];
  }
  if (ts.isCallExpression(node) && /^(this\.)?invalid$/.test(node.expression.getText())) {
    const [detail, hint] = node.arguments;
    return detail && hint ? joined(["…"], detail) : [];
  }
  return ts.isPropertyAssignment(node) && node.name.getText() === "reason" ? wordsOf(node.initializer) : [];
}

function joined(summaries: readonly string[], detail: ts.Expression): string[] {
  return summaries.flatMap((summary) => wordsOf(detail).map((words) => (words ? `${summary}: ${words}` : summary)));
}

function wordsOf(expression: ts.Expression): string[] {
  if (ts.isStringLiteralLike(expression)) {
    return [expression.text];
  }
  if (ts.isTemplateExpression(expression)) {
    return [expression.head.text + expression.templateSpans.map(({ literal }) => `…${literal.text}`).join("")];
  }
  return ts.isConditionalExpression(expression)
    ? [...wordsOf(expression.whenTrue), ...wordsOf(expression.whenFalse)]
    : ["…"];
}

/** What the headings of a page quote: each may hold several, with ` / ` between them, and `…` in them. */
export function quotedIn(page: string): RegExp[] {
  return [...page.matchAll(/^##+ (.+)$/gm)].flatMap(([, heading = ""]) =>
    heading
      .split(" / ")
      .map((quoted) => new RegExp(quoted.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&").replaceAll(/\s*…\s*/g, ".*"))),
  );
}
