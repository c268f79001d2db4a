"""The one boundary between a verifier and whoever needs its verdict: nothing that a verifier raises goes past it.

It knows no verifier. Rollouts and the bulk command judge through it, so both mean the same by ``infra_error``.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from flywheel.contracts import Verifier
from flywheel.errors import InfraError
from flywheel.types import Check, Task, Trajectory, Verdict

_MAX_BACKOFF_S = 30.0
_MAX_EVIDENCE = 2000


def judge(
    verifier: Verifier,
    task: Task,
    trajectory: Trajectory,
    *,
    max_retries: int = 2,
    backoff_s: float = 0.5,
    raise_malformed: bool = False,
) -> Verdict:
    """Return the verifier's verdict, or one with outcome ``infra_error`` and reward 0 where it reaches none.

    The failed check of an ``infra_error`` says whose fault it was: ``infrastructure`` (an `InfraError`), ``malformed_task`` (a
    `ValueError`: the task's payload is not fit for this verifier, so it is not retried) or ``verifier_bug`` (anything else, a
    verdict that breaks the contract among it). `duration_s` is the time spent inside the verifier, all tries together.

    Args:
        verifier: Who judges.
        task: What was asked.
        trajectory: What was done; its `answer` is judged.
        max_retries: Further tries after the first.
        backoff_s: Pause before the first retry, doubled before each further one.
        raise_malformed: Let a malformed task's `ValueError` through, for a caller that reports it where the task came from.

    Raises:
        ValueError: the task is malformed, and `raise_malformed` is set.
    """
    spent_s = 0.0
    blame, reason = "infrastructure", ""
    for attempt in range(max_retries + 1):
        if attempt:
            time.sleep(min(backoff_s * 2 ** (attempt - 1), _MAX_BACKOFF_S))
        start_s = time.perf_counter()
        try:
            verdict = verifier.verify(task, trajectory)
            spent_s += time.perf_counter() - start_s
            blame, reason = _objection(verdict)
            if not reason:
                return dataclasses.replace(_plain(verdict), duration_s=spent_s)
        except InfraError as error:
            spent_s += time.perf_counter() - start_s
            blame, reason = "infrastructure", _describe(error)
        except Exception as error:  # plug-in code: a verifier's bug must cost one attempt, not the run
            spent_s += time.perf_counter() - start_s
            # An answer with a lone surrogate gives UnicodeError, a ValueError that says nothing about the task.
            malformed = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
            if malformed and raise_malformed:
                raise
            blame, reason = ("malformed_task" if malformed else "verifier_bug"), _describe(error)
            if malformed:
                break
    return Verdict(
        outcome="infra_error",
        reward=0.0,
        checks=(Check(name=blame, passed=False, detail=reason),),
        evidence=f"no verdict ({blame}): {reason}",
        verifier=verifier.name,
        verifier_version=verifier.version,
        duration_s=spent_s,
    )


def judge_many(verifier: Verifier, pairs: Sequence[tuple[Task, Trajectory]], **options: Any) -> list[Verdict | ValueError]:
    """Return the verdicts on several attempts, by one call of a verifier's optional ``verify_many`` where that goes well.

    Whatever goes wrong in that call, each attempt concerned is judged again alone. A malformed task's `ValueError` stands in its place.

    Args:
        verifier: Who judges.
        pairs: What was asked and what was done.
        options: Those of `judge`.
    """
    verdicts: Sequence[Verdict | None] = [None] * len(pairs)
    many = getattr(verifier, "verify_many", None)
    if many is not None and len(pairs) > 1:
        try:
            given = list(many(pairs))
            if len(given) == len(pairs):
                verdicts = [None if _objection(verdict)[1] else _plain(verdict) for verdict in given]
        except Exception:  # noqa: BLE001 - plug-in code: judging alone finds out whose fault it is
            verdicts = [None] * len(pairs)
    results: list[Verdict | ValueError] = []
    for verdict, (task, trajectory) in zip(verdicts, pairs, strict=True):
        try:
            results.append(verdict or judge(verifier, task, trajectory, **options))
        except ValueError as error:
            results.append(error)
    return results


def _objection(verdict: object) -> tuple[str, str]:
    """Return whom to blame and why, where what a verifier returned can't be used; the reason is empty where it can."""
    if not isinstance(verdict, Verdict):
        return "verifier_bug", f"verify() returned {type(verdict).__name__}, expected a Verdict"
    if verdict.outcome == "infra_error":
        return "infrastructure", verdict.evidence[:_MAX_EVIDENCE] or "the verifier gave no reason"
    if verdict.outcome not in ("solved", "failed", "truncated", "tampered"):
        return "verifier_bug", f"outcome {verdict.outcome!r} is not one of solved, failed, truncated, tampered"
    good = verdict.reward == 1.0 if verdict.outcome == "solved" else 0.0 <= verdict.reward <= 0.5
    if not math.isfinite(verdict.reward) or not good:
        expected = "1" if verdict.outcome == "solved" else "a number in [0, 0.5]"
        return "verifier_bug", f"reward {verdict.reward!r} for outcome {verdict.outcome!r}, expected {expected}"
    if odd := [check for check in verdict.checks if not isinstance(check, Check)]:
        return "verifier_bug", f"checks has {odd[0]!r:.200}, expected what flywheel.types.Check makes"
    return "", ""


def _plain(verdict: Verdict) -> Verdict:
    """Return a verdict in the types that it declares: a plug-in's may hold numpy's numbers, which no journal takes."""
    checks = tuple(Check(name=str(check.name), passed=bool(check.passed), detail=str(check.detail)) for check in verdict.checks)
    return Verdict(
        outcome=verdict.outcome,
        reward=float(verdict.reward),
        checks=checks,
        evidence=str(verdict.evidence or ""),
        verifier=str(verdict.verifier),
        verifier_version=str(verdict.verifier_version),
        duration_s=float(verdict.duration_s),
    )


def _describe(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text[:_MAX_EVIDENCE]
