"""Makes the batch of a step from fresh rollouts: tasks, groups, routes, and all of it journalled before it is handed out.

Groups are journalled as they are finished, each whole: after a crash those that are there are taken as they are, and only the
others are collected again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flywheel.config import Recipe
from flywheel.errors import InfraError
from flywheel.hindsight.teacher import Taught, Teacher
from flywheel.rollout.allocation import collect_step
from flywheel.rollout.groups import Collector
from flywheel.router import Knowledge, counted, route
from flywheel.routes import Route
from flywheel.store.journal import Journal
from flywheel.tasks.source import TaskSource
from flywheel.types import Batch, Group, derive_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeBatch:
    """A step's batch, the groups behind it and what they took: None where they came from the journal.

    `journal_s` is what the step waited for its records: most are written while rollouts go on. `figures` are of allocation and learning.
    """

    batch: Batch
    groups: list[Group]
    rollout_s: float | None = None
    journal_s: float | None = None
    num_retried: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)


class GroupLedger:
    """Journals finished groups off the event loop; those that finish while a write goes on are written together by the next one.

    Args:
        journal: The run's journal.
        step: The step that they are for.
    """

    def __init__(self, journal: Journal, step: int) -> None:
        self._journal = journal
        self._step = step
        self._waiting: list[Group] = []
        self._writing = asyncio.Lock()
        self.last_finished = time.monotonic()

    def known(self, group_id: str) -> Group | None:
        """Return a group that was journalled before."""
        return self._journal.group(group_id)

    async def write(self, group: Group) -> None:
        """Journal a group; a group that broke as a whole waits for its batch, so that a resume tries it again."""
        self.last_finished = time.monotonic()
        if not counted(group):
            return
        self._waiting.append(group)
        async with self._writing:
            groups, self._waiting = self._waiting, []
            if groups:
                await asyncio.to_thread(self._journal.append_groups, groups, step=self._step)


class BatchMaker:
    """Makes batches.

    Args:
        recipe: The resolved recipe.
        journal: Gets everything before a batch is handed out.
        source: Gives the tasks.
        collector: Attempts them.
        teacher: Adds what trains beside them; None where the recipe asks for nothing.
    """

    def __init__(self, recipe: Recipe, journal: Journal, source: TaskSource, collector: Collector, teacher: Teacher | None = None) -> None:
        self._recipe = recipe
        self._journal = journal
        self._source = source
        self._collector = collector
        self._teacher = teacher

    async def make(self, step: int) -> MadeBatch:
        """Collect, route and journal the batch of a step.

        Raises:
            InfraError: every single attempt broke, so something is wrong that no retry mends.
            StoreError: the journal can't be written.
        """
        rollout, trainer, teacher = self._recipe.rollout, self._recipe.trainer, self._teacher
        ledger = GroupLedger(self._journal, step)
        draw = self._source.drawer(step)
        started, retried = time.monotonic(), self._collector.traffic.retried
        collected = await collect_step(
            self._collector,
            rollout,
            draw if teacher is None else teacher.drawer(step, draw),
            self._source.predicted,
            name=f"{self._recipe.run.seed}/{step}",
            ledger=ledger,
        )
        groups = collected.groups
        rollout_s = time.monotonic() - started
        if not any(counted(group) for group in groups):
            evidence = groups[0].experiences[0].verdict.evidence
            raise InfraError(f"step {step}: every one of {sum(len(g.experiences) for g in groups)} attempts broke; the first: {evidence}")
        shuffle_seed = derive_seed(self._recipe.run.seed, "shuffle", step) if trainer.shuffle_advantages else None
        staged = rollout.allocation == "sequential"
        routed = route(
            groups,
            scale=trainer.scale_rewards,
            shuffle_seed=shuffle_seed,
            staged=staged,
            unlikeliness=trainer.unlikeliness,
            learning=self._recipe.learning,
            knowledge=Knowledge(barred=self._source.barred) if teacher is None else teacher.knowledge(step),
        )
        finished, teaching = ledger.last_finished, time.monotonic()
        taught = Taught() if teacher is None else await teacher.teach(step, groups, routed)
        teach_s = time.monotonic() - teaching
        routes = (*routed.routes, *taught.routes)
        batch = Batch.create(step, routed.rows + taught.rows)
        batch = await asyncio.to_thread(self._journalled, groups, batch, routes, taught)
        if teacher is not None:
            await teacher.learned(step, taught, groups, routes)
        return MadeBatch(
            batch=batch,
            groups=groups,
            rollout_s=rollout_s,
            journal_s=time.monotonic() - finished - teach_s,
            figures={**collected.figures(), **taught.figures, **({} if teacher is None else {"time/teach_s": teach_s})},
            num_retried=max(0, self._collector.traffic.retried - retried),
        )

    def _journalled(self, groups: list[Group], batch: Batch, routes: Sequence[Route], taught: Taught) -> Batch:
        broken = [group for group in groups if not counted(group)]  # the others are there already
        self._journal.append_groups(broken, step=batch.step)
        return self._journal.append_batch(batch, [(r.experience_id, r) for r in routes], taught.lessons)
