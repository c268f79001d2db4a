"""An environment whose tasks name the letter to say, and a verifier that a test can make flaky or newer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

from flywheel.contracts import Knob, TaskGenerator
from flywheel.tool_env import ToolEnv
from flywheel.types import Check, Knobs, Task, Trajectory, Verdict

LETTERS = "abcdefgh"


class LettersVerifier:
    name = "letters"
    version = "1"
    flaky: ClassVar[random.Random | None] = None

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        solved = trajectory.answer == task.payload["letter"]
        if self.flaky is not None:
            solved = self.flaky.random() < 0.5
        check = Check(name="letter", passed=solved)
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=float(solved),
            checks=(check,),
            evidence="",
            verifier=self.name,
            verifier_version=self.version,
        )

    def close(self) -> None:
        pass


class LettersGenerator:
    family = "letters"
    knobs: Mapping[str, Knob] = {"size": Knob(low=1, high=3, default=(1, 3), help="nothing")}

    def generate(self, params: Knobs, seed: int) -> Task:
        rng = random.Random(seed)
        number = rng.randint(0, 10**6)
        return Task.create(
            env="letters",
            family="letters",
            prompt=f"Say the letter of {number}.",
            payload={"letter": rng.choice(LETTERS)},
            params=params,
            seed=seed,
        )

    def demonstrate(self, task: Task) -> list[str]:
        return []

    def key(self, task: Task) -> str:
        return task.prompt

    def validate(self, task: Task) -> None:
        pass


class Letters(ToolEnv):
    name = "letters"
    verifier: ClassVar[str | None] = f"{__name__}:LettersVerifier"

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        return {"letters": LettersGenerator()}

    def submit(self, letter: str) -> str:
        """Say it."""
        self.end()
        return "said"
