"""The teacher with a real journal and hand-made lessons: what joins a step, what is written down, and the same again after a kill."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.contracts import StepReport
from flywheel.hindsight.diversity import plain_key
from flywheel.hindsight.harvest import Harvest
from flywheel.hindsight.learning_figures import route_figures, source_figures
from flywheel.hindsight.lesson import Lesson
from flywheel.hindsight.pool import num_tokens
from flywheel.hindsight.teacher import Taught, Teacher
from flywheel.router import route
from flywheel.routes import recorded_routes
from flywheel.store.journal import Journal, Relabelling
from flywheel.types import Batch, Group, Row, Task, content_id
from tests.hindsight.lessons import make_group, make_lesson
from tests.store.attempts import make_task


@dataclass
class Lessons:
    """Makes three lessons of origin hindsight and one of repair a step."""

    size: int = 10
    asked: list[int] = field(default_factory=list)

    async def harvest(self, groups: Sequence[Group], *, step: int) -> Harvest:
        self.asked.append(step)
        lessons = [make_lesson(100 * step + n, "hindsight", size=self.size) for n in range(3)]
        lessons.append(make_lesson(100 * step + 50, "repair", size=self.size))
        parents = [e.id for group in groups for e in group.experiences if e.verdict.outcome == "failed"]
        records = tuple(
            Relabelling(parent_id=parents[0], child_id=lesson.experience.id, relabeller="test", kept=True) for lesson in lessons
        )
        return Harvest(lessons=tuple(lessons), dropped={"trivial": 2}, relabellings=records, shortened={"no_replay": 1})


@dataclass
class References:
    """Gives references of ten tokens, `count` of them a step."""

    count: int = 100

    async def fill(self, step: int, budget: int, may_use: Callable[[str], bool]) -> list[Lesson]:
        lessons = [make_lesson(9000 + n, "demonstration") for n in range(self.count)]
        usable = [lesson for lesson in lessons if may_use(lesson.experience.id)]
        return usable[: -(-budget // 10)]


class Source:
    """Knows toy tasks."""

    families = ()

    def __init__(self, barred: frozenset[str] = frozenset()) -> None:
        self._barred = barred

    def predicted(self, task: Task) -> float | None:
        return 0.5

    def barred(self, task: Task) -> str | None:
        return "contaminated" if task.id in self._barred else None


LEARNING: dict[str, Any] = {"hindsight_share": 0.4, "repair_share": 0.2, "distill_share": 0.4, "max_uses": 2, "retry_size": 4}


class Wheel:
    """Teaches steps of made-up groups, journals them and can be killed."""

    def __init__(self, folder: Path, *, learning: Mapping[str, Any] = LEARNING, source: Source | None = None, **parts: Any) -> None:
        self.journal = Journal(folder)
        self.recipe = Recipe.model_validate(
            {"environments": {"toy": {}}, "rollout": {"groups_per_step": 4, "max_staleness": 0}, "learning": learning}
        )
        self.said: list[str] = []
        self.teacher = Teacher(
            self.recipe,
            self.journal,
            source or Source(),  # type: ignore[arg-type]
            key=plain_key,
            say=self.said.append,
            **parts,
        )

    def groups(self, step: int) -> list[Group]:
        return [
            make_group(10 * step, "solved", "failed", "failed", "failed", step=step),
            make_group(10 * step + 1, "failed", "failed", "failed", "failed", step=step),
            make_group(10 * step + 2, "solved", "solved", "solved", "solved", step=step),
        ]

    def teach(self, step: int, groups: list[Group] | None = None, *, killed_before_batch: bool = False) -> tuple[Batch, Taught]:
        """Make a step's batch, as `flywheel.batches` does."""
        groups = groups or self.groups(step)
        self.journal.append_groups(groups, step=step)
        self.teacher.drawer(step, lambda at: make_task(at))
        routed = route(groups, scale="group", learning=self.recipe.learning, knowledge=self.teacher.knowledge(step))

        async def teach() -> tuple[Batch, Taught]:
            taught = await self.teacher.teach(step, groups, routed)
            batch = Batch.create(step, routed.rows + taught.rows)
            if killed_before_batch:
                return batch, taught
            routes = (*routed.routes, *taught.routes)
            batch = self.journal.append_batch(batch, [(r.experience_id, r) for r in routes], taught.lessons)
            await self.teacher.learned(step, taught, groups, routes)
            return batch, taught

        return asyncio.run(teach())


def supervised(batch: Batch) -> list[Row]:
    return [row for row in batch.rows if row.kind == "ce"]


