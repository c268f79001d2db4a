"""`tests.pick_env` with few tasks, so that a run meets them again."""

from __future__ import annotations

from flywheel.types import Task
from tests.pick_env import Pick

NUM_TASKS = 24


class Few(Pick):
    """Pick a letter, of a task among few."""

    name = "few"

    def draw(self, seed: int) -> Task:
        task = super().draw(seed % NUM_TASKS)
        return Task.create(env="few", family="few", prompt=f"Pick {task.seed}.", payload=task.payload, seed=task.seed)
