"""A walk on a grid, driven by tool calls: a small environment with goals, and all that it says about them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from flywheel.contracts import Relabeller
from flywheel.hindsight.goals import GoalRelabeller
from flywheel.tool_env import ToolEnv
from flywheel.types import Task, Trajectory

SIZE = 9
WAYS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}


class Grid(ToolEnv):
    """Walk to a place."""

    name = "grid"
    solved_threshold: ClassVar[float | None] = 1.0

    @classmethod
    def task_of(cls, start: Sequence[int], goal: Sequence[int], seed: int = 0) -> Task:
        return Task.create(
            env="grid",
            family="grid",
            prompt=f"You are at {tuple(start)}. Walk to {tuple(goal)}.",
            payload={"start": list(start), "desired_goal": list(goal)},
            seed=seed,
        )

    def draw(self, seed: int) -> Task:
        rng = random.Random(seed)
        start, goal = ([rng.randrange(SIZE), rng.randrange(SIZE)] for _ in range(2))
        return self.task_of(start, goal, seed)

    def begin(self, task: Task) -> None:
        self.at = list(task.payload["start"])

    def walk(self, way: str) -> str:
        """Go one step.

        Args:
            way: north, south, east or west.
        """
        if way not in WAYS:
            return "there is no such way"
        self.at = [min(SIZE - 1, max(0, at + step)) for at, step in zip(self.at, WAYS[way], strict=True)]
        if self.task is not None and self.at == self.task.payload["desired_goal"]:
            self.end(reward=1.0)
        return f"at {tuple(self.at)}"

    def demonstrate(self, task: Task) -> list[str]:
        (x, y), (u, v) = task.payload["start"], task.payload["desired_goal"]
        ways = ["east" if u > x else "west"] * abs(u - x) + ["north" if v > y else "south"] * abs(v - y)
        return [json.dumps({"name": "walk", "arguments": {"way": way}}) for way in ways]

    # ------------------------------------------------------------ hindsight

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        return (GoalRelabeller(cls, strategy="final"),)

    @classmethod
    def achieved_goals(cls, task: Task, trajectory: Trajectory) -> list[Any]:
        seen = [re.fullmatch(r"at \((\d), (\d)\)", turn.observation or "") for turn in trajectory.turns]
        return [list(task.payload["start"]), *([int(m[1]), int(m[2])] if m else None for m in seen)]

    @classmethod
    def with_goal(cls, task: Task, goal: Any) -> Task:
        return cls.task_of(task.payload["start"], goal, task.seed)


class DizzyGrid(Grid):
    """Its observations tell how far the goal is, so a replay on another goal reads differently."""

    name = "grid"

    def walk(self, way: str) -> str:
        """Go one step.

        Args:
            way: north, south, east or west.
        """
        said = super().walk(way)
        goal = self.task.payload["desired_goal"] if self.task else [0, 0]
        return f"{said}, {sum(abs(a - b) for a, b in zip(self.at, goal, strict=True))} to go"

    @classmethod
    def achieved_goals(cls, task: Task, trajectory: Trajectory) -> list[Any]:
        seen = [re.match(r"at \((\d), (\d)\)", turn.observation or "") for turn in trajectory.turns]
        return [list(task.payload["start"]), *([int(m[1]), int(m[2])] if m else None for m in seen)]

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        return (GoalRelabeller(cls, strategy="final"),)
