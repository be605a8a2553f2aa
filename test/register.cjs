// Lets `require` load TypeScript, compiled as the packages are. tsx can't serve here: it rewrites ES modules of
// dependencies to CommonJS and then misses those that export nothing to `require`, as some below execa do.
const { readFileSync } = require("node:fs");
const { Module } = require("node:module");
const fc = require("fast-check");
const ts = require("typescript");

const compilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.CommonJS,
  esModuleInterop: true,
  inlineSourceMap: true,
};

process.setSourceMapsEnabled(true);
if (process.env.VC_SEED) {
  fc.configureGlobal({ seed: Number(process.env.VC_SEED) });
}

Module._extensions[".ts"] = (module, fileName) => {
  const { outputText } = ts.transpileModule(readFileSync(fileName, "utf8"), { compilerOptions, fileName });
  module._compile(outputText, fileName);
};
