"""A lesson: an attempt that was verified, and the cross-entropy row that it trains by."""

from __future__ import annotations

from dataclasses import dataclass

from flywheel.types import Experience, Row

MAX_REASON = 40  # of a reason that a relabeller gives


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One thing to imitate.

    Attributes:
        experience: Solved, with its own task; its `origin` says how it came about (``hindsight``, ``repair``, ``demonstration`` for a
            reference, ``on_policy`` for the policy's own success).
        row: Its ``ce`` row, of weight 1.
        parent_ids: The attempts that it was made of; empty for one that was made of none.
        maker: The relabeller, or what else made it.
        predicted: The predicted solve rate of its task, where the curriculum has one.
    """

    experience: Experience
    row: Row
    parent_ids: tuple[str, ...] = ()
    maker: str = ""
    predicted: float | None = None
