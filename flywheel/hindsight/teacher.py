"""The teacher: everything in a step's batch beside its on-policy groups, and which failed tasks are tried again.

What it needs of earlier steps it takes from the journal (`flywheel.hindsight.history`); what it adds is journalled before or with
the batch. Steps are taught in their order, also where their rollouts overlap: a lesson's uses are those of all earlier batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flywheel.config import Recipe
from flywheel.hindsight.anchors import Anchors
from flywheel.hindsight.distil import distilled
from flywheel.hindsight.diversity import AnswerKey, Diversity, diversity_of
from flywheel.hindsight.harvest import Harvest, Harvester
from flywheel.hindsight.history import LearningHistory
from flywheel.hindsight.pool import Entry, Pool, Shares, num_tokens
from flywheel.hindsight.replay import SuccessMemory
from flywheel.hindsight.retry import RetryBuffer
from flywheel.router import Knowledge, Routed, counted
from flywheel.routes import Route
from flywheel.store.journal import Journal, Relabelling
from flywheel.store.reader import Reader
from flywheel.tasks.family import family_of
from flywheel.tasks.source import TaskSource
from flywheel.types import Experience, Group, Row, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """What a step's batch has beside its on-policy rows.

    Attributes:
        rows: Replayed successes, then cross-entropy rows.
        routes: Of the replayed successes.
        entries: The step's new lessons.
        figures: ``learning/…`` (flywheel/monitor/figures.py).
    """

    rows: tuple[Row, ...] = ()
    routes: tuple[Route, ...] = ()
    entries: tuple[Entry, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def lessons(self) -> list[tuple[str, Entry]]:
        """The new lessons as records of the journal, each under its attempt's id."""
        return [(entry.row.experience_id, entry) for entry in self.entries]


