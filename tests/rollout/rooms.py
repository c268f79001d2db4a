"""Small environments that a test can break: the answer to every task is the word in its payload."""

from __future__ import annotations

import sys
import threading
from typing import ClassVar

from flywheel.errors import InfraError, SandboxError
from flywheel.tool_env import ToolEnv
from flywheel.types import Check, Task, Trajectory, Verdict


def room_task(word: str = "red", mood: str = "", seed: int = 0) -> Task:
    return Task.create(env="room", family="room", prompt=f"Say it. {mood} {seed}", payload={"word": word, "mood": mood}, seed=seed)


class RoomVerifier:
    name = "room"
    version = "1"

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        if task.payload["mood"] == "dead judge":
            raise SandboxError("the judge's sandbox died")
        solved = trajectory.answer == task.payload["word"]
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=float(solved),
            checks=(Check(name="word", passed=solved),),
            evidence=str(trajectory.answer),
            verifier="room",
            verifier_version="1",
        )

    def close(self) -> None:
        pass


class Room(ToolEnv):
    """Its moods: ``bug``, ``exit``, ``dead`` and ``stuck`` break `look`; ``together`` waits until two are inside."""

    name = "room"
    verifier: ClassVar[str | None] = f"{__name__}:RoomVerifier"
    release: ClassVar[threading.Event] = threading.Event()
    barrier: ClassVar[threading.Barrier] = threading.Barrier(2)
    num_made: ClassVar[int] = 0

    def __init__(self, *, judge: bool = True) -> None:
        super().__init__(judge=judge)
        Room.num_made += 1

    def draw(self, seed: int) -> Task:
        return room_task(seed=seed)

    def look(self) -> str:
        """Look around."""
        mood = self.task.payload["mood"] if self.task else ""
        if mood == "bug":
            raise KeyError("a bug of the environment")
        if mood == "exit":
            sys.exit("the environment leaves")
        if mood == "dead":
            raise InfraError("the room's sandbox died")
        if mood == "stuck":
            self.release.wait()
        if mood == "together":
            self.barrier.wait(30)
            return "two inside"
        return "four walls"

    def submit(self, word: str) -> str:
        """Say the word; this ends the episode."""
        self.end()
        return "said"
