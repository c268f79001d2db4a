"""Pictures of attempts: from environments that draw, and never at the cost of a run."""

from __future__ import annotations

import asyncio

import pytest

from flywheel.config import Recipe
from flywheel.rollout.pictures import draw_pictures
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Task, Trajectory, Verdict
from tests.rollout.rooms import Room


class Drawn(Room):
    """Draws the answer's text."""

    name = "drawn"

    def picture(self, task: Task, trajectory: Trajectory) -> bytes | None:
        if trajectory.answer == "trouble":
            raise RuntimeError("no ink")
        return trajectory.answer.encode() if trajectory.answer else None


def experience(env: str, answer: str | None) -> Experience:
    task = Task.create(env=env, family="sums", prompt="", payload={})
    verdict = Verdict(outcome="failed", reward=0.0, checks=(), evidence="", verifier="v", verifier_version="1")
    trajectory = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    return Experience(id=f"{env}-{answer}", group_id="g", task=task, trajectory=trajectory, verdict=verdict, origin="on_policy")


def test_only_what_is_drawn_has_a_picture(caplog: pytest.LogCaptureFixture) -> None:
    environments = {"room": {"use": "tests.rollout.rooms:Room"}, "drawn": {"use": f"{__name__}:Drawn"}}
    stage = Stage(Recipe.model_validate({"environments": environments}))
    attempts = [experience("room", "1"), experience("drawn", "png"), experience("drawn", None), experience("drawn", "trouble")]
    assert asyncio.run(draw_pictures(stage, attempts)) == {"drawn-png": b"png"}
    assert "no ink" in caplog.text
    stage.close()
