"""A family whose difficulty a test knows: its task says its knobs, and a policy of a given skill solves it by a logistic law."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from flywheel.config import CurriculumConfig
from flywheel.contracts import Knob, TaskGenerator
from flywheel.tasks.curriculum import Curriculum
from flywheel.tasks.family import Family
from flywheel.tasks.outcomes import Outcome
from flywheel.tool_env import ToolEnv
from flywheel.types import Knobs, Task

GROUP_SIZE = 8


class Levels:
    """Two knobs of ten places each; a task's difficulty is their sum."""

    def __init__(self, family: str = "levels", default: tuple[int, int] = (0, 9)) -> None:
        self.family = family
        self.knobs = {name: Knob(low=0, high=9, default=default, help="") for name in ("x", "y")}

    def generate(self, params: Knobs, seed: int) -> Task:
        return Task.create(env="toy", family=self.family, prompt=f"{dict(params)} {seed}", payload={}, params=dict(params), seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        return []

    def key(self, task: Task) -> str:
        return task.prompt

    def validate(self, task: Task) -> None:
        pass


class LevelsEnv(ToolEnv):
    """Its tasks are those of `Levels`."""

    name = "toy"
    solved_threshold = 1.0

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"levels": Levels()}


def make(rule: str = "frontier", families: Sequence[Family] | None = None, **config: object) -> Curriculum:
    known = families or [Family(env="toy", generator=Levels(), share=1.0, ranges={})]
    return Curriculum(CurriculumConfig.model_validate({"rule": rule, **config}), known, seed=0)


def difficulty(task: Task) -> float:
    return float(sum(int(value) for value in task.params.values()))


def chance(task: Task, skill: float) -> float:
    return 1 / (1 + math.exp(difficulty(task) - skill))


def draw(curriculum: Curriculum, index: int) -> Task:
    plan = curriculum.plan(index)
    return plan.family.generator.generate(plan.params(index), index)


def play(curriculum: Curriculum, step: int, skill: float, groups: int = 16) -> list[Outcome]:
    """Return the outcomes of a step of a policy of this skill."""
    rng = random.Random(f"{step} {skill}")
    tasks = [draw(curriculum, step * 1000 + i) for i in range(groups)]
    solved = [sum(rng.random() < chance(task, skill) for _ in range(GROUP_SIZE)) for task in tasks]
    return [Outcome(task=task, num_solved=s, num_judged=GROUP_SIZE) for task, s in zip(tasks, solved, strict=True)]
