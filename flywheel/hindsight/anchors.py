"""Anchors: reference solutions to training tasks, played and verified as for the cold start, so that imitation keeps a footing outside
the policy's own answers.

A step's anchors follow from the run's seed and the step alone: they need no state.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from flywheel.errors import ConfigError
from flywheel.hindsight.lesson import Lesson
from flywheel.hindsight.pool import num_tokens
from flywheel.inference.chat import ChatFormat
from flywheel.rollout.demonstrations import demonstration_row, play_demonstrations
from flywheel.rollout.stage import Stage
from flywheel.tasks.family import Family
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, derive_seed

MAKER = "reference"
MAX_PLAYED = 512  # a step: beyond it, what there is has been used up
_AT_ONCE = 8


class Anchors:
    """Gives reference solutions.

    Args:
        source: Gives tasks with their references.
        stage: Plays them.
        chat: Renders them.
        seed: The run's.

    Raises:
        ConfigError: no family has references.
    """

    def __init__(self, source: TaskSource, stage: Stage, chat: ChatFormat, *, seed: int) -> None:
        self._source = source
        self._stage = stage
        self._chat = chat
        self._seed = seed
        self._families = families_with_references(source)

    async def fill(self, step: int, budget: int, may_use: Callable[[str], bool]) -> list[Lesson]:
        """Return references of at least `budget` trained tokens together, or all that a step may have.

        Args:
            step: Chooses them.
            budget: Tokens.
            may_use: Whether the reference attempt of an id has a use left.
        """
        lessons: dict[str, Lesson] = {}
        total = 0
        references = self._source.demonstrations(derive_seed(self._seed, "anchors", step), self._families)
        for _ in range(0, MAX_PLAYED, _AT_ONCE):
            if total >= budget:
                break
            some = await asyncio.to_thread(lambda: list(itertools.islice(references, _AT_ONCE)))
            for lesson in await self._played(some):
                found = lesson.experience.id
                if total < budget and found not in lessons and may_use(found):
                    lessons[found] = lesson
                    total += num_tokens(lesson.row)
        return list(lessons.values())

    async def _played(self, references: Sequence[tuple[Task, list[str]]]) -> list[Lesson]:
        played = await asyncio.gather(*(self._lesson(reference) for reference in references))
        return [lesson for lesson in played if lesson is not None]

    async def _lesson(self, reference: tuple[Task, list[str]]) -> Lesson | None:
        """Return a reference as a lesson; None, so that one bad reference does not end a run, where it is none."""
        try:
            (found,) = await play_demonstrations([reference], self._stage, concurrency=1, progress=lambda count: None)
            return Lesson(experience=found.experience, row=demonstration_row(found, self._chat), maker=MAKER)
        except ConfigError:  # it does not solve its task, could not be played, or can't be said in the policy's syntax
            return None


def families_with_references(source: TaskSource) -> list[Family]:
    """Return the families of a run that have reference solutions.

    Raises:
        ConfigError: none has.
    """
    problems = []
    found = []
    for family in source.families:
        try:
            if family.share > 0:
                source.reference(family)
                found.append(family)
        except NotImplementedError as error:
            problems.append(f"{family.name}: {error}")
    if not found:
        raise ConfigError(
            f"learning.anchor_floor is above 0, but no family of this run has reference solutions ({'; '.join(problems)}); set it to 0"
        )
    return found
