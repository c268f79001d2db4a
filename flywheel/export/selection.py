"""Which attempts of a store are exported, in which order; and their records, read a piece at a time.

The order is that of steps, then of group ids, then of writing inside a group, so it does not depend on which attempt was finished first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flywheel.store.encoding import experience_from
from flywheel.store.reader import Reader
from flywheel.types import Experience, Origin, Task, Tier

ExportedOutcome = Literal["solved", "failed", "truncated"]  # never what nobody's fault broke, nor what went for its grader
_PIECE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is asked for; an empty tuple and None ask for everything.

    Attributes:
        envs: Environments.
        families: ``FAMILY`` or ``ENV/FAMILY``.
        origins: Where attempts come from.
        outcomes: What came of them.
        min_tier: Least evidence (flywheel/store/tiers.py).
        steps: First and last step.
        trained: Only what a batch was made of.
        routes: Only what was routed to one of these destinations.
        heldout: Held-out tasks, too.
        duplicates: The same answer to the same task, too; else the first one stands for all.
        in_groups: The first one stands for those of its group alone, as pairs of siblings need it.
    """

    envs: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    outcomes: tuple[ExportedOutcome, ...] = ("solved",)
    min_tier: Tier | None = None
    steps: tuple[int, int] | None = None
    trained: bool = False
    routes: tuple[str, ...] = ()
    heldout: bool = False
    duplicates: bool = False
    in_groups: bool = False


class Found(NamedTuple):
    """An attempt that was selected, by what only the index knows of it; what says the same to the same task has the same `content`."""

    experience_id: str
    group_id: str
    step: int
    tier: Tier
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """What was found, in order, and how many more were dropped from the store (``store.max_gb``) and can't be read."""

    found: Sequence[Found]
    num_dropped: int


def select(reader: Reader, selection: Selection) -> Selected:
    """Return what a store holds of a selection. Of a run that is going on, it is what is journalled by now."""
    where, values = _where(selection)
    rows = reader.query(
        "SELECT e.id, e.group_id, e.step, e.tier, e.content, coalesce(s.dropped, 0) "
        f"FROM experiences e JOIN records r ON r.seq = e.seq LEFT JOIN shards s ON s.number = r.shard WHERE {where} "
        "ORDER BY e.step, e.group_id, e.seq",
        values,
    )
    if selection.routes:
        # Routes are looked up one by one: their bodies may lie in shards.
        wanted = set(selection.routes)
        routes = reader.select("route")
        routed = {route["experience_id"] for route in routes if wanted & {route["destination"], *route.get("also", ())}}
        rows = [row for row in rows if row[0] in routed]
    if not selection.duplicates:
        firsts: dict[tuple[Any, ...], Any] = {}
        for row in rows:
            firsts.setdefault((*row[4:], row[1] if selection.in_groups else None), row)
        rows = list(firsts.values())
    return Selected(found=[Found(*row[:5]) for row in rows if not row[5]], num_dropped=sum(row[5] for row in rows))


def read_experiences(reader: Reader, found: Sequence[Found]) -> Iterator[tuple[Found, Experience]]:
    """Yield the attempts in order, a piece of them in memory at a time."""
    for piece in (found[at : at + _PIECE] for at in range(0, len(found), _PIECE)):
        # Attempts first, then their tasks: the two lie in different shards, and a shard is read a piece at a time, too.
        bodies: list[Any] = [reader.get("experience", one.experience_id) for one in piece]
        tasks: dict[str, Task] = {}
        for body in bodies:
            if body["task_id"] not in tasks:
                tasks[body["task_id"]] = reader.task(body["task_id"])
        yield from ((one, experience_from(body, tasks[body["task_id"]])) for one, body in zip(piece, bodies, strict=True))


def _where(selection: Selection) -> tuple[str, list[str | int]]:
    clauses: list[str] = []
    values: list[str | int] = []
    for column, chosen in (("env", selection.envs), ("origin", selection.origins), ("outcome", selection.outcomes)):
        if chosen:
            clauses.append(f"e.{column} IN ({','.join('?' * len(chosen))})")
            values += chosen
    if selection.families:
        either = " OR ".join(["e.family = ? OR e.env || '/' || e.family = ?"] * len(selection.families))
        clauses.append(f"({either})")
        values += [value for family in selection.families for value in (family, family)]
    if selection.min_tier is not None:
        clauses.append("e.tier >= ?")
        values.append(selection.min_tier)
    if selection.steps is not None:
        clauses.append("e.step BETWEEN ? AND ?")
        values += selection.steps
    if selection.trained:
        clauses.append("EXISTS (SELECT 1 FROM trained t WHERE t.experience_id = e.id)")
    if not selection.heldout:
        clauses.append("EXISTS (SELECT 1 FROM tasks t WHERE t.id = e.task_id AND t.split = 'train')")
    return " AND ".join(clauses) or "1", values
