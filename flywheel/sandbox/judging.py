"""Runs tests of answers in the warm pool and compares what comes back, outside the judged process.

Three kinds of test (see the task record in DESIGN.md): ``call`` (arguments in, a value out), ``io`` (a program's standard input and
output) and ``assert`` (test source that runs in a sandbox of its own, where the answer's functions are proxies). All call tests of
an answer share one execution, and so do all its assert tests; the limits hold for each execution. An answer may be in any of
`flywheel.sandbox.languages`.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flywheel.errors import SandboxError, VerifierError
from flywheel.sandbox.base import ExecResult, Job, Limits
from flywheel.sandbox.inside import plain
from flywheel.sandbox.languages import LANGUAGES, Language, Python, Setting
from flywheel.sandbox.outputs import same_output
from flywheel.sandbox.pool import WarmPool

Kind = Literal["passed", "wrong", "raised", "limit", "exited", "missing", "not_plain", "kills_grader", "tampered", "unfit"]
MAX_SHOWN = 200
MAX_NAME = 100
MAX_LOG = 1500
MAX_FRAME_BYTES = 2**29  # far more than a channel may carry; text where a frame's size should be says more
PLAIN = Setting()
V8_OUT_OF_MEMORY = re.compile(rb"out of memory|\bOOM\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class TestResult:
    """How one test went. `error` is safe to show; `got`, `expected` and `log` are shown for public tests only.

    `log` is the end of what the answer printed, and ``unfit`` says that the test can't be used, whatever the answer.
    """

    __test__ = False

    kind: Kind
    error: str = ""
    got: str = ""
    expected: str = ""
    shown_call: str = ""
    log: str = ""

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
        if size > MAX_FRAME_BYTES:
            return Frames(frames=tuple(frames), forged=True)
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


def show(value: Any, language: Language = LANGUAGES["python"]) -> str:
    """Return a short text of a plain value."""
    try:
        text = language.show(value)
    except (TypeError, ValueError, RecursionError):  # an integer of too many digits, for one
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def show_call(entry_point: str, test: Mapping[str, Any], language: Language = LANGUAGES["python"]) -> str:
    """Return a call test's call as source."""
    parts = [show(arg, language) for arg in test.get("args", ())]
    parts += [f"{name}={show(arg, language)}" for name, arg in test.get("kwargs", {}).items()]
    return f"{entry_point}({', '.join(parts)})"


def clean(text: str, most: int) -> str:
    """Return the end of a text from a judged process, which may hold anything, as text that can be stored."""
    return text[-most:].encode("utf-8", "backslashreplace").decode()


def log_of(result: ExecResult) -> str:
    """Return the end of what a process printed."""
    printed = [stream.decode(errors="replace").strip() for stream in (result.stdout, result.stderr)]
    return clean("\n".join(filter(None, printed)), MAX_LOG)


def stopped(result: ExecResult) -> TestResult:
    """Return what an execution's end means for a test that has no result of its own."""
    if result.kills_grader:
        return TestResult(kind="kills_grader", error="broke two fresh sandboxes")
    if result.limit is not None:
        names = {
            "cpu": "CPU time",
            "wall": "time",
            "output": "output",
            "memory": "memory",
            "disk": "disk",
            "files": "open files",
            "processes": "processes",
        }
        return TestResult(kind="limit", error=f"{names[result.limit]} limit")
    if result.exit_code in (-signal.SIGABRT, -signal.SIGTRAP) and V8_OUT_OF_MEMORY.search(result.stderr):
        return TestResult(kind="limit", error="memory limit")  # how V8 ends
    if result.exit_code < 0:
        return TestResult(kind="exited", error=f"killed by signal {-result.exit_code}")
    return TestResult(kind="exited", error="the program ended before the test did")


def _raised(body: Any) -> TestResult:
    if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in ("type", "text")):
        return TAMPERED
    if body["type"] == "NotPlainError":
        return NOT_PLAIN
    return TestResult(kind="raised", error=clean(body["type"], MAX_NAME), got=clean(body["text"], MAX_LOG))


TAMPERED = TestResult(kind="tampered", error="wrote to the grader's channel")
NOT_PLAIN = TestResult(kind="not_plain", error="returned something that is not plain data")


# ---------------------------------------------------------------- call tests