class Teacher:
    """See the module.

    Args:
        recipe: The resolved recipe.
        journal: The run's.
        source: Predicts solve rates, and says what may train.
        key: Tells answers apart.
        anchors: Gives reference solutions; None where the recipe asks for none.
        harvester: Makes lessons of failures; None where the recipe asks for none.
        say: Tells the person a line.
    """

    def __init__(
        self,
        recipe: Recipe,
        journal: Journal,
        source: TaskSource,
        *,
        key: AnswerKey,
        anchors: Anchors | None = None,
        harvester: Harvester | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._recipe = recipe
        self._config = recipe.learning
        self._journal = journal
        self._source = source
        self._key = key
        self._anchors = anchors
        self._harvester = harvester
        self._say = say
        self._pool = Pool(recipe.learning, recipe.run.seed)
        self._retry = RetryBuffer(recipe.learning)
        self._memory = SuccessMemory(journal, recipe.learning)
        self._history = LearningHistory(self._pool, self._retry, journal)
        self._is_collapsing = False
        self._has_said_short = False
        self._turn = asyncio.Condition()

    def drawer(self, step: int, draw: Callable[[int], Task]) -> Callable[[int], Task]:
        """Return a step's drawer with the tasks that are tried again in their places."""
        newest = self._journal.query("SELECT coalesce(max(step), 0) FROM records WHERE kind = 'batch' AND step < ?", (step,))[0][0]
        self._history.catch_up(max(newest, self._history.step))
        return self._retry.drawer(draw, self._recipe.rollout.groups_per_step, self._may_train)

    def knowledge(self, step: int) -> Knowledge:
        """Return what the router asks of a step's tasks."""
        return Knowledge(
            predicted=self._source.predicted,
            solved_before=lambda task: self._memory.solved_before(task.id, step),
            barred=self._source.barred,
        )

    async def teach(self, step: int, groups: Sequence[Group], routed: Routed) -> Taught:
        """Return what joins a step's on-policy rows; attempts that it made are journalled, the new lessons are not yet."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._history.step >= step - 1)
        groups = [group for group in groups if self._source.barred(group.task) is None]
        replayed = self._memory.replayed(groups, step)
        await self._journalled(step, [r.experience for r in replayed], [r.relabelling for r in replayed])
        entries, harvest = await self._new_lessons(step, groups, routed)
        entropy = newest_entropy(self._journal, step - 1 - self._recipe.rollout.max_staleness)
        diversity = await asyncio.to_thread(diversity_of, groups, self._key, entropy=entropy)
        shares = Shares.by(self._config, collapsing=self._guard(diversity))
        budgets = shares.budgets(num_sampled(groups))
        drawn = [entry.row for entry in self._pool.draw(step, budgets, entries)]
        supervised = await self._anchored(step, drawn, budgets["anchor"], shares.anchor_floor)
        figures = {
            **self._pool.figures(),
            **harvest.figures(),
            "learning/collapsing": float(self._is_collapsing),
            "learning/retried": float(sum(group.task.id in self._retry for group in groups)),
        }
        return Taught(
            rows=(*(r.row for r in replayed), *supervised),
            routes=tuple(r.route for r in replayed),
            entries=tuple(entries),
            figures=figures,
        )

    async def learned(self, step: int, taught: Taught, groups: Sequence[Group], routes: Sequence[Route]) -> None:
        """Take in a step whose batch is journalled, and let the next one be taught."""
        trained = [row.experience_id for row in taught.rows if row.kind == "ce"]
        async with self._turn:
            self._history.learn(step, taught.entries, trained, groups, routes)
            self._turn.notify_all()

    def snapshot(self) -> None:
        """Journal the state; called where a checkpoint was written."""
        self._history.snapshot()

    # ------------------------------------------------------------ inside

    def _may_train(self, task: Task) -> bool:
        return family_of(self._source.families, task) is not None and self._source.barred(task) is None

    async def _new_lessons(self, step: int, groups: Sequence[Group], routed: Routed) -> tuple[list[Entry], Harvest]:
        """Return the step's new lessons, whose attempts are journalled, and what became of its failures."""
        to_distil = [route.experience_id for route in routed.routes if "distill" in (route.destination, *route.also)]
        lessons = await asyncio.to_thread(distilled, groups, to_distil, self._key)
        harvest = Harvest(lessons=(), dropped={}, relabellings=())
        if self._harvester is not None:
            harvest = await self._harvester.harvest(groups, step=step)
            await self._journalled(step, [lesson.experience for lesson in harvest.lessons], harvest.relabellings)
            lessons += harvest.lessons
        found = [Entry.of(lesson, self._journal.info(lesson.experience.id).tier) for lesson in lessons]
        wanted = Shares.by(self._config).of
        # An answer that its task had before has a tier that does not teach, so a weight of 0.
        usable = [e for e in found if e.weight > 0 and wanted.get(e.source, 0) > 0 and num_tokens(e.row) > 0]
        return [e for e in usable if self._journal.get("lesson", e.row.experience_id) is None], harvest

    async def _anchored(self, step: int, drawn: list[Row], budget: int, anchor_floor: float) -> list[Row]:
        """Return the drawn rows and the anchors; where references run out before the floor is reached, fewer of the others."""
        if self._anchors is None:
            return drawn
        anchors = await self._anchors.fill(step, budget, lambda i: self._uses(i, step) < self._config.max_uses)
        await self._journalled(step, [lesson.experience for lesson in anchors], ())
        num_anchor_tokens = sum(num_tokens(lesson.row) for lesson in anchors)
        while drawn and num_anchor_tokens < anchor_floor * (num_anchor_tokens + sum(map(num_tokens, drawn))):
            drawn.pop()
            self._say_short()
        return [*drawn, *(lesson.row for lesson in anchors)]

    async def _journalled(self, step: int, experiences: Sequence[Experience], relabellings: Sequence[Relabelling]) -> None:
        if experiences:
            await asyncio.to_thread(self._journal.append_experiences, experiences, step=step)
        if relabellings:
            await asyncio.to_thread(self._journal.append_relabellings, relabellings, step=step)

    def _uses(self, experience_id: str, step: int) -> int:
        asked = "SELECT count(*) FROM trained WHERE experience_id = ? AND kind = 'ce' AND step < ?"
        return int(self._journal.query(asked, (experience_id, step))[0][0])

    def _guard(self, diversity: Diversity) -> bool:
        """Return whether the policy is collapsing; told when that changes."""
        fallen = diversity.fallen(self._config)
        if bool(fallen) != self._is_collapsing:
            self._is_collapsing = bool(fallen)
            action = "distillation and hindsight shares are halved, the anchor floor is doubled" if fallen else "full shares again"
            self._say(f"collapse guard: {action}" + (f" ({'; '.join(fallen)})" if fallen else ""))
        return self._is_collapsing

    def _say_short(self) -> None:
        if not self._has_said_short:
            self._has_said_short = True
            self._say("anchors: too few reference solutions have a use left for learning.anchor_floor, so fewer other rows train")


def num_sampled(groups: Sequence[Group]) -> int:
    """Return the tokens that the counted attempts of a step sampled."""
    return sum(e.trajectory.num_completion_tokens for group in groups for e in counted(group))


def newest_entropy(reader: Reader, step: int) -> float | None:
    """Return the policy's entropy as the trainer measured it in a step; None where it did not."""
    rows = reader.query("SELECT id FROM records WHERE kind = 'step' AND step = ? ORDER BY seq DESC LIMIT 1", (step,))
    report = reader.get("step", rows[0][0]) if rows else None
    return None if report is None else report["metrics"].get("entropy")
