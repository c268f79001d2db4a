"""The contract of an environment as a class of tests for pytest.

In a file of your own:

    from flywheel.testing.environment import EnvironmentContract

    class TestMine(EnvironmentContract):
        target = "my_env:Mine"

It holds for anything that flywheel can train on, a plain `gymnasium.Env` with text in and text out among them.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from flywheel.config import EnvironmentConfig, Recipe
from flywheel.registry import resolve
from flywheel.rollout.stage import Stage
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, Trajectory, to_json

NONSENSE = [
    "",
    " \n",
    "nonsense",
    "⊢ ∀ λ \x00 \u2028",
    "[]",
    "null",
    "{}",
    '{"name": 5}',
    '{"name": ["submit"], "arguments": {}}',
    '{"name": "submit", "arguments": [[1, 2]]}',
    '{"name": "no_such_tool", "arguments": {}}',
    '{"name": "submit", "arguments": []}',
    '{"name": "submit", "arguments": {"no_such_argument": 1}}',
    '{"name": "__init__", "arguments": {}}',
    '{"name": "reset", "arguments": {}}',
    '{"name": "step", "arguments": {"action": "x"}}',
    "[" * 100_000,
    '{"name": "' + "x" * 10_000 + '"}',
]


class EnvironmentContract:
    """What every environment must do. `target` is a registered name or ``module:Class``; `kwargs` go to its constructor."""

    target: str
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - a subclass replaces it
    solved_threshold: float | None = None
    num_tasks = 3

    @pytest.fixture
    def env(self) -> Iterator[gymnasium.Env[str, str]]:
        made = resolve("envs", self.target)(**self.kwargs)
        yield made
        made.close()

    @property
    def recipe(self) -> Recipe:
        """A recipe with this environment alone."""
        section = EnvironmentConfig(use=self.target, kwargs=self.kwargs, solved_threshold=self.solved_threshold)
        return Recipe(environments={"it": section})

    def tasks(self) -> list[Task]:
        """Tasks as a run draws them."""
        source = TaskSource(self.recipe)
        return [source.train(index) for index in range(self.num_tasks)]

    def test_gymnasium_accepts_it(self, env: gymnasium.Env[str, str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about rendering and spaces
            check_env(env, skip_render_check=True)

    def test_it_has_what_judges_it(self) -> None:
        stage = Stage(self.recipe)
        assert list(stage.verifiers) == [getattr(resolve("envs", self.target), "name", "it")]
        stage.close()

    def test_reset_without_a_task_draws_one_by_the_seed(self, env: gymnasium.Env[str, str]) -> None:
        first, info = env.reset(seed=7)
        assert isinstance(first, str)
        assert first.strip()
        assert env.observation_space.contains(first)
        assert env.reset(seed=7) == (first, info)
        prompts = {env.reset(seed=seed)[0] for seed in range(20)}
        assert len(prompts) > 1

    def test_reset_with_a_task_says_its_prompt(self, env: gymnasium.Env[str, str]) -> None:
        for task in self.tasks():
            prompt, info = env.reset(seed=0, options={"task": task})
            assert prompt == task.prompt
            assert isinstance(info, dict)

    def test_a_nonsense_action_is_a_turn(self, env: gymnasium.Env[str, str]) -> None:
        for action in NONSENSE:
            env.reset(seed=1)
            observation, reward, terminated, truncated, info = env.step(action)
            assert isinstance(observation, str)
            assert env.observation_space.contains(observation)
            assert isinstance(reward, float | int)
            assert isinstance(terminated, bool)
            assert isinstance(truncated, bool)
            assert isinstance(info, dict)

    def test_the_same_actions_get_the_same_answers(self, env: gymnasium.Env[str, str]) -> None:
        for task in self.tasks():
            assert self.played(env, task) == self.played(env, task)

    def test_an_episode_leaves_nothing_for_the_next(self, env: gymnasium.Env[str, str]) -> None:
        first, second = self.tasks()[:2]
        alone = self.played(env, second)
        self.played(env, first)
        assert self.played(env, second) == alone

    def test_only_the_end_gives_a_reward(self, env: gymnasium.Env[str, str]) -> None:
        if getattr(env, "verifier", None) is None:
            pytest.skip("it gives its own rewards")
        for task in self.tasks():
            for _, reward, terminated, *_ in self.played(env, task):
                assert 0 <= reward <= 1
                assert terminated or reward == 0

    def test_a_trajectory_without_turns_has_no_answer(self, env: gymnasium.Env[str, str]) -> None:
        if hasattr(env, "answer"):
            env.reset(seed=0)
            assert env.answer(Trajectory(task_id="t", turns=(), stop_reason="max_tokens", answer=None)) is None

    def test_tools_have_schemas(self, env: gymnasium.Env[str, str]) -> None:
        env.reset(seed=0)
        tools = getattr(env, "tools", [])
        assert json.loads(json.dumps(tools)) == tools
        for tool in tools:
            assert tool["type"] == "function"
            assert tool["function"]["name"].isidentifier()
            assert tool["function"]["description"].strip()
            assert tool["function"]["parameters"]["type"] == "object"

    def test_tasks_are_plain_data_with_one_key_each(self) -> None:
        source = TaskSource(self.recipe)
        families = {family.generator.family: family.generator for family in source.families}
        for task in self.tasks():
            again = Task.from_json({k: v for k, v in json.loads(to_json(task)).items() if k != "id"})
            assert (again.id, again.prompt) == (task.id, task.prompt)
            generator = families.get(task.family) or next(iter(families.values()))
            assert generator.key(again) == generator.key(task)
            generator.validate(task)

    def actions(self, task: Task) -> list[str]:
        """Actions to play a task with: nonsense, and its demonstration where it has one."""
        source = TaskSource(self.recipe)
        generators = {family.generator.family: family.generator for family in source.families}
        try:
            return [*NONSENSE[:4], *(generators.get(task.family) or next(iter(generators.values()))).demonstrate(task)]
        except NotImplementedError:
            return NONSENSE[:4]

    def played(self, env: gymnasium.Env[str, str], task: Task) -> list[tuple[Any, ...]]:
        """Return what `step` gives for every action until the episode ends."""
        env.reset(seed=0, options={"task": task})
        steps: list[tuple[Any, ...]] = []
        for action in itertools.islice(self.actions(task), 20):
            steps.append(env.step(action))
            if steps[-1][2] or steps[-1][3]:
                break
        return steps
