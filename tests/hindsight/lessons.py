"""Lessons for tests: as many trained tokens as asked for."""

from __future__ import annotations

import dataclasses

from flywheel.hindsight.lesson import Lesson
from flywheel.types import Group, Origin, Outcome, Row, content_id
from tests.store.attempts import make_experience, make_task


def make_lesson(number: int, origin: Origin = "on_policy", *, size: int = 10, predicted: float | None = None) -> Lesson:
    experience = make_experience(make_task(number), 1, outcome="solved", origin=origin)
    row = Row(
        experience_id=experience.id,
        kind="ce",
        prompt_ids=(number, 1),
        completion_ids=(2,) * (size + 1),
        loss_mask=(0, *(1,) * size),
        behavior_logprobs=None,
        advantage=0.0,
    )
    return Lesson(experience=experience, row=row, maker="test", predicted=predicted)


def make_group(number: int, *outcomes: Outcome, step: int = 1, answers: tuple[str, ...] = ()) -> Group:
    """Return a group of a task (the same for the same number) as it would be made in a step."""
    task = make_task(number)
    group_id = content_id("group", step, task.id)
    attempts = []
    for sibling, outcome in enumerate(outcomes):
        answer = answers[sibling] if answers else None
        made = make_experience(task, sibling, outcome=outcome, answer=answer)
        attempts.append(dataclasses.replace(made, id=content_id("experience", group_id, sibling), group_id=group_id))
    return Group(id=group_id, task=task, experiences=tuple(attempts), stages=(len(attempts),))
