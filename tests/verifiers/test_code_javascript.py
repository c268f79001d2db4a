"""JavaScript answers: references pass, wrong answers fail, hacks never score, and a sandbox without node is nobody's fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.envs.code import CodeEnv
from flywheel.errors import SandboxError
from flywheel.preflight import check
from flywheel.sandbox.languages import JavaScript
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.code import CodeVerifier

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine (apt-get install nodejs)")
CALLS: dict[str, Any] = {
    "entry_point": "f",
    "public_tests": [{"kind": "call", "args": [[10, 9, 1]], "expected": [1, 9, 10]}],
    "hidden_tests": [{"kind": "call", "args": [[4, 0]], "expected": [0, 4]}, {"kind": "call", "args": [[]], "expected": []}],
}
PROGRAM: dict[str, Any] = {
    "entry_point": None,
    "public_tests": [{"kind": "io", "stdin": "2\n", "stdout": "4"}],
    "hidden_tests": [{"kind": "io", "stdin": "5\n", "stdout": "10"}],
}
SORTS = "xs.sort((a, b) => a - b)"


def judged(answer: str, payload: dict[str, Any], **more: Any) -> Verdict:
    whole = {"language": "javascript", "limits": {"wall_s": 1.0, "memory_mb": 128}, **payload, **more}
    task = Task.create(env="code", family="test", prompt="", payload=whole)
    return CodeVerifier().verify(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer))


REFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "function": (CALLS, f"function f(xs) {{ return {SORTS}; }}"),
    "constant": (CALLS, f"'use strict'; const f = (xs) => {SORTS};"),
    "exported": (CALLS, f"module.exports = {{ f: (xs) => {SORTS} }};"),
    "the only export": (CALLS, f"module.exports = (xs) => {SORTS};"),
    "module": (CALLS, f"import assert from 'assert';\nexport function f(xs) {{ assert(xs); return {SORTS}; }}"),
    "module that exports another": (CALLS, f"const f = (xs) => {SORTS};\nexport default 5;"),
    "module's default": (CALLS, f"export default (xs) => {SORTS};"),
    "asynchronous": (CALLS, f"async function f(xs) {{ await null; return {SORTS}; }}"),
    "fenced": (CALLS, f"Here's one:\n```js\nconst f = (xs) => {SORTS};\n```\n```js\nconsole.log(f([1]));\n```"),
    "prints": (CALLS, f"function f(xs) {{ console.log(xs); return {SORTS}; }}"),
    "requires": (CALLS, f"const assert = require('assert'); function f(xs) {{ assert(xs); return {SORTS}; }}"),
    "program": (PROGRAM, "console.log(2 * require('fs').readFileSync(0, 'utf8'));"),
    "program that names its input": (PROGRAM, "console.log(2 * require('fs').readFileSync('/dev/stdin', 'utf8'));"),
    "program with events": (PROGRAM, "process.stdin.on('data', (text) => console.log(2 * text));"),
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sorts text": (CALLS, "function f(xs) { return xs.sort(); }"),
    "strings": (CALLS, f"function f(xs) {{ return {SORTS}.map(String); }}"),
    "throws": (CALLS, "function f(xs) { throw new TypeError('no'); }"),
    "syntax": (CALLS, "function f(xs) return"),
    "no function": (CALLS, "function g(xs) {}"),
    "module without it": (CALLS, "export const g = 1;"),
    "module that throws": (CALLS, "export const f = nothing;"),
    "nothing": (CALLS, f"function f(xs) {{ {SORTS}; }}"),
    "loop": (CALLS, "function f(xs) { for (;;); }"),
    "heap": (CALLS, "function f(xs) { const a = []; for (;;) a.push(new Array(1e6).fill(0)); }"),
    "buffers": (CALLS, "function f(xs) { const a = []; for (;;) a.push(Buffer.alloc(1e7, 1)); }"),
    "shared buffers": (
        CALLS,
        "function f(xs) { const a = []; for (;;) { const b = new SharedArrayBuffer(1e7); new Uint8Array(b).fill(1); a.push(b); } }",
    ),
    "shared memory": (
        CALLS,
        "function f(xs) { const a = []; for (;;) { const m = new WebAssembly.Memory({ initial: 200, maximum: 200, shared: true });"
        " new Uint8Array(m.buffer).fill(1); a.push(m); } }",
    ),
    "recursion": (CALLS, "function f(xs) { return f(xs); }"),
    "program": (PROGRAM, "console.log(4);"),
    "program throws": (PROGRAM, "console.log(2 * require('fs').readFileSync(0, 'utf8')); throw 1;"),
}
HACKS: dict[str, tuple[dict[str, Any], str]] = {
    "exits": (CALLS, "process.exit(0);"),
    "exits in the call": (CALLS, "function f() { process.exit(0); }"),
    "never settles": (CALLS, "function f() { return new Promise(() => {}); }"),
    "kills itself": (CALLS, "function f() { process.kill(process.pid, 'SIGKILL'); }"),
    "aborts": (CALLS, "function f() { process.abort(); }"),
    "starts a program": (CALLS, "function f(xs) { require('child_process').execSync('true'); return xs.sort((a, b) => a - b); }"),
    "reads the host": (CALLS, "function f(xs) { require('fs').readFileSync('/etc/passwd'); return xs.sort((a, b) => a - b); }"),
    "patches JSON": (CALLS, "JSON.stringify = () => '[1,9,10]'; JSON.parse = () => [1]; function f(xs) { return xs; }"),
    "patches arrays": (CALLS, "Array.isArray = () => true; Array.from = () => [1, 9, 10]; function f(xs) { return xs; }"),
    "always equal": (CALLS, "function f() { return { valueOf: () => [1, 9, 10], toJSON: () => [1, 9, 10], length: 3 }; }"),
    "proxy": (CALLS, "function f() { return new Proxy([], { get: (t, k) => (k === 'length' ? 3 : () => 1) }); }"),
    "looks for what is expected": (
        CALLS,
        "function f(xs) { for (const k of Object.keys(globalThis)) if (globalThis[k]?.expected) return k; return xs; }",
    ),
    "reads the job": (CALLS, "function f(xs) { return JSON.parse(require('fs').readFileSync('.job', 'utf8')).calls[0]; }"),
    "a thread goes on": (CALLS, "new (require('worker_threads').Worker)('for (;;);', { eval: true }); function f(xs) { return xs; }"),
    "floods": (CALLS, "function f() { for (;;) require('fs').writeSync(1, 'x'.repeat(1e5)); }"),
    "hard-coded": (CALLS, "function f(xs) { return xs.length === 3 ? [1, 9, 10] : xs; }"),
    "program exits": (PROGRAM, "console.log(4); process.exitCode = 0;"),
}
FRAME = (
    "const p = Buffer.from(JSON.stringify({0})); const h = Buffer.alloc(4); h.writeUInt32BE(p.length);"
    "require('fs').writeSync(3, Buffer.concat([h, p]));"
)
TAMPERING = {
    "no nonce": FRAME.replace("{0}", "['', 0, 'value', [1, 9, 10]]") + "function f(xs) { return xs; }",
    "claims that node is missing": FRAME.replace("{0}", "['x', 0, 'no_program', null]") + "process.exit(127);",
}


@needs_node
@pytest.mark.parametrize("name", REFERENCES)
def test_references_are_solved(name: str) -> None:
    payload, answer = REFERENCES[name]
    verdict = judged(answer, payload)
    assert (verdict.outcome, verdict.reward) == ("solved", 1.0), verdict


@needs_node
@pytest.mark.parametrize("name", [*WRONG, *HACKS])
def test_nothing_else_scores(name: str) -> None:
    payload, answer = {**WRONG, **HACKS}[name]
    verdict = judged(answer, payload)
    assert verdict.outcome in ("failed", "tampered")
    assert verdict.reward == 0.0


@needs_node
@pytest.mark.parametrize("name", TAMPERING)
def test_forged_frames_are_tampering(name: str) -> None:
    assert judged(TAMPERING[name], CALLS).outcome == "tampered"


@needs_node
def test_limits_and_errors_are_named() -> None:
    assert "time limit" in judged(WRONG["loop"][1], CALLS).evidence
    assert "memory limit" in judged(WRONG["heap"][1], CALLS, limits={"wall_s": 8.0, "memory_mb": 128}).evidence
    thrown = judged(WRONG["throws"][1], CALLS).evidence
    assert "TypeError: no" in thrown
    assert "answer.js:1" in thrown
    assert judged(WRONG["sorts text"][1], CALLS).evidence == "f([10, 9, 1]): got [1, 10, 9], expected [1, 9, 10]"


@needs_node
def test_values_cross_with_their_meaning() -> None:
    tests = [
        {"kind": "call", "args": ["pair"], "expected": {"a": [1, 2.5, None, True], "é": "⊢"}},
        {"kind": "call", "args": ["whole"], "expected": 2.0},
        {"kind": "call", "args": ["nothing"], "expected": None},
        {"kind": "call", "args": ["big"], "expected": 2**70},
    ]
    answer = "const f = (k) => ({ pair: { a: [1, 2.5, null, true], 'é': '⊢', no: undefined }, whole: 2, big: 2n ** 70n })[k];"
    assert judged(answer, {"entry_point": "f", "hidden_tests": tests}).outcome == "solved"
    ones = [{"kind": "call", "args": [], "expected": True}]
    assert judged("const f = () => 1;", {"entry_point": "f", "hidden_tests": ones}).outcome == "failed"


@needs_node
def test_prelude_and_files() -> None:
    more = {"prelude": "const double = (x) => 2 * x;", "files": {"lib.js": "exports.two = 2;"}}
    answer = "const { two } = require(`${__dirname}/lib.js`); function f() { return double(two); }"
    assert judged(answer, {"entry_point": "f", "hidden_tests": [{"kind": "call", "expected": 4}]}, **more).outcome == "solved"


@needs_node
def test_the_environment_runs_and_tests_it() -> None:
    env = CodeEnv()
    payload = {**CALLS, "language": "javascript", "files": {"two.txt": "2"}}
    env.reset(options={"task": Task.create(env="code", family="test", prompt="", payload=payload)})

    def step(name: str, code: str) -> str:
        return env.step(json.dumps({"name": name, "arguments": {"code": code}}))[0]

    assert step("run_code", "console.log(require('fs').readFileSync('two.txt', 'utf8') * 2)") == "4"
    assert "ReferenceError: x is not defined" in step("run_code", "x")
    assert step("run_tests", REFERENCES["function"][1]) == "1/1 passed"
    assert step("run_tests", "const f = (xs) => (console.log('seen'), xs);").endswith("expected [1, 9, 10]\nprinted:\nseen")
    assert step("submit", REFERENCES["constant"][1]) == "submitted"


def test_a_sandbox_without_node_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JavaScript, "program_name", "no-such-node")
    for payload in (CALLS, PROGRAM):
        with pytest.raises(SandboxError, match="apt-get install nodejs"):
            judged("console.log(1)", payload)


def test_a_recipe_with_such_tasks_is_told_so_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps({"prompt": "", "payload": {**CALLS, "language": "javascript"}}), "utf-8")
    monkeypatch.setattr(JavaScript, "program_name", "no-such-node")

    def problems(path: Path, backend: str = "bubblewrap") -> tuple[str, ...]:
        section = {"tasks_file": str(path)}
        recipe = Recipe.model_validate({"environments": {"code": section}, "sandbox": {"backend": backend}})
        return tuple(problem for problem in check(recipe) if "javascript" in problem)

    (problem,) = problems(file)
    assert problem.startswith(f"environments.code: {file} has tasks in javascript, and node is not on the sandbox's PATH")
    assert problems(file, "docker") == ()  # whose images have programs of their own
    file.write_text(json.dumps({"prompt": "", "payload": CALLS}), "utf-8")
    assert problems(file) == ()
