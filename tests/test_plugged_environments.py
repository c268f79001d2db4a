"""Environments that others write: plain `gymnasium.Env`s of text, and every way in which one can break before a run has begun."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any, ClassVar

import gymnasium
import pytest

from flywheel.config import Recipe
from flywheel.errors import ConfigError
from flywheel.rollout.demonstrations import demonstration_row, play_demonstrations
from flywheel.rollout.stage import Stage
from flywheel.tasks.source import TaskSource
from flywheel.tool_env import ToolEnv, UnicodeText
from flywheel.types import Task
from tests.scripted import make_chat

HERE = "tests.test_plugged_environments"


class Echo(gymnasium.Env[str, str]):
    """Say the number; knows nothing of tools, tasks or flywheel."""

    def __init__(self, mood: str = "") -> None:
        self.observation_space, self.action_space = UnicodeText(), UnicodeText()
        self.mood, self.number = mood, 0
        if mood == "no instance":
            raise OSError("no display")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(10_000))
        return {"observation": 1} if self.mood == "dict" else f"Say {self.number}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.mood == "step":
            raise RuntimeError("no step today")
        return "heard", float(action == str(self.number)), True, False, {}

    def close(self) -> None:
        if self.mood == "close":
            raise RuntimeError("it is stuck open")

    def demonstrate(self, task: Task) -> list[str]:
        if self.mood == "demonstrate":
            raise KeyError("no demonstration")
        return [task.prompt.removeprefix("Say ").removesuffix(".")]


class Discrete(Echo):
    """Its actions are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(3)  # type: ignore[assignment]


class OldEnv(ToolEnv):
    """Its reset is that of an older gym."""

    name = "old"
    solved_threshold: ClassVar[float | None] = 1.0

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:  # type: ignore[override]
        return "", {}

    def demonstrate(self, task: Task) -> list[str]:
        return []


class Drawer(ToolEnv):
    """Draws tasks, or fails to."""

    name = "drawer"
    solved_threshold: ClassVar[float | None] = 1.0

    def __init__(self, *, judge: bool = True, mood: str = "") -> None:
        super().__init__(judge=judge)
        self.mood = mood

    def draw(self, seed: int) -> Task:
        if self.mood == "raises":
            raise LookupError("no such drawer")
        if self.mood == "never":
            raise ValueError("it is stuck")
        env = "dresser" if self.mood == "another" else "drawer"
        return Task.create(env=env, family="drawer", prompt="Open.", payload={}, seed=seed)

    def count(self, upto: int) -> int:
        """Count."""
        return upto + 1

    def rest(self) -> None:
        """Do nothing."""


def recipe(cls: str, **kwargs: Any) -> Recipe:
    return Recipe.model_validate({"environments": {"x": {"use": f"{HERE}:{cls}", "solved_threshold": 1, "kwargs": kwargs}}})


def played(config: Recipe, count: int = 3) -> Any:
    async def play() -> Any:
        stage = Stage(config)
        try:
            references = islice(TaskSource(config).demonstrations(0), count)
            return await play_demonstrations(references, stage, concurrency=2, progress=lambda at: None)
        finally:
            stage.close()

    return asyncio.run(play())


def test_a_plain_environment_is_shown_and_taught_in_plain_text() -> None:
    chat = make_chat()
    for demonstration in played(recipe("Echo")):
        row = demonstration_row(demonstration, chat)
        said = demonstration.experience.task.prompt.removeprefix("Say ").removesuffix(".")
        assert chat.tokenizer.decode(row.completion_ids) == f"{said}<|im_end|>"
        assert set(row.loss_mask) == {1}


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("no instance", r"environments\.x: making the environment raised OSError: no display \(test_plugged_environments\.py, line \d+"),
        ("dict", r"making a task raised TypeError: reset\(\) returned dict as its observation, expected the prompt, a text"),
        (
            "step",
            r"could not be played: the environment raised RuntimeError: no step today \(test_plugged_environments\.py, line \d+, in step",
        ),
        ("demonstrate", r"demonstrate\(\) raised KeyError: 'no demonstration' \(test_plugged_environments\.py"),
    ],
)
def test_what_an_environment_raises_is_said_with_its_line(mood: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        played(recipe("Echo", mood=mood))


def test_what_is_done_is_not_lost_over_closing(caplog: pytest.LogCaptureFixture) -> None:
    assert len(played(recipe("Echo", mood="close"))) == 3
    assert "closing Echo raised RuntimeError: it is stuck open" in caplog.text


def test_actions_that_are_no_text_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"environments\.x: its action_space is Discrete\(3\), and what a policy does is text"):
        TaskSource(recipe("Discrete"))


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("raises", r"environment 'drawer', family 'drawer': making a task raised LookupError: no such drawer"),
        ("never", r"no train task in 10000 draws; it makes too few different ones \(the last one failed: ValueError: it is stuck"),
        ("another", r"it made one of environment 'dresser', expected a task \(flywheel\.types\.Task\) of environment 'drawer'"),
    ],
)
def test_tasks_that_can_not_be_drawn(mood: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        TaskSource(recipe("Drawer", mood=mood)).train(0)


def test_what_a_tool_returns_is_shown_as_text() -> None:
    env = Drawer()
    env.reset(seed=0)
    assert env.step('{"name": "count", "arguments": {"upto": 2}}')[0] == "3"
    assert env.step('{"name": "rest", "arguments": {}}')[0] == ""


@pytest.mark.parametrize("made", ["json:dumps", "collections:OrderedDict"])
def test_a_verifier_that_is_none(made: str) -> None:
    config = Recipe.model_validate({"environments": {"x": {"use": f"{HERE}:Echo", "verifier": made}}})
    with pytest.raises(ConfigError, match=rf"environments\.x\.verifier: (making )?'{made}'"):
        Stage(config)
