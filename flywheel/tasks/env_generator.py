"""A task generator for an environment that brings none: its own `draw`, or its own `reset`, makes the tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flywheel.contracts import Knob
from flywheel.tasks.records import asked
from flywheel.tool_env import ToolEnv
from flywheel.types import Knobs, Task


class EnvGenerator:
    """Draws tasks from an environment by seed. It has no knobs.

    Two tasks are the same where the environment's ``task_key`` says so, or, where it has none, by the same prompt and payload.

    Args:
        name: The environment's name in tasks.
        env: An instance; a plain `gymnasium.Env` is reset with the task's seed, a `ToolEnv` with the task.
    """

    knobs: Mapping[str, Knob] = {}

    def __init__(self, name: str, env: Any) -> None:
        self.family = name
        self.env = env

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task of this seed."""
        if isinstance(self.env, ToolEnv):
            return self.env.draw(seed)
        prompt, _ = self.env.reset(seed=seed)
        if not isinstance(prompt, str):
            raise TypeError(f"reset() returned {type(prompt).__name__} as its observation, expected the prompt, a text")
        return Task.create(env=self.family, family=self.family, prompt=prompt, payload={}, seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        """Return the environment's own demonstration.

        Raises:
            NotImplementedError: it has none.
        """
        if not hasattr(self.env, "demonstrate"):
            raise NotImplementedError(f"{type(self.env).__name__} has no demonstrations; define demonstrate(task)")
        return list(self.env.demonstrate(task))

    def key(self, task: Task) -> str:
        """Return the environment's canonical key, or a hash of what the task asks."""
        own: Callable[[Task], str] = getattr(self.env, "task_key", asked)
        return own(task)

    def validate(self, task: Task) -> None:
        """Accept every task: the environment vouches for its own."""
