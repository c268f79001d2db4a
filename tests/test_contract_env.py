"""The environment contract, held to what is shipped and to two of other makes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import gymnasium
import pytest

from flywheel import registry
from flywheel.testing.environment import EnvironmentContract
from flywheel.tool_env import UnicodeText
from tests.envs.lean_oracle import learning


class TestCode(EnvironmentContract):
    target = "code"


class TestChemistry(EnvironmentContract):
    target = "chemistry"


@pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="the extra reasoning-gym is not installed")
class TestReasoningGym(EnvironmentContract):
    target = "reasoning_gym"


class TestLean(EnvironmentContract):
    target = "lean"

    @pytest.fixture(autouse=True)
    def _oracle(self) -> Iterator[None]:
        with learning():
            yield


class TestLeanWholeProofs(TestLean):
    target = "flywheel.envs.lean:LeanProofEnv"


@pytest.mark.lean
class TestRealLean(EnvironmentContract):
    target = "lean"


class TestToolEnvThatDraws(EnvironmentContract):
    target = "tests.pick_env:Pick"


class Shout(gymnasium.Env[str, str]):
    """A plain gymnasium environment: say the word in capitals. It has no tools, no tasks and no verifier."""

    def __init__(self) -> None:
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self._word = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task = (options or {}).get("task")
        self._word = task.prompt.removeprefix("Shout ") if task else "".join(self.np_random.choice(list("abcdef"), size=4))
        return f"Shout {self._word}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        heard = action == self._word.upper()
        return "heard" if heard else "louder", float(heard), heard, False, {}


class TestPlainGymnasium(EnvironmentContract):
    target = f"{__name__}:Shout"
    solved_threshold = 1.0


def test_every_shipped_environment_is_held_to_the_contract() -> None:
    held = {case.target for case in EnvironmentContract.__subclasses__()}
    assert set(registry.names("envs")) <= held
