"""Anchors: references that are played through the real environment, and what becomes of those that can't be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flywheel.hindsight.anchors import Anchors
from flywheel.hindsight.pool import num_tokens
from flywheel.rollout.stage import Stage
from flywheel.types import Task
from tests.rollout.rooms import room_task
from tests.scripted import make_chat, make_recipe

CHAT = make_chat()
GOOD = {"word": "red"}
# One that does not solve its task, and one that breaks its environment.
BAD: tuple[tuple[str, dict[str, str]], ...] = (("submit", {"word": "blue"}), ("look", {}))


@dataclass(frozen=True)
class Rooms:
    """A family whose references are bad now and then."""

    name: str = "room/room"
    share: float = 1.0

    @property
    def families(self) -> list[Any]:
        return [self]

    def reference(self, family: Any) -> list[str]:
        return []

    def demonstrations(self, seed: int, families: Any) -> Iterator[tuple[Task, list[str]]]:
        for number in range(40):
            name, arguments = BAD[number // 2 % len(BAD)] if number % 2 else ("submit", GOOD)
            yield room_task("red", "bug" if name == "look" else "", number), [json.dumps({"name": name, "arguments": arguments})]


def test_a_bad_reference_is_passed_over_and_ends_no_run() -> None:
    async def fill() -> list[Any]:
        stage = Stage(make_recipe("tests.rollout.rooms:Room"))
        try:
            anchors = Anchors(Rooms(), stage, CHAT, seed=0)  # type: ignore[arg-type]
            return await anchors.fill(1, 10_000, lambda experience_id: True)
        finally:
            stage.close()

    lessons = asyncio.run(fill())
    assert [lesson.experience.task.seed for lesson in lessons] == list(range(0, 40, 2))
    assert all(lesson.experience.verdict.outcome == "solved" and num_tokens(lesson.row) for lesson in lessons)
