// Runs inside the sandbox: loads a JavaScript answer, a script or a module, calls its entry point and writes a frame for each result.
// It holds arguments and never what they should lead to; code of the answer's in this process can forge results, and gains no
// more than by returning them.
"use strict";
(() => {
  const fs = require("fs");
  const path = require("path");
  const vm = require("vm");
  const { pathToFileURL } = require("url");
  const { Module, createRequire } = require("module");
  const CHANNEL = 3;
  const ANSWER = path.resolve("answer.js");
  const ENTRY = "$entryPoint";
  const MAX_DEPTH = 60;
  const MAX_NODES = 500000;
  const MAX_ERROR_CHARS = 1500;
  const { stringify, parse } = JSON;
  const job = parse(fs.readFileSync(".job", "utf8"));
  fs.unlinkSync(".job");
  let number = 0;

  class NotPlainError extends Error {}

  function send(kind, data) {
    const payload = Buffer.from(stringify([job.nonce, number++, kind, data]));
    const frame = Buffer.alloc(4 + payload.length);
    frame.writeUInt32BE(payload.length, 0);
    payload.copy(frame, 4);
    for (let at = 0; at < frame.length; ) at += fs.writeSync(CHANNEL, frame, at);
  }

  function encode(value, depth, count) {
    if (depth > MAX_DEPTH || ++count.nodes > MAX_NODES) throw new NotPlainError("too large");
    const inner = (part) => encode(part, depth + 1, count);
    if (value === null || value === undefined) return null; // nothing given back is JSON's null
    if (typeof value === "boolean" || typeof value === "string") return value;
    if (typeof value === "number") {
      if (Number.isFinite(value)) return value;
      return { f: Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf" };
    }
    if (typeof value === "bigint") return { i: (value < 0n ? "-0x" : "0x") + (value < 0n ? -value : value).toString(16) };
    if (Array.isArray(value)) return Array.from(value, inner);
    const kind = typeof value === "object" ? Object.getPrototypeOf(value) : undefined;
    if (kind === Object.prototype || kind === null) {
      const keys = Object.keys(value).filter((key) => value[key] !== undefined); // as JSON has it
      return { d: keys.map((key) => [key, inner(value[key])]) };
    }
    throw new NotPlainError(typeof value);
  }

  function describe(error) {
    let type = "Error";
    let text = "(an error that can't be shown)";
    try {
      if (error instanceof Error) {
        type = error instanceof NotPlainError ? "NotPlainError" : String(error.name);
        const own = String(error.stack).split("\n").filter((line) => /answer\.m?js/.test(line));
        text = [`${type}: ${error.message}`, ...own].join("\n");
      } else {
        text = `threw ${String(error)}`;
      }
    } catch {
      // A hostile error may throw anything while it is shown.
    }
    return { type: type.slice(0, 100), text: text.slice(-MAX_ERROR_CHARS) };
  }

  async function load() {
    const name = job.entry_point;
    const text = fs.readFileSync(ANSWER, "utf8");
    const module = new Module(ANSWER);
    const own = { module, exports: module.exports, require: createRequire(ANSWER), __filename: ANSWER, __dirname: path.dirname(ANSWER) };
    Object.assign(globalThis, own);
    let script;
    try {
      script = new vm.Script(text, { filename: "answer.js" });
    } catch (error) {
      if (!/^\s*(import|export)\b/m.test(text)) throw error;
      return await loadModule(text, name);
    }
    script.runInThisContext();
    const found = vm.runInThisContext(`typeof ${name} === "undefined" ? undefined : ${name}`);
    return found ?? chosen(module.exports, name);
  }

  async function loadModule(text, name) {
    // What it declares is found whether it exports it or not; without such a declaration our line is a syntax error.
    for (const more of [`\nexport { ${name} as ${ENTRY} };\n`, ""]) {
      const file = path.resolve(more ? ".answer.mjs" : ".plain.answer.mjs");
      fs.writeFileSync(file, text + more);
      try {
        const space = await import(pathToFileURL(file));
        return space[ENTRY] ?? space[name] ?? chosen(space.default, name);
      } catch (error) {
        if (!more || !(error instanceof SyntaxError)) throw error;
      }
    }
  }

  function chosen(exported, name) {
    return typeof exported === "function" ? exported : exported?.[name];
  }

  async function main() {
    let entry;
    try {
      entry = await load();
    } catch (error) {
      send("load_error", describe(error));
      process.exit(1);
    }
    if (typeof entry !== "function") {
      send("missing", null);
      process.exit(1);
    }
    for (const request of job.calls) {
      let kind = "value";
      let data;
      try {
        data = encode(await entry(...parse(request)[0]), 0, { nodes: 0 });
      } catch (error) {
        kind = "error";
        data = describe(error);
      }
      send(kind, data);
    }
    send("end", null);
    process.exit(0);
  }

  main();
})();
