"""Where an attempt goes, and why: one table of rules over the facts of an attempt and of its group.

Rules are read from the top. The first one that holds says where the attempt goes (`Route.destination`), the others that hold where
it goes besides (`Route.also`); one that bars is the last one read. What no rule takes is ``no_signal``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flywheel.config import LearningConfig
from flywheel.store.reader import Reader
from flywheel.types import Outcome

Destination = Literal["grpo", "distill", "repair", "hindsight", "retry", "replay", "quarantine", "no_signal"]
Attack = Literal["tampered", "kills_grader"]
KEPT: Destination = "distill"  # where a collect stage sends what it keeps


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where an attempt went, where it went besides, and why (a reason each, in that order)."""

    experience_id: str
    destination: Destination
    reason: str
    also: tuple[Destination, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the rules know of an attempt.

    Attributes:
        outcome: The verdict's.
        attack: What it did to its grader, if anything.
        num_counted: How many attempts of its group count.
        has_answer: Whether there is something that could be relabelled.
        has_contrast: Whether the counted attempts of its group have different rewards.
        all_failed: Whether at least two attempts of its group count, and none solved the task.
        solved_elsewhere: Whether a sibling solved the task, or an earlier attempt of the policy's own did.
        predicted: The predicted solve rate of the task, where there is a prediction.
        barred: Why the task may not train at all (``heldout``, ``contaminated``).
    """

    outcome: Outcome
    attack: Attack | None = None
    num_counted: int = 0
    has_answer: bool = True
    has_contrast: bool = False
    all_failed: bool = False
    solved_elsewhere: bool = False
    predicted: float | None = None
    barred: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A destination and when an attempt goes there; `when` returns the reason, or None. `bars`: nothing further is looked at."""

    destination: Destination
    when: Callable[[Facts, LearningConfig], str | None]
    bars: bool = False


def _said(holds: bool, reason: str) -> str | None:
    return reason if holds else None


def _failed(facts: Facts) -> bool:
    return facts.outcome in ("failed", "truncated")


def _is_hopeful(facts: Facts, learning: LearningConfig) -> bool:
    return facts.predicted is not None and facts.predicted > learning.retry_above


RULES: tuple[Rule, ...] = (
    Rule("quarantine", lambda f, _: _said(f.outcome == "infra_error", "infra_error"), bars=True),
    Rule("quarantine", lambda f, _: f.barred, bars=True),
    Rule("grpo", lambda f, _: _said(f.has_contrast, "group with contrast")),
    # An attack trains by contrast, with the least reward of all, and is barred from every positive use.
    Rule("quarantine", lambda f, _: f.attack, bars=True),
    Rule("distill", lambda f, on: _said(on.distill_share > 0 and f.outcome == "solved", "solved")),
    Rule("repair", lambda f, on: _said(on.repair_share > 0 and _failed(f) and f.solved_elsewhere, "failed what was solved elsewhere")),
    Rule("hindsight", lambda f, on: _said(on.hindsight_share > 0 and _failed(f) and f.has_answer, "failed with an answer")),
    Rule("retry", lambda f, on: _said(on.retry_size > 0 and f.all_failed and _is_hopeful(f, on), "all failed what should be solvable")),
)


def destinations(facts: Facts, learning: LearningConfig) -> list[tuple[Destination, str]]:
    """Return where an attempt goes, each with its reason; empty where nothing can be learnt from it."""
    found: list[tuple[Destination, str]] = []
    for rule in RULES:
        reason = rule.when(facts, learning)
        if reason is not None:
            found.append((rule.destination, reason))
            if rule.bars:
                break
    return found


def recorded_routes(reader: Reader, step: int) -> list[Route]:
    """Return the routes that were journalled with a step's batch."""
    return [Route(**{**data, "also": tuple(data.get("also", ()))}) for data in reader.of_step("route", step)]