def run_calls(
    pool: WarmPool, source: str, entry_point: str, tests: Sequence[Mapping[str, Any]], limits: Limits, setting: Setting = PLAIN
) -> list[TestResult]:
    """Run all call tests of an answer in one execution.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    wanted_bytes = sum(len(json.dumps(plain.encode(test["expected"]))) for test in tests)
    limits = replace(limits, frames_bytes=limits.frames_bytes + 2 * wanted_bytes)  # what is asked for is no flood, in tuples neither
    result, report = _called(pool, source, entry_point, tests, limits, setting)
    judged = _judge_calls(result, report, tests, entry_point, LANGUAGES[setting.language])
    log = log_of(result)
    return [replace(test, log=log) for test in judged]


def run_values(
    pool: WarmPool, source: str, entry_point: str, inputs: Sequence[Sequence[Any]], limits: Limits, setting: Setting = PLAIN
) -> list[Any] | None:
    """Return what an answer gives on each of some arguments, in one execution.

    None where it does not give plain data on all of them, breaks a limit, does not come to its end or writes to the grader's channel.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    result, report = _called(pool, source, entry_point, [{"args": args} for args in inputs], limits, setting)
    kinds = [kind for kind, _ in report.frames]
    if report.forged or result.limit is not None or result.kills_grader or kinds != [*["value"] * len(inputs), "end"]:
        return None
    try:
        return [plain.decode(body) for _, body in report.frames[:-1]]
    except plain.NotPlainError:
        return None


def _called(
    pool: WarmPool, source: str, entry_point: str, tests: Sequence[Mapping[str, Any]], limits: Limits, setting: Setting
) -> tuple[ExecResult, Frames]:
    language, nonce = LANGUAGES[setting.language], secrets.token_hex(8)
    calls = [json.dumps([list(test.get("args", ())), dict(test.get("kwargs", {}))]) for test in tests]
    result = pool.run(language.calls(source, entry_point, calls, nonce=nonce, setting=setting, limits=limits))
    report = read_frames(result.frames, nonce)
    if report.frames and report.frames[0][0] == "no_program":
        _check_program(pool, language, limits)
    return result, report


def _judge_calls(
    result: ExecResult, report: Frames, tests: Sequence[Mapping[str, Any]], entry_point: str, language: Language
) -> list[TestResult]:
    frames = report.frames
    has_ended = len(frames) == len(tests) + 1
    if report.forged or len(frames) > len(tests) + 1 or "end" in [kind for kind, _ in frames[: len(tests)]]:
        return [TAMPERED] * len(tests)
    if has_ended and frames[-1][0] != "end":
        return [TAMPERED] * len(tests)
    if frames and (early := _early(*frames[0], entry_point)) is not None:
        return [stopped(result) if result.limit else early] * len(tests)
    results = [_judge_call(*frame, test, entry_point, language) for frame, test in zip(frames, tests, strict=False)]
    results += [stopped(result)] * (len(tests) - len(results))
    if result.limit is None and has_ended:
        return results
    return [*results[:-1], stopped(result)]  # every call was answered, perhaps, but the process did not come to its end


def _early(kind: str, body: Any, entry_point: str | None) -> TestResult | None:
    """Return what a frame that comes before any result means for every test."""
    if kind == "load_error":
        return _raised(body)
    return TestResult(kind="missing", error=f"{entry_point} is not defined") if kind == "missing" else None


def _check_program(pool: WarmPool, language: Language, limits: Limits) -> None:
    """See for ourselves whether a sandbox has the language's program: who says that it has not may be the answer.

    Raises:
        SandboxError: it has not.
    """
    nonce = secrets.token_hex(8)
    result = pool.run(language.program("", stdin=b"", nonce=nonce, setting=Setting(language=language.name), limits=limits))
    if "no_program" in [kind for kind, _ in read_frames(result.frames, nonce).frames]:
        raise SandboxError(f"{language.name} answers can't be judged here: {language.needs}")


