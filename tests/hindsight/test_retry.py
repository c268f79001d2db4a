"""The retry buffer: which tasks come in, which leave, and how they are handed out."""

from __future__ import annotations

import json

from flywheel.config import LearningConfig
from flywheel.hindsight.retry import MAX_TRIES, RetryBuffer
from flywheel.router import Knowledge, route
from flywheel.types import Group, Task, to_json
from tests.hindsight.lessons import make_group
from tests.store.attempts import make_task


def config(**changes: object) -> LearningConfig:
    return LearningConfig.model_validate({"retry_size": 3, "retry_share": 0.5, **changes})


def learn(buffer: RetryBuffer, step: int, *groups: Group, predicted: float = 0.5) -> None:
    routed = route(groups, scale="none", learning=config(), knowledge=Knowledge(predicted=lambda task: predicted))
    buffer.learn(step, groups, {r.experience_id: r for r in routed.routes})


def drawn(buffer: RetryBuffer, num_groups: int = 4, barred: frozenset[str] = frozenset()) -> list[Task | None]:
    draw = buffer.drawer(lambda at: None, num_groups, lambda task: task.id not in barred)  # type: ignore[arg-type, return-value]
    return [draw(at) for at in range(num_groups)]


def test_tasks_that_all_failed_and_should_be_solvable_come_back_within_their_share() -> None:
    buffer = RetryBuffer(config())
    learn(buffer, 1, make_group(1, "failed", "failed"), make_group(2, "solved", "failed"), make_group(3, "failed", "truncated"))
    waiting = sorted((make_task(1), make_task(3)), key=lambda task: task.id)
    assert drawn(buffer) == [*waiting, None, None]
    assert drawn(buffer) == [None] * 4  # handed out already
    learn(buffer, 2, make_group(4, "failed", "failed"), predicted=0.05)
    assert make_task(4).id not in buffer


def test_no_more_than_the_share_and_none_that_may_not_train() -> None:
    buffer = RetryBuffer(config())
    learn(buffer, 1, *(make_group(n, "failed", "failed") for n in range(3)))
    first, *_ = sorted(make_task(n).id for n in range(3))
    found = drawn(buffer, num_groups=2, barred=frozenset({first}))
    assert sum(task is not None for task in found) == 1
    assert first not in {task.id for task in found if task}


def test_a_task_that_is_solved_leaves_and_one_that_fails_again_is_given_up_in_the_end() -> None:
    buffer = RetryBuffer(config())
    learn(buffer, 1, make_group(1, "failed", "failed"), make_group(2, "failed", "failed"))
    learn(buffer, 2, make_group(1, "failed", "failed", step=2), make_group(2, "solved", "failed", step=2))
    assert (make_task(1).id in buffer, make_task(2).id in buffer) == (True, False)
    learn(buffer, MAX_TRIES, make_group(1, "failed", "failed", step=MAX_TRIES))
    assert make_task(1).id not in buffer


def test_it_is_bounded_in_size_and_age() -> None:
    buffer = RetryBuffer(config(max_age=2))
    learn(buffer, 1, *(make_group(n, "failed", "failed") for n in range(4)))
    assert len(buffer) == 3
    learn(buffer, 3)
    assert len(buffer) == 0


def test_what_no_batch_took_does_not_count() -> None:
    buffer = RetryBuffer(config())
    learn(buffer, 1, make_group(1, "failed", "failed"))
    buffer.learn(2, [make_group(1, "solved", "failed", step=2)], {})
    assert make_task(1).id in buffer


def test_its_state_survives_json() -> None:
    buffer, again = RetryBuffer(config()), RetryBuffer(config())
    learn(buffer, 1, make_group(1, "failed", "failed"), make_group(2, "failed", "failed"))
    again.restore(json.loads(to_json(buffer.state())))
    assert drawn(again) == drawn(buffer)
