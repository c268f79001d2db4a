"""Distillation lessons: the policy's own solved attempts, a few a task and as different as they come, token by token as it sampled them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flywheel.hindsight.diversity import AnswerKey, most_diverse, solved_by_key
from flywheel.hindsight.lesson import Lesson
from flywheel.router import counted, self_imitation_row
from flywheel.types import Group

MAKER = "distill"
PER_TASK = 2


def distilled(groups: Sequence[Group], routed: Iterable[str], key: AnswerKey) -> list[Lesson]:
    """Return the lessons of a step's groups, `PER_TASK` at most of each.

    Args:
        groups: The step's.
        routed: Ids of the attempts that the router sent to ``distill``.
        key: Tells answers apart.
    """
    allowed = set(routed)
    lessons = []
    for group in groups:
        attempts = [e for e in solved_by_key(group, key).values() if e.id in allowed]
        if not attempts:
            continue
        judged = counted(group)
        share = sum(e.verdict.outcome == "solved" for e in judged) / len(judged)
        lessons += [Lesson(experience=e, row=self_imitation_row(e), maker=MAKER, predicted=share) for e in most_diverse(attempts, PER_TASK)]
    return lessons
