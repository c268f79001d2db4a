"""The table of sample trajectories, for people to read: what was asked, what the policy did, and what the verifier said.

It shows nothing that the policy could not see: no payload (hidden tests, references) and no details of checks, which may quote
them. Text is the policy's and hostile: it can't reach a terminal or break a line of JSON from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from flywheel.types import Experience, Group, Trajectory

MAX_PIECE = 4_000
MAX_CELL = 16_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleTable:
    """Columns and rows, as a monitor's `table` takes them. A cell of bytes is a picture (PNG)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | bytes | None, ...], ...]


def shown(groups: Sequence[Group], num_rows: int) -> list[Experience]:
    """Return the `num_rows` attempts that the table shows: the first of each group, then the second of each, and so on."""
    ordered = [e for siblings in zip_longest(*(g.experiences for g in groups)) for e in siblings if e is not None]
    return ordered[:num_rows]


def sample_table(
    groups: Sequence[Group],
    num_rows: int,
    pictures: Mapping[str, bytes] | None = None,
    advantages: Mapping[str, float] | None = None,
) -> SampleTable:
    """Return the table of the attempts that `shown` chooses.

    Args:
        groups: Whole groups.
        num_rows: How many attempts at most.
        pictures: By attempt; they have a column of their own where there are any.
        advantages: By attempt; one that is absent did not train.
    """
    columns: tuple[str, ...] = ("task", "text", "checks", "outcome", "reward", "advantage", "tokens", "group", "origin")
    chosen = shown(groups, num_rows)
    rows = [_row(experience, (advantages or {}).get(experience.id)) for experience in chosen]
    if not pictures:
        return SampleTable(columns=columns, rows=tuple(rows))
    drawn = tuple((*row, pictures.get(experience.id)) for row, experience in zip(rows, chosen, strict=True))
    return SampleTable(columns=(*columns, "picture"), rows=drawn)


def plain_text(text: str, limit: int = MAX_CELL) -> str:
    """Return text without control characters (escape sequences among them) and lone surrogates, cut to `limit`."""
    shown = text if len(text) <= limit else f"{text[: limit // 2]}\n[… {len(text) - limit} characters …]\n{text[-(limit // 2) :]}"
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in shown)


def _row(experience: Experience, advantage: float | None) -> tuple[str | float | None, ...]:
    task, verdict = experience.task, experience.verdict
    checks = "\n".join(f"{'✓' if check.passed else '✗'} {plain_text(check.name, 200)}" for check in verdict.checks)
    asked = f"{task.env}/{task.family} {task.id}\n{task.prompt}"
    said = (plain_text(asked), _transcript(experience.trajectory), checks[:MAX_CELL])
    tokens = experience.trajectory.num_completion_tokens
    return (*said, verdict.outcome, verdict.reward, advantage, tokens, experience.group_id, experience.origin)


def _transcript(trajectory: Trajectory) -> str:
    pieces = []
    for number, turn in enumerate(trajectory.turns, start=1):
        pieces.append(f"[policy, turn {number}]\n{plain_text(turn.text, MAX_PIECE)}")
        if turn.observation is not None:
            pieces.append(f"[environment]\n{plain_text(turn.observation, MAX_PIECE)}")
    pieces.append(f"[stop: {trajectory.stop_reason}]")
    return plain_text("\n".join(pieces))
