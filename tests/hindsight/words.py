"""An environment whose relabeller a test writes: say a word that begins as the task asks."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from flywheel.contracts import Relabeller
from flywheel.tool_env import ToolEnv
from flywheel.types import Check, Task, Trajectory, Verdict

Pairs = list[tuple[Task, Trajectory]]


def word_task(letter: str, mood: str = "", number: int = 0) -> Task:
    prompt = f"Say a word that begins with {letter}. {number}"
    return Task.create(env="words", family="words", prompt=prompt, payload={"letter": letter, "mood": mood, "number": number})


def retold(task: Task, trajectory: Trajectory, letter: str, mood: str = "", number: int = 0) -> tuple[Task, Trajectory]:
    """Return the attempt at a task that asks for another letter."""
    child = word_task(letter, mood, number).derived(task, "hindsight:words")
    return child, dataclasses.replace(trajectory, task_id=child.id)


class WordsVerifier:
    """Moods: ``flaky`` solves every second time, ``any`` takes every word, ``open`` takes no word at all."""

    name = "words"
    version = "1"
    turns: ClassVar[Iterator[int]] = itertools.count()

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        answer, mood = trajectory.answer or "", task.payload["mood"]
        solved = mood == "any" or answer.startswith(task.payload["letter"])
        if mood == "flaky":
            solved = solved and next(self.turns) % 2 == 0
        if mood == "open":
            solved = trajectory.answer is None
        outcome = "tampered" if answer == "cheat" else "solved" if solved else "failed"
        check = Check(name="kills_grader" if answer == "kill" else "letter", passed=solved)
        return Verdict(
            outcome=outcome,  # type: ignore[arg-type]
            reward=float(solved),
            checks=(check,),
            evidence="canary",
            verifier=self.name,
            verifier_version=self.version,
        )

    def close(self) -> None:
        pass


class Words(ToolEnv):
    """Say a word."""

    name = "words"
    verifier: ClassVar[str | None] = f"{__name__}:WordsVerifier"
    make: ClassVar[Callable[[Task, Trajectory, Verdict], Pairs]] = lambda *_: []

    def draw(self, seed: int) -> Task:
        return word_task("abcdefg"[seed % 7], number=random.Random(seed).randrange(10**6))

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        return (ByTest(),)

    @classmethod
    def answer_keys(cls, answers: Sequence[str]) -> list[str | None]:
        return [answer.lower() or None for answer in answers]

    def demonstrate(self, task: Task) -> list[str]:
        return [f'{{"name": "submit", "arguments": {{"word": "{task.payload["letter"]}-heldout"}}}}']

    def look(self) -> str:
        """Look at what is asked."""
        if self.task and self.task.payload["mood"] == "bug":
            raise KeyError("a bug of the environment")
        return f"it begins with {self.task.payload['letter'] if self.task and self.task.payload['mood'] == 'tells' else 'something'}"

    def submit(self, word: str) -> str:
        """Say a word; this ends the episode."""
        self.end()
        return "said"


class ByTest:
    """What the test says."""

    name = "words"

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> Pairs:
        return type(self)._make()(task, trajectory, verdict)

    @staticmethod
    def _make() -> Callable[[Task, Trajectory, Verdict], Pairs]:
        return Words.__dict__["make"].__func__ if isinstance(Words.__dict__["make"], staticmethod) else Words.__dict__["make"]

    def trivial(self, task: Task) -> Sequence[str]:
        return ("trivial",)
