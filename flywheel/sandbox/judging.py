"""Runs tests of Python answers in the warm pool and compares what comes back, outside the judged process.

Three kinds of test (see the task record in DESIGN.md): ``call`` (arguments in, a value out), ``io`` (a program's standard input and
output) and ``assert`` (test source that runs in a sandbox of its own, where the answer's functions are proxies). All call tests of
an answer share one execution, and so do all its assert tests; the limits hold for each execution.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flywheel.errors import VerifierError
from flywheel.sandbox.base import ExecResult, Job, Limits
from flywheel.sandbox.inside import plain
from flywheel.sandbox.pool import WarmPool

Kind = Literal["passed", "wrong", "raised", "limit", "exited", "missing", "not_plain", "kills_grader", "tampered"]
MAX_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class TestResult:
    """How one test went. `error` is safe to show; `got` and `expected` are shown for public tests only."""

    __test__ = False

    kind: Kind
    error: str = ""
    got: str = ""
    expected: str = ""
    shown_call: str = ""

    @property
    def passed(self) -> bool:
        """Whether the test passed."""
        return self.kind == "passed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """What a judged process reported. `forged` says that no honest one writes such frames."""

    frames: tuple[tuple[str, Any], ...]
    forged: bool


def read_frames(data: bytes, nonce: str) -> Frames:
    """Return the frames in order; a cut-off last one is dropped, because a process may be stopped while it writes."""
    frames: list[tuple[str, Any]] = []
    at = 0
    while len(data) - at >= plain.HEAD.size:
        (size,) = plain.HEAD.unpack_from(data, at)
        at += plain.HEAD.size
        if len(data) - at < size:
            return Frames(frames=tuple(frames), forged=False)
        try:
            own, number, kind, body = plain.unpack(data[at : at + size])
        except plain.NotPlainError:
            return Frames(frames=tuple(frames), forged=True)
        if own != nonce or number != len(frames) or (frames and frames[-1][0] == "end"):
            return Frames(frames=tuple(frames), forged=True)
        frames.append((kind, body))
        at += size
    return Frames(frames=tuple(frames), forged=False)


def show(value: Any) -> str:
    """Return a short text of a plain value."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def show_call(entry_point: str, test: Mapping[str, Any]) -> str:
    """Return a call test's call as Python source."""
    parts = [show(arg) for arg in test.get("args", ())] + [f"{name}={show(arg)}" for name, arg in test.get("kwargs", {}).items()]
    return f"{entry_point}({', '.join(parts)})"


def stopped(result: ExecResult) -> TestResult:
    """Return what an execution's end means for a test that has no result of its own."""
    if result.kills_grader:
        return TestResult(kind="kills_grader", error="broke two fresh sandboxes")
    if result.limit is not None:
        names = {"cpu": "CPU time", "wall": "time", "output": "output", "memory": "memory", "disk": "disk"}
        return TestResult(kind="limit", error=f"{names[result.limit]} limit")
    if result.exit_code < 0:
        return TestResult(kind="exited", error=f"killed by signal {-result.exit_code}")
    return TestResult(kind="exited", error="the program ended before the test did")


def _raised(body: Any) -> TestResult:
    if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in ("type", "text")):
        return TestResult(kind="tampered", error="malformed result")
    if body["type"] == "NotPlainError":
        return TestResult(kind="not_plain", error="returned something that is not plain data")
    return TestResult(kind="raised", error=body["type"], got=body["text"])


# ---------------------------------------------------------------- call tests


