"""Lineage both ways: which experiences made a step, and what became of a task.

with Reader.open(Path("runs/quickstart")) as store:
    made = made_step(store, 12)
    fate = fate_of_task(store, made.rows[0].attempt.task_id)
"""

from __future__ import annotations

from dataclasses import dataclass

from flywheel.errors import StoreError
from flywheel.store.reader import AttemptInfo, Reader
from flywheel.types import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRow:
    """One row of a batch, and the attempt that it was made of (None where the store does not hold it: a demonstration)."""

    experience_id: str
    kind: str
    advantage: float
    weight: float
    num_tokens: int
    attempt: AttemptInfo | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeStep:
    """What made a step: its batch, and the times that it was taken (``attempt.step``), those that a lost checkpoint undid apart."""

    step: int
    rows: tuple[TrainedRow, ...]
    versions: tuple[str, ...]
    superseded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One use of an attempt in training."""

    step: int
    kind: str
    advantage: float
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What became of one attempt: its route and where it went besides, where it trained, and what was made of it, or it of what."""

    attempt: AttemptInfo
    destination: str | None
    reason: str | None
    also: tuple[str, ...]
    uses: tuple[Use, ...]
    became: tuple[str, ...]
    came_from: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kin:
    """A task's ancestors (parent first) and the tasks made from it."""

    ancestors: tuple[str, ...]
    children: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFate:
    """A task, its ancestors (parent first), the tasks made from it, and what became of every attempt at it."""

    task: Task
    ancestors: tuple[str, ...]
    children: tuple[str, ...]
    attempts: tuple[Fate, ...]


def made_step(reader: Reader, step: int) -> MadeStep:
    """Return what made a step.

    Raises:
        StoreError: no batch of that step was journalled.
    """
    newest = reader.query("SELECT max(seq) FROM records WHERE kind = 'batch' AND step = ?", (step,))[0][0]
    if newest is None:
        raise StoreError(f"{reader.path}: no batch of step {step}")
    asked = "SELECT experience_id, kind, advantage, weight, num_tokens FROM trained WHERE batch_seq = ?"
    lost = reader.superseded()
    versions = [v for (v,) in reader.query("SELECT id FROM records WHERE kind = 'step' AND step = ? ORDER BY seq", (step,))]
    rows = tuple(
        TrainedRow(experience_id=e, kind=kind, advantage=advantage, weight=weight, num_tokens=num_tokens, attempt=_known(reader, e))
        for e, kind, advantage, weight, num_tokens in reader.query(asked, (newest,))
    )
    kept, undone = (tuple(v for v in versions if (v in lost) == is_lost) for is_lost in (False, True))
    return MadeStep(step=step, rows=rows, versions=kept, superseded=undone)


def fate_of_task(reader: Reader, task_id: str) -> TaskFate:
    """Return what became of a task.

    Raises:
        StoreError: there is no such task.
    """
    task, kin = reader.task(task_id), kin_of_task(reader, task_id)
    attempts = tuple(fate_of_attempt(reader, info) for info in reader.attempts(task_id=task_id))
    return TaskFate(task=task, ancestors=kin.ancestors, children=kin.children, attempts=attempts)


def kin_of_task(reader: Reader, task_id: str) -> Kin:
    """Return a task's ancestors and the tasks made from it, from the index alone."""
    ancestors: list[str] = []
    above = task_id
    while found := reader.query("SELECT parent_id FROM tasks WHERE id = ?", (above,)):
        above = found[0][0]
        if above is None or above in ancestors:
            break
        ancestors.append(above)
    children = tuple(child for (child,) in reader.query("SELECT id FROM tasks WHERE parent_id = ? ORDER BY seq", (task_id,)))
    return Kin(ancestors=tuple(ancestors), children=children)


def fate_of_attempt(reader: Reader, info: AttemptInfo) -> Fate:
    """Return what became of an attempt."""
    route = reader.get("route", info.id) or {}
    asked = "SELECT step, kind, advantage, weight FROM trained WHERE experience_id = ? ORDER BY batch_seq"
    uses = tuple(Use(step=s, kind=k, advantage=a, weight=w) for s, k, a, w in reader.query(asked, (info.id,)))
    return Fate(
        attempt=info,
        destination=route.get("destination"),
        reason=route.get("reason"),
        also=tuple(route.get("also", ())),
        uses=uses,
        became=_ends(reader, "child_id", "parent_id", info.id),
        came_from=_ends(reader, "parent_id", "child_id", info.id),
    )


def _ends(reader: Reader, wanted: str, given: str, experience_id: str) -> tuple[str, ...]:
    # What was dropped has a record of it, and no attempt.
    asked = f"SELECT {wanted} FROM relabellings WHERE {given} = ? AND {wanted} IN (SELECT id FROM experiences) ORDER BY seq"
    return tuple(end for (end,) in reader.query(asked, (experience_id,)))


def _known(reader: Reader, experience_id: str) -> AttemptInfo | None:
    return reader.info(experience_id) if reader.query("SELECT 1 FROM experiences WHERE id = ?", (experience_id,)) else None
