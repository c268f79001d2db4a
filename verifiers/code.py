"""The code verifier: judges source by public and hidden tests, in sandboxes that never hold what is expected.

The task's payload (`flywheel.verifiers.code_payload`) is `entry_point` (a function's name, or null for a program), `public_tests`,
`hidden_tests`, `limits {wall_s, memory_mb}` and what the answer finds around it. ``wall_s`` limits the CPU time of each execution;
wall-clock time is limited more generously, so that a busy machine fails nobody. Public and hidden tests never share an
execution: evidence shows what public tests got, expected and printed, and of hidden tests only how they failed.
An answer that is no source as it stands may be Markdown with the source between fences (`flywheel.sandbox.inside.fences`).

``call`` tests compare plain data strictly (`flywheel.sandbox.inside.plain.same`): types count, a tuple equals a list. ``io`` tests
compare lines, or numbers where a test says so (`flywheel.sandbox.outputs`). The source of ``assert`` tests runs in a sandbox of its own,
where the answer's functions are proxies that pass plain data by value, iterators (ranges and a dictionary's views too) as their first
items. A function that returns None may change its arguments in place; the answer's own classes can't be tested (but see ``handles`` in
the payload, a mode of lower trust). A test that passes or fails without calling the answer can't judge it, nor can a prelude that fails
by itself: that is the task's fault, and a `ValueError`.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from flywheel.sandbox import Limits, WarmPool, shared_pool
from flywheel.sandbox.judging import TestResult, run_asserts, run_calls, run_io, run_program, stopped
from flywheel.types import Check, Outcome, Task, Trajectory, Verdict
from flywheel.verifiers.code_payload import CodePayload, read_limits

MAX_SOURCE_CHARS = 100_000
MAX_EVIDENCE_CHARS = 2000
MIN_MEMORY_MB = 64  # below it no interpreter starts
HIDDEN_SHARE = 0.5  # what partial credit can come to
Visibility = Literal["public", "hidden"]
PUBLIC: Visibility = "public"
HIDDEN: Visibility = "hidden"
# An answer that raises may name its exception after what a hidden test gave it, so only names that are Python's own are shown.
_SAYABLE = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)}
_SAYABLE |= {"wrong answer", "wrong output"}


def run_tests(pool: WarmPool, source: str, payload: CodePayload, tests: Sequence[Mapping[str, Any]]) -> list[TestResult]:
    """Run some of a task's tests against an answer and return their results in order.

    Raises:
        InfraError: sandboxes can't be started.
    """
    results: dict[int, TestResult] = {}
    fatal: TestResult | None = None
    for places in _executions(tests):
        chosen = [tests[at] for at in places]
        limits = _limits(pool, payload, chosen[0].get("limits"))
        ran = [fatal] * len(places) if fatal else _run_together(pool, source, payload, chosen, limits)
        results.update(zip(places, ran, strict=True))
        fatal = fatal or _fatal(ran, chosen)
    return [results[at] for at in range(len(tests))]


def _fatal(results: Sequence[TestResult], tests: Sequence[Mapping[str, Any]]) -> TestResult | None:
    """Return a result that further tests would come to as well: it broke sandboxes, or reached the limits that tests share."""
    for result, test in zip(results, tests, strict=True):
        if result.kind in ("kills_grader", "tampered") or (result.kind == "limit" and not test.get("limits")):
            return result
    return None


def _executions(tests: Sequence[Mapping[str, Any]]) -> Iterator[list[int]]:
    """Yield which tests share an execution: all calls, all asserts; a program's run, or a test with limits of its own, has its own."""
    shared = [at for at, test in enumerate(tests) if not test.get("limits")]
    for kind in ("call", "assert"):
        if together := [at for at in shared if tests[at]["kind"] == kind]:
            yield together
    yield from ([at] for at, test in enumerate(tests) if test["kind"] == "io" and not test.get("limits"))
    yield from ([at] for at, test in enumerate(tests) if test.get("limits"))


def _limits(pool: WarmPool, payload: CodePayload, own: Any) -> Limits:
    wall_s, memory_mb = read_limits(own)
    memory_mb = memory_mb or payload.memory_mb
    return pool.limits(cpu_s=wall_s or payload.wall_s, memory_mb=max(MIN_MEMORY_MB, memory_mb) if memory_mb else None)


def _prelude_problem(pool: WarmPool, payload: CodePayload, results: Sequence[TestResult]) -> str:
    """Return how what runs before every answer fails without one, where that may be why nothing passed; no answer has a say in it."""
    if not payload.setting.prelude or not all(result.kind in ("raised", "limit", "exited") for result in results):
        return ""
    stdin = str((*payload.public_tests, *payload.hidden_tests)[0].get("stdin", ""))
    run = run_program(pool, "", stdin, _limits(pool, payload, None), payload.setting)
    if run.error_type:
        return run.error.strip().splitlines()[-1]
    return stopped(run.result).error if run.result.limit or run.result.exit_code else ""