def run_calls(pool: WarmPool, source: str, entry_point: str, tests: Sequence[Mapping[str, Any]], limits: Limits) -> list[TestResult]:
    """Run all call tests of an answer in one execution.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    nonce = secrets.token_hex(8)
    calls = [json.dumps([list(test.get("args", ())), dict(test.get("kwargs", {}))]) for test in tests]
    result = pool.run(Job(kind="calls", body={"nonce": nonce, "source": source, "entry_point": entry_point, "calls": calls}, limits=limits))
    report = read_frames(result.frames, nonce)
    frames = report.frames
    if report.forged:
        return [TestResult(kind="tampered", error="wrote to the grader's channel")] * len(tests)
    if frames and frames[0][0] in ("load_error", "missing"):
        first = _raised(frames[0][1]) if frames[0][0] == "load_error" else TestResult(kind="missing", error=f"{entry_point} is not defined")
        return [stopped(result) if result.limit else first] * len(tests)
    results = []
    for at, test in enumerate(tests):
        if at >= len(frames) or frames[at][0] == "end":
            results.append(stopped(result))
        else:
            results.append(_judge_call(*frames[at], test, entry_point))
    if len(frames) > len(tests) + 1 or (len(frames) == len(tests) + 1 and frames[-1][0] != "end"):
        return [TestResult(kind="tampered", error="wrote to the grader's channel")] * len(tests)
    if result.limit is None and len(frames) == len(tests) + 1:
        return results
    return [*results[:-1], stopped(result)]  # every call was answered, perhaps, but the process did not come to its end


def _judge_call(kind: str, body: Any, test: Mapping[str, Any], entry_point: str) -> TestResult:
    if kind == "error":
        return _raised(body)
    if kind != "value":
        return TestResult(kind="tampered", error="malformed result")
    try:
        got = plain.decode(body)
    except plain.NotPlainError:
        return TestResult(kind="tampered", error="malformed result")
    right = plain.same(got, test["expected"])
    return TestResult(
        kind="passed" if right else "wrong",
        error="" if right else "wrong answer",
        got=show(got),
        expected=show(test["expected"]),
        shown_call=show_call(entry_point, test),
    )


# ---------------------------------------------------------------- programs


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramRun:
    """How a program ran. `error` is its traceback, from the answer's own lines."""

    result: ExecResult
    stdout: str
    error: str
    error_type: str
    forged: bool


def run_program(pool: WarmPool, source: str, stdin: str, limits: Limits) -> ProgramRun:
    """Run an answer as a program.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    nonce = secrets.token_hex(8)
    data = stdin.encode("utf-8", "surrogatepass")
    result = pool.run(Job(kind="program", body={"nonce": nonce, "source": source}, limits=limits, stdin=data))
    report = read_frames(result.frames, nonce)
    error = next((_raised(body) for kind, body in report.frames if kind == "load_error"), None)
    return ProgramRun(
        result=result,
        stdout=result.stdout.decode(errors="replace"),
        error=error.got if error else "",
        error_type=error.error if error else "",
        forged=report.forged,
    )


def normalise(text: str) -> list[str]:
    """Return lines without trailing white space, and without empty lines at the end."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip().split("\n")


def run_io(pool: WarmPool, source: str, test: Mapping[str, Any], limits: Limits) -> TestResult:
    """Run one io test.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    run = run_program(pool, source, str(test.get("stdin", "")), limits)
    if run.forged:
        return TestResult(kind="tampered", error="wrote to the grader's channel")
    if run.result.limit or run.result.kills_grader or run.result.exit_code < 0:
        return stopped(run.result)
    if run.error_type:
        return TestResult(kind="raised", error=run.error_type, got=run.error)
    if run.result.exit_code != 0:
        return TestResult(kind="exited", error=f"exit status {run.result.exit_code}")
    right = normalise(run.stdout) == normalise(str(test["stdout"]))
    return TestResult(
        kind="passed" if right else "wrong",
        error="" if right else "wrong output",
        got=show(run.stdout),
        expected=show(test["stdout"]),
        shown_call=f"stdin {show(test.get('stdin', ''))}",
    )


# ---------------------------------------------------------------- assert tests


def run_asserts(pool: WarmPool, source: str, entry_point: str | None, sources: Sequence[str], limits: Limits) -> list[TestResult]:
    """Run all assert tests of an answer in one pair of executions: the answer in one sandbox, the tests in another.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    nonce, own = secrets.token_hex(8), secrets.token_hex(8)
    served = Job(kind="serve", body={"nonce": nonce, "source": source, "entry_point": entry_point}, limits=limits)
    leader = Job(kind="asserts", body={"nonce": own, "tests": list(sources), "entry_point": entry_point}, limits=limits)
    judged, tester = pool.run_pair(served, leader)
    answer, report = read_frames(judged.frames, nonce), read_frames(tester.frames, own)
    if answer.forged:
        return [TestResult(kind="tampered", error="wrote to the grader's channel")] * len(sources)
    if report.forged:
        raise VerifierError("an assert test wrote to its own result channel")
    early = next((frame for frame in answer.frames if frame[0] in ("load_error", "missing")), None)
    if early is not None:
        first = _raised(early[1]) if early[0] == "load_error" else TestResult(kind="missing", error=f"{entry_point} is not defined")
        return [stopped(judged) if judged.limit else first] * len(sources)
    results = []
    for at in range(len(sources)):
        kind, body = report.frames[at] if at < len(report.frames) else ("gone", {})
        if kind == "passed":
            results.append(TestResult(kind="passed"))
        elif kind == "failed":
            results.append(TestResult(kind="wrong", error=str(body.get("type")), got=str(body.get("text"))))
        else:
            results.append(stopped(tester if judged.stopped or judged.exit_code == 0 else judged))
    return results
