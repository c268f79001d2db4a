"""The code verifier: judges Python source by public and hidden tests, in sandboxes that never hold what is expected.

The task's payload (`flywheel.verifiers.code_payload`) is `entry_point` (a function's name, or null for a program), `public_tests`,
`hidden_tests` and `limits {wall_s, memory_mb}`. ``wall_s`` limits the CPU time of each execution; wall-clock time is limited more
generously, so that a busy machine fails nobody. Evidence shows what public tests got and expected, and of hidden tests only how they
failed.

``call`` tests compare plain data strictly (`flywheel.sandbox.inside.plain.same`): types count, a tuple equals a list. The source of
``assert`` tests runs in a sandbox of its own, where the answer's functions are proxies that pass plain data by value: a test can't
see an argument changed in place, nor use the answer's own classes.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flywheel.sandbox import WarmPool, shared_pool
from flywheel.sandbox.judging import TestResult, run_asserts, run_calls, run_io
from flywheel.types import Check, Outcome, Task, Trajectory, Verdict
from flywheel.verifiers.code_payload import TESTS, CodePayload

MAX_SOURCE_CHARS = 100_000
MAX_EVIDENCE_CHARS = 2000
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
    limits = pool.limits(cpu_s=payload.wall_s, memory_mb=payload.memory_mb)
    by_kind = {kind: [at for at, test in enumerate(tests) if test["kind"] == kind] for kind in TESTS}
    results: dict[int, TestResult] = {}
    if (at := by_kind["call"]) and payload.entry_point is not None:
        results.update(zip(at, run_calls(pool, source, payload.entry_point, [tests[i] for i in at], limits), strict=True))
    fatal = None  # what reaches a limit once would reach it again, at the same cost
    for i in by_kind["io"]:
        results[i] = fatal or run_io(pool, source, tests[i], limits)
        fatal = results[i] if results[i].kind in ("limit", "kills_grader", "tampered") else None
    if at := by_kind["assert"]:
        sources = [tests[i]["source"] for i in at]
        results.update(zip(at, run_asserts(pool, source, payload.entry_point, sources, limits), strict=True))
    return [results[i] for i in range(len(tests))]


def explain(result: TestResult, visibility: Visibility) -> str:
    """Return a line or two on one test, without what a hidden test expects."""
    if visibility == HIDDEN:
        return f"hidden test: {hidden_error(result)}"
    if result.kind == "wrong" and result.shown_call:
        return f"{result.shown_call}: got {result.got}, expected {result.expected}"
    return f"{result.error}\n{result.got}".strip()


def hidden_error(result: TestResult) -> str:
    """Return how a hidden test failed, in words that the answer did not choose."""
    free = result.kind in ("raised", "wrong") and result.error not in _SAYABLE
    return "an exception of its own" if free else result.error


class CodeVerifier:
    """Judges ``trajectory.answer`` as Python source: ``solved`` (1.0) only if every public and hidden test passes.

    Args:
        pool: Where answers run; the process's shared pool by default, which `close` leaves alone.
        partial_credit: Reward a failure with half the share of hidden tests that pass, instead of 0.
    """

    name = "code"
    version = "1"

    def __init__(self, *, pool: WarmPool | None = None, partial_credit: bool = False) -> None:
        self._pool = pool
        self.partial_credit = partial_credit

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict on the answer.

        Raises:
            InfraError: sandboxes can't be started.
            ValueError: the task's payload is malformed.
        """
        started = time.monotonic()
        payload = CodePayload.read(task.payload)
        source = trajectory.answer
        if source is None or not source.strip():
            return self._verdict("failed", 0.0, [Check(name="no_answer", passed=False)], "no answer", started)
        if len(source) > MAX_SOURCE_CHARS:
            check = Check(name="answer_size", passed=False, detail=f"{len(source)} characters, at most {MAX_SOURCE_CHARS}")
            return self._verdict("failed", 0.0, [check], check.detail, started)
        public, hidden = payload.public_tests, payload.hidden_tests
        results = run_tests(self._pool or shared_pool(), source, payload, [*public, *hidden])
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
        passed = sum(result.passed for result, label in zip(results, labels, strict=True) if label == HIDDEN)
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
