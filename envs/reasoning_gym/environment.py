"""`ReasoningGymEnv`: a question, and one answer to submit. What is judged is judged by reasoning-gym's own scorers.

It needs the package: ``pip install 'flywheel[reasoning-gym]'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

from flywheel.contracts import TaskGenerator
from flywheel.envs.reasoning_gym.family import dataset_names, make_family
from flywheel.tool_env import ToolEnv


@cache
def _families() -> dict[str, TaskGenerator]:
    return {name: make_family(name) for name in dataset_names()}


class ReasoningGymEnv(ToolEnv):
    """Answer questions of logic, arithmetic, algorithms and games."""

    name: ClassVar[str] = "reasoning_gym"
    verifier: ClassVar[str | None] = "reasoning_gym"

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return one family a data set."""
        return _families()

    def submit(self, answer: str) -> str:
        """Submit the answer; this ends the task.

        Args:
            answer: The answer alone, in the form that the question asks for.
        """
        self.end()
        return "Submitted."