def test_a_step_has_each_source_within_its_share_and_all_of_it_is_journalled(tmp_path: Path) -> None:
    """Twelve attempts of twelve tokens: at most 57 tokens of hindsight and of distillation and 28 of repairs."""
    wheel = Wheel(tmp_path, harvester=Lessons())
    batch, taught = wheel.teach(1)
    journal = wheel.journal
    tokens = source_figures(journal, 1)
    assert tokens == {
        "learning/tokens/hindsight": 30.0,
        "learning/tokens/repair": 10.0,
        "learning/tokens/distill": 36.0,  # one of the mixed group and two of the solved one
        "learning/replayed": 0.0,
    }
    assert batch.num_ce_tokens == 76
    assert (taught.figures["learning/dropped/trivial"], taught.figures["learning/shortened/no_replay"]) == (2, 1)
    for row in supervised(batch):
        assert journal.info(row.experience_id).outcome == "solved"
    hindsight = next(row for row in supervised(batch) if journal.info(row.experience_id).origin == "hindsight")
    assert journal.query("SELECT count(*) FROM relabellings WHERE child_id = ?", (hindsight.experience_id,)) == [(1,)]
    assert journal.count("lesson") == 7
    shares = route_figures(recorded_routes(journal, 1))
    assert shares == {
        "route/distill": pytest.approx(5 / 12),
        "route/grpo": pytest.approx(4 / 12),
        "route/hindsight": pytest.approx(7 / 12),
        "route/repair": pytest.approx(3 / 12),
        "route/retry": pytest.approx(4 / 12),
    }


def test_nothing_is_used_more_often_than_asked_for_whenever_it_is_killed(tmp_path: Path) -> None:
    undisturbed = Wheel(tmp_path / "a", harvester=Lessons())
    batches = [undisturbed.teach(step)[0] for step in range(1, 7)]
    made: list[Batch] = []
    for step in range(1, 7):  # killed in every step, and once more amid the next one
        wheel = Wheel(tmp_path / "b", harvester=Lessons())
        if step % 2:
            wheel.teach(step, killed_before_batch=True)
            wheel.journal.close()
            wheel = Wheel(tmp_path / "b", harvester=Lessons())
        made.append(wheel.teach(step)[0])
        if step == 3:
            wheel.teacher.snapshot()
        wheel.journal.close()
    assert [batch.rows for batch in made] == [batch.rows for batch in batches]
    uses = undisturbed.journal.query("SELECT experience_id, count(*) FROM trained WHERE kind = 'ce' GROUP BY 1")
    assert max(count for _, count in uses) == 2
    undisturbed.journal.close()


def test_anchors_are_at_least_the_floor_and_without_enough_of_them_others_go(tmp_path: Path) -> None:
    learning = {**LEARNING, "anchor_floor": 0.5, "max_uses": 1}
    wheel = Wheel(tmp_path / "a", learning=learning, harvester=Lessons(), anchors=References())
    rows = supervised(wheel.teach(1)[0])
    anchors = [row for row in rows if wheel.journal.info(row.experience_id).origin == "demonstration"]
    assert sum(map(num_tokens, anchors)) == 80  # half of 144 tokens, and whole rows
    assert sum(map(num_tokens, rows)) - 80 <= 72
    again = [row for row in supervised(wheel.teach(2)[0]) if wheel.journal.info(row.experience_id).origin == "demonstration"]
    assert not {row.experience_id for row in anchors} & {row.experience_id for row in again}
    short = Wheel(tmp_path / "b", learning=learning, harvester=Lessons(), anchors=References(count=2))
    rows = supervised(short.teach(1)[0])
    shares = [num_tokens(row) for row in rows if short.journal.info(row.experience_id).origin == "demonstration"]
    assert (sum(shares), sum(map(num_tokens, rows))) == (20, 40)
    assert supervised(short.teach(2)[0]) == []  # both references are used up, and nothing trains without
    assert short.said == ["anchors: too few reference solutions have a use left for learning.anchor_floor, so fewer other rows train"]


def test_the_guard_halves_and_doubles_and_says_so(tmp_path: Path) -> None:
    learning = {**LEARNING, "anchor_floor": 0.2, "min_distinct": 0.6}
    wheel = Wheel(tmp_path, learning=learning, anchors=References())
    alike = [make_group(n, *["solved"] * 4, answers=("the same",) * 4) for n in (1, 2, 3)]  # type: ignore[arg-type]
    batch, taught = wheel.teach(1, alike)
    assert taught.figures["learning/collapsing"] == 1.0
    tokens = source_figures(wheel.journal, 1)
    # Shares 0.2 + 0.2 + 0.2 of 144 tokens, 0.4 of it anchors: 35 and whole rows; distillation has 0.2 · 0.6 · 144 = 17.
    assert (tokens["learning/tokens/anchor"], tokens["learning/tokens/distill"]) == (40.0, 12.0)
    assert batch.num_ce_tokens == 52
    _, after = wheel.teach(2)
    assert after.figures["learning/collapsing"] == 0.0
    assert [line.partition(":")[0] for line in wheel.said] == ["collapse guard"] * 2
    assert "distinct solved answers 0.25 < learning.min_distinct = 0.6" in wheel.said[0]