def _judge_call(kind: str, body: Any, test: Mapping[str, Any], entry_point: str, language: Language) -> TestResult:
    if kind == "error":
        return _raised(body)
    if kind != "value":
        return TAMPERED
    try:
        got = plain.decode(body)
    except plain.NotPlainError:
        return TAMPERED
    right = language.same(got, test["expected"])
    return TestResult(
        kind="passed" if right else "wrong",
        error="" if right else "wrong answer",
        got=show(got, language),
        expected=show(test["expected"], language),
        shown_call=show_call(entry_point, test, language),
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


def run_program(pool: WarmPool, source: str, stdin: str, limits: Limits, setting: Setting = PLAIN) -> ProgramRun:
    """Run an answer as a program.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    language, nonce = LANGUAGES[setting.language], secrets.token_hex(8)
    data = stdin.encode("utf-8", "surrogatepass")
    result = pool.run(language.program(source, stdin=data, nonce=nonce, setting=setting, limits=limits))
    report = read_frames(result.frames, nonce)
    if any(kind == "no_program" for kind, _ in report.frames):
        _check_program(pool, language, limits)
    error = next((_raised(body) for kind, body in report.frames if kind == "load_error"), None)
    return ProgramRun(
        result=result,
        stdout=result.stdout.decode(errors="backslashreplace"),
        error=error.got if error else "",
        error_type=error.error if error else "",
        forged=report.forged or any(kind not in ("load_error", "end") for kind, _ in report.frames),
    )


def run_io(pool: WarmPool, source: str, test: Mapping[str, Any], limits: Limits, setting: Setting = PLAIN) -> TestResult:
    """Run one io test.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    wanted_bytes = len(str(test["stdout"]).encode("utf-8", "surrogatepass"))
    limits = replace(limits, output_bytes=limits.output_bytes + wanted_bytes)  # what is asked for is no flood
    run = run_program(pool, source, str(test.get("stdin", "")), limits, setting)
    log = clean(run.result.stderr.decode(errors="backslashreplace").strip(), MAX_LOG)
    if run.forged:
        return TAMPERED
    if run.result.limit or run.result.kills_grader or run.result.exit_code < 0:
        return replace(stopped(run.result), log=log)
    if run.error_type:
        return TestResult(kind="raised", error=run.error_type, got=run.error, log=log)
    if run.result.exit_code != 0:
        return TestResult(kind="exited", error=f"exit status {run.result.exit_code}", log=log)
    is_text = run.stdout.encode() == run.result.stdout  # a byte that is no text is not what stands for it in `stdout`
    right = is_text and same_output(run.stdout, str(test["stdout"]), test.get("compare") or "exact")
    return TestResult(
        kind="passed" if right else "wrong",
        error="" if right else "wrong output",
        got=show(run.stdout),
        expected=show(test["stdout"]),
        shown_call=f"stdin {show(test.get('stdin', ''))}",
        log=log,
    )


# ---------------------------------------------------------------- assert tests


def run_asserts(
    pool: WarmPool, source: str, entry_point: str | None, sources: Sequence[str], limits: Limits, setting: Setting = PLAIN
) -> list[TestResult]:
    """Run all assert tests of a Python answer in one pair of executions: the answer in one sandbox, the tests in another.

    Raises:
        SandboxError: sandboxes can't be started.
    """
    nonce, own = secrets.token_hex(8), secrets.token_hex(8)
    body = {**Python.body(source, nonce, setting), "entry_point": entry_point, "handles": setting.handles}
    tests = {"nonce": own, "tests": list(sources), "entry_point": entry_point, "files": dict(setting.files), "handles": setting.handles}
    patient = replace(limits, idle_s=limits.wall_s)  # the tests wait while the answer works, which takes long on a busy machine
    judged, tester = pool.run_pair(Job(kind="serve", body=body, limits=limits), Job(kind="asserts", body=tests, limits=patient))
    answer, report = read_frames(judged.frames, nonce), read_frames(tester.frames, own)
    results = _judge_asserts(judged, tester, answer, report, len(sources), entry_point)
    log = log_of(judged)
    return [replace(result, log=log) for result in results]


def _judge_asserts(
    judged: ExecResult, tester: ExecResult, answer: Frames, report: Frames, num_tests: int, entry_point: str | None
) -> list[TestResult]:
    kinds = [kind for kind, _ in answer.frames]
    if answer.forged or kinds not in ([], ["loaded"], ["loaded", "end"], ["load_error"], ["missing"]):
        return [TAMPERED] * num_tests
    if report.forged:
        raise VerifierError("an assert test wrote to its own result channel")
    if kinds and (early := _early(*answer.frames[0], entry_point)) is not None:
        return [stopped(judged) if judged.limit else early] * num_tests
    said = dict(enumerate(report.frames))
    if any(kind == "forged" for kind, _ in report.frames):
        return [TAMPERED] * num_tests
    gone = stopped(tester if judged.stopped or judged.exit_code == 0 else judged)
    return [_judge_assert(*said.get(at, ("gone", {})), gone) for at in range(num_tests)]


def _judge_assert(kind: str, body: Any, gone: TestResult) -> TestResult:
    if kind == "passed":
        return TestResult(kind="passed")
    if kind == "failed":
        told = clean("\n".join(filter(None, (body["where"], body["text"]))), MAX_LOG)
        if body["type"] == "NotPlainError":
            return replace(NOT_PLAIN, error=f"{NOT_PLAIN.error} (see handles)", got=told)
        return TestResult(kind="wrong", error=clean(body["type"], MAX_NAME), got=told)
    if kind == "unfit":
        return TestResult(kind="unfit", error=clean(body["text"], MAX_LOG))
    return gone
