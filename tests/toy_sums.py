"""A toy environment and verifiers for tests: the answer to a task is the sum in its payload."""

import time
from collections.abc import Mapping
from typing import ClassVar

from flywheel.contracts import Knob, TaskGenerator
from flywheel.errors import SandboxError
from flywheel.tool_env import ToolEnv
from flywheel.types import Check, Knobs, Task, Trajectory, Verdict


class SumsVerifier:
    """Solved where the answer is ``payload["sum"]``; the payload's ``mood`` makes it misbehave."""

    name = "sums"
    version = "3"

    def __init__(self, *, partial_credit: bool = False) -> None:
        self.partial_credit = partial_credit

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        total, mood = task.payload.get("sum"), task.payload.get("mood")
        if not isinstance(total, int):
            raise ValueError(f"sums task: payload.sum is {total!r}, expected an integer")
        if mood == "dead sandbox":
            raise SandboxError("worker died")
        if mood == "bug":
            raise KeyError("bug")
        if mood == "prints":
            print("chatter on standard output")
        if mood == "slow":
            time.sleep(0.2)
        solved = trajectory.answer == str(total)
        near = 0.5 if self.partial_credit and trajectory.answer is not None else 0.0
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=1.0 if solved else near,
            checks=(Check(name="no_answer" if trajectory.answer is None else "sum", passed=solved),),
            evidence=f"got {trajectory.answer}",
            verifier=self.name,
            verifier_version=self.version,
        )

    def close(self) -> None:
        pass


class PlainVerifier(SumsVerifier):
    """Has no partial credit to give."""

    def __init__(self) -> None:
        super().__init__()


class SumsGenerator:
    family = "small"
    knobs: Mapping[str, Knob] = {"size": Knob(low=1, high=9, default=(1, 3), help="largest term")}

    def generate(self, params: Knobs, seed: int) -> Task:
        raise NotImplementedError

    def demonstrate(self, task: Task) -> list[str]:
        raise NotImplementedError

    def key(self, task: Task) -> str:
        raise NotImplementedError

    def validate(self, task: Task) -> None:
        raise NotImplementedError


class SumsEnv(ToolEnv):
    name = "sums"
    verifier: ClassVar[str | None] = f"{__name__}:SumsVerifier"

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        return {"small": SumsGenerator()}


class PlainEnv(SumsEnv):
    verifier = f"{__name__}:PlainVerifier"


class SilentEnv(ToolEnv):
    """Gives its own rewards and shows nobody how to earn them."""

    name = "silent"


class TrustingEnv(ToolEnv):
    """Gives its own rewards and says no threshold."""

    name = "trusting"

    def demonstrate(self, task: Task) -> list[str]:
        return ["done"]


class BrokenEnv(SumsEnv):
    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        raise RuntimeError("no generators today")


class SandboxedEnv(SumsEnv):
    uses_sandbox = True