def test_entropy_is_the_newest_step_that_a_batch_may_know_of(tmp_path: Path) -> None:
    wheel = Wheel(tmp_path, learning={**LEARNING, "min_entropy": 0.5})
    wheel.teach(1)
    for version, entropy in (("1.1", 0.9), ("2.1", 0.4)):  # taken again after a kill
        report = StepReport(step=1, policy_version=version, metrics={"entropy": entropy})
        wheel.journal.append("step", [(version, report)], step=1)
    assert wheel.teach(2)[1].figures["learning/collapsing"] == 1.0
    assert "entropy 0.400 < learning.min_entropy = 0.5" in wheel.said[0]


def test_a_barred_task_gives_no_lesson_and_no_replay(tmp_path: Path) -> None:
    barred = frozenset(make_task(n).id for n in (10, 11, 12))
    wheel = Wheel(tmp_path, source=Source(barred))
    batch, taught = wheel.teach(1)
    assert (batch.rows, taught.entries) == ((), ())


def test_an_own_success_joins_the_group_of_its_task_that_fails_later(tmp_path: Path) -> None:
    wheel = Wheel(tmp_path, learning={"retry_size": 4})
    wheel.teach(1)
    failed = make_group(10, "failed", "failed", step=2)  # of the task that step 1 solved once in four
    batch, taught = wheel.teach(2, [failed])
    (row,) = batch.rows
    assert (row.kind, row.advantage) == ("grpo", 1.0)
    assert wheel.journal.info(row.experience_id).origin == "replay"
    assert [r.destination for r in taught.routes] == ["replay"]
    assert source_figures(wheel.journal, 2) == {"learning/replayed": 1.0}


def test_steps_are_taught_in_their_order(tmp_path: Path) -> None:
    """The second step's groups are there first; it waits, or it would not know what the first one used up."""
    wheel = Wheel(tmp_path, learning={**LEARNING, "max_uses": 1}, harvester=Lessons())
    first, second = wheel.groups(1), wheel.groups(2)
    wheel.journal.append_groups(first, step=1)
    wheel.journal.append_groups(second, step=2)
    order: list[int] = []

    async def make(step: int, groups: list[Group]) -> None:
        routed = route(groups, scale="group", learning=wheel.recipe.learning, knowledge=wheel.teacher.knowledge(step))
        taught = await wheel.teacher.teach(step, groups, routed)
        order.append(step)
        wheel.journal.append_batch(Batch.create(step, taught.rows), (), taught.lessons)
        await wheel.teacher.learned(step, taught, groups, routed.routes)

    async def both() -> None:
        later = asyncio.create_task(make(2, second))
        await asyncio.sleep(0)
        await asyncio.gather(make(1, first), later)

    asyncio.run(both())
    assert order == [1, 2]
    uses = wheel.journal.query("SELECT count(*) FROM trained WHERE kind = 'ce' GROUP BY experience_id")
    assert {count for (count,) in uses} == {1}


def test_a_repair_teaches_though_it_ends_with_an_answer_that_was_given(tmp_path: Path) -> None:
    group = make_group(10, "solved", "failed", step=1)
    success, failure = group.experiences

    class Repairs:
        async def harvest(self, groups: Sequence[Group], *, step: int) -> Harvest:
            turns = (*failure.trajectory.turns, *success.trajectory.turns)
            identity = content_id("repair", success.id)
            trajectory = dataclasses.replace(success.trajectory, turns=turns)
            repaired = dataclasses.replace(success, id=identity, group_id=identity, trajectory=trajectory, origin="repair")
            row = dataclasses.replace(make_lesson(1).row, experience_id=identity)
            return Harvest(lessons=(Lesson(experience=repaired, row=row),), dropped={}, relabellings=())

    wheel = Wheel(tmp_path, learning={"repair_share": 1.0}, harvester=Repairs())
    batch, _ = wheel.teach(1, [group])
    (row,) = supervised(batch)
    assert (wheel.journal.info(row.experience_id).origin, wheel.journal.info(row.experience_id).tier) == ("repair", "L3")
