"""The retry buffer: tasks that every attempt failed although they should be solvable, to be tried again by a later policy.

Its state is a function of the journal (`flywheel.hindsight.history`): a task comes in with a route ``retry`` and leaves when it is
attempted again, when it is too old or when newer ones push it out. After `MAX_TRIES` failed groups it is given up.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flywheel.config import LearningConfig
from flywheel.routes import Route
from flywheel.types import Group, Task, to_json

MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Failed:
    task: Task
    step: int
    tries: int
    is_out: bool = False  # handed out, and its group not judged yet


class RetryBuffer:
    """See the module.

    Args:
        config: ``[learning]``.
    """

    def __init__(self, config: LearningConfig) -> None:
        self._config = config
        self._failed: dict[str, _Failed] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._failed

    def drawer(self, draw: Callable[[int], Task], num_groups: int, may_train: Callable[[Task], bool]) -> Callable[[int], Task]:
        """Return a step's drawer whose first places are tasks that wait, oldest first; every other place is what `draw` has there.

        Args:
            draw: The source's.
            num_groups: Groups of the step.
            may_train: Whether a task is of a family of this run and of its training split.
        """
        most = int(self._config.retry_share * num_groups)
        waiting = [found for found in self._failed.values() if not found.is_out and may_train(found.task)][:most]
        for found in waiting:  # steps whose rollouts run ahead of this one don't take the same ones
            self._failed[found.task.id] = dataclasses.replace(found, is_out=True)
        return lambda at: waiting[at].task if at < len(waiting) else draw(at)

    def learn(self, step: int, groups: Iterable[Group], routes: Mapping[str, Route]) -> None:
        """Take in the groups of a step's batch, and the routes of their attempts by id."""
        config = self._config
        for group in sorted(groups, key=lambda group: group.task.id):
            if not any(e.id in routes for e in group.experiences):  # collected, and no batch took it
                continue
            before = self._failed.pop(group.task.id, None)
            tries = 1 + (before.tries if before is not None else 0)
            if tries < MAX_TRIES and any(is_retried(routes.get(e.id)) for e in group.experiences):
                self._failed[group.task.id] = _Failed(group.task, step, tries)
        fresh = [(i, found) for i, found in self._failed.items() if step - found.step < config.max_age]
        self._failed = dict(fresh[max(0, len(fresh) - config.retry_size) :])

    def state(self) -> list[Any]:
        """Return the state as plain data; what is handed out waits again in whoever takes it over."""
        return [[json.loads(to_json(found.task)), found.step, found.tries] for found in self._failed.values()]

    def restore(self, state: Iterable[Any]) -> None:
        """Take over a state."""
        entries = [_Failed(Task(**task), step, tries) for task, step, tries in state]
        self._failed = {entry.task.id: entry for entry in entries}


def is_retried(route: Route | None) -> bool:
    """Whether an attempt's task is to be tried again."""
    return route is not None and "retry" in (route.destination, *route.also)
