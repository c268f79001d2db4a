// Runs inside the sandbox: loads a JavaScript answer as a script, calls its entry point and writes a frame for each result.
// It holds arguments and never what they should lead to; code of the answer's in this process can forge results, and gains no
// more than by returning them.
"use strict";
(() => {
  const fs = require("fs");
  const path = require("path");
  const vm = require("vm");
  const { Module, createRequire } = require("module");
  const CHANNEL = 3;
  const ANSWER = path.resolve("answer.js");
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
    if (kind === Object.prototype || kind === null) return { d: Object.keys(value).map((key) => [key, inner(value[key])]) };
    throw new NotPlainError(typeof value);
  }

  function describe(error) {
    let type = "Error";
    let text = "(an error that can't be shown)";
    try {
      if (error instanceof Error) {
        type = error instanceof NotPlainError ? "NotPlainError" : String(error.name);
        const own = String(error.stack).split("\n").filter((line) => line.includes("answer.js"));
        text = [`${type}: ${error.message}`, ...own].join("\n");
      } else {
        text = `threw ${String(error)}`;
      }
    } catch {
      // A hostile error may throw anything while it is shown.
    }
    return { type: type.slice(0, 100), text: text.slice(-MAX_ERROR_CHARS) };
  }

  function load() {
    const module = new Module(ANSWER);
    const own = { module, exports: module.exports, require: createRequire(ANSWER), __filename: ANSWER, __dirname: path.dirname(ANSWER) };
    Object.assign(globalThis, own);
    vm.runInThisContext(fs.readFileSync(ANSWER, "utf8"), { filename: "answer.js" });
    const name = job.entry_point;
    const found = vm.runInThisContext(`typeof ${name} === "undefined" ? undefined : ${name}`);
    if (found !== undefined) return found;
    return module.exports?.[name];
  }

  async function main() {
    let entry;
    try {
      entry = load();
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