def _run_together(
    pool: WarmPool, source: str, payload: CodePayload, tests: Sequence[Mapping[str, Any]], limits: Limits
) -> list[TestResult]:
    kind, name, setting = tests[0]["kind"], payload.entry_point, payload.setting
    if kind == "call":
        assert name is not None  # the payload was checked
        return run_calls(pool, source, name, tests, limits, setting)
    if kind == "assert":
        return run_asserts(pool, source, name, [test["source"] for test in tests], limits, setting)
    return [run_io(pool, source, tests[0], limits, setting)]


def explain(result: TestResult, visibility: Visibility) -> str:
    """Return some lines on one test, without what a hidden test gives, expects or makes the answer print."""
    if visibility == HIDDEN:
        return f"hidden test: {hidden_error(result)}"
    if result.kind == "wrong" and result.shown_call:
        said = f"{result.shown_call}: got {result.got}, expected {result.expected}"
    elif result.kind == "unfit":
        said = f"the test itself can't be used: {result.error}"
    else:
        said = f"{result.error}\n{result.got}".strip()
    return f"{said}\nprinted:\n{result.log}" if result.log else said


def hidden_error(result: TestResult) -> str:
    """Return how a hidden test failed, in words that the answer did not choose."""
    free = result.kind in ("raised", "wrong") and result.error not in _SAYABLE
    return "an exception of its own" if free else result.error


class CodeVerifier:
    """Judges ``trajectory.answer`` as source: ``solved`` (1.0) only if every public and hidden test passes.

    Args:
        pool: Where answers run; the process's shared pool by default, which `close` leaves alone.
        partial_credit: Reward a failure with half the share of hidden tests that pass, instead of 0.
    """

    name = "code"
    version = "6"

    def __init__(self, *, pool: WarmPool | None = None, partial_credit: bool = False) -> None:
        self._pool = pool
        self.partial_credit = partial_credit

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict on the answer.

        Raises:
            InfraError: sandboxes can't be started.
            ValueError: the task's payload is malformed, or one of its tests can't be used whatever the answer.
        """
        started = time.monotonic()
        payload = CodePayload.read(task.payload)
        source = trajectory.answer
        if source is None or not source.strip():
            return self._verdict("failed", 0.0, [Check(name="no_answer", passed=False)], "no answer", started)
        if len(source) > MAX_SOURCE_CHARS:
            check = Check(name="answer_size", passed=False, detail=f"{len(source)} characters, at most {MAX_SOURCE_CHARS}")
            return self._verdict("failed", 0.0, [check], check.detail, started)
        pool = self._pool or shared_pool()
        public = run_tests(pool, source, payload, payload.public_tests)
        fatal = _fatal(public, payload.public_tests)
        hidden = [fatal] * len(payload.hidden_tests) if fatal else run_tests(pool, source, payload, payload.hidden_tests)
        for label, part in ((PUBLIC, public), (HIDDEN, hidden)):
            for at, result in enumerate(part):
                if result.kind == "unfit":
                    raise ValueError(f"code payload: {label}_tests[{at}] can't be used: {result.error}")
        results = [*public, *hidden]
        if problem := _prelude_problem(pool, payload, results):
            raise ValueError(f"code payload: prelude can't be used: it fails by itself ({problem})")
        labels = [PUBLIC for _ in public] + [HIDDEN for _ in hidden]
        checks = [
            Check(name=_check_name(result, label), passed=result.passed, detail=_detail(result, label))
            for result, label in zip(results, labels, strict=True)
        ]
        evidence = next((explain(r, label) for r, label in zip(results, labels, strict=True) if not r.passed), "all tests passed")
        if any(result.kind == "tampered" for result in results):
            return self._verdict("tampered", 0.0, checks, evidence, started)
        if all(result.passed for result in results):
            return self._verdict("solved", 1.0, checks, evidence, started)
        passed = sum(result.passed for result in hidden)
        reward = HIDDEN_SHARE * passed / len(hidden) if self.partial_credit and hidden else 0.0
        return self._verdict("failed", reward, checks, evidence, started)

    def _verdict(self, outcome: Outcome, reward: float, checks: list[Check], evidence: str, started: float) -> Verdict:
        return Verdict(
            outcome=outcome,
            reward=reward,
            checks=tuple(checks),
            evidence=evidence[-MAX_EVIDENCE_CHARS:],
            verifier=self.name,
            verifier_version=self.version,
            duration_s=time.monotonic() - started,
        )

    def close(self) -> None:
        """Nothing to release: the pool belongs to the process or to the caller."""


def _detail(result: TestResult, visibility: Visibility) -> str:
    if result.passed:
        return ""
    return f"{visibility}: {hidden_error(result) if visibility == HIDDEN else result.error}"


def _check_name(result: TestResult, visibility: Visibility) -> str:
    special = {"kills_grader", "tampered", "limit"}
    return result.kind if result.kind in special else f"{visibility}_test"
