"""`tests.pick_env` with few tasks, so that a run meets them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flywheel.contracts import Relabeller
from flywheel.hindsight.goals import GoalRelabeller
from flywheel.types import Task, Trajectory
from tests.pick_env import Pick

NUM_TASKS = 24


class Few(Pick):
    """Pick a letter, of a task among few."""

    name = "few"

    def draw(self, seed: int) -> Task:
        task = super().draw(seed % NUM_TASKS)
        return Task.create(env="few", family="few", prompt=f"Pick {task.seed}.", payload=task.payload, seed=task.seed)


class AskingRelabeller(GoalRelabeller):
    """Lets a model word what it makes; an untaught policy has no statement to give."""

    def ask(self, task: Task, answer: str) -> str:
        return task.prompt

    def worded(self, task: Task, answer: str, statement: str) -> str:
        return statement


class Told(Few):
    """The same, and what was picked in vain becomes a task that says the letter."""

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        return (AskingRelabeller(cls, strategy="final"),)

    @classmethod
    def achieved_goals(cls, task: Task, trajectory: Trajectory) -> list[Any]:
        return [None, *(turn.tool_calls[0].arguments.get("letter") if turn.tool_calls else None for turn in trajectory.turns)]

    @classmethod
    def with_goal(cls, task: Task, goal: Any) -> Task:
        return Task.create(env="few", family="few", prompt=f"Pick {task.seed}: {goal}.", payload={"letter": goal}, seed=task.seed)
