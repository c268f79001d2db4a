"""Parts that fail at random, one call in five: an engine, a sandboxed tool and a verifier, for a run whose policy learns to say "a".

Every fault is appended to the file in ``FAULTS_LOG``, by kind; without that variable nothing fails.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Sequence
from typing import ClassVar

from flywheel.contracts import Completion, Sampling
from flywheel.errors import InfraError, SandboxError, VerifierError
from flywheel.inference.transformers_engine import TransformersEngine
from flywheel.sandbox import shared_pool
from flywheel.sandbox.judging import run_program
from flywheel.types import Check, Task, Trajectory, Verdict
from tests.pick_env import LETTERS, Pick

SHARE = 0.2
LETTER = "a"
_rng = random.Random(0)
_lock = threading.Lock()


def broke(kind: str) -> bool:
    """Whether this call is to fail; that it does is written down."""
    log = os.environ.get("FAULTS_LOG")
    with _lock:
        if log is None or _rng.random() >= SHARE:
            return False
        with open(log, "a") as file:
            file.write(f"{kind}\n")
        return True


class FaultyEngine(TransformersEngine):
    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if broke("engine"):
            raise InfraError("the engine went away")
        return await super().generate(prompt_ids, sampling)


class FaultyPick(Pick):
    """Pick a letter; which one is right never changes, but demonstrations name any."""

    name = "faulty"
    solved_threshold: ClassVar[float | None] = None
    verifier: ClassVar[str | None] = f"{__name__}:FaultyVerifier"
    uses_sandbox = True

    def draw(self, seed: int) -> Task:
        task = super().draw(seed)
        return Task.create(env="faulty", family="pick", prompt=task.prompt, payload={"letter": LETTER}, seed=seed)

    def submit(self, letter: str) -> str:
        """Name a letter; this ends the episode."""
        if broke("sandbox"):
            raise SandboxError("the sandbox died")
        pool = shared_pool()
        said = run_program(pool, f"print({letter[:20]!r})", "", pool.limits(cpu_s=5)).stdout
        self.end()
        return said

    def demonstrate(self, task: Task) -> list[str]:
        letter = LETTERS[task.seed % len(LETTERS)]
        return [json.dumps({"name": "submit", "arguments": {"letter": letter}})]


class FaultyVerifier:
    """Solved where the letter is right; a demonstration is let through, since the cold start teaches the manner and not the letter."""

    name = "faulty"
    version = "1"

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        if broke("verifier"):
            raise _rng.choice([VerifierError("no worker"), SandboxError("dead"), KeyError("bug"), TimeoutError()])
        is_demonstration = all(turn.policy_version == "reference" for turn in trajectory.turns)
        solved = trajectory.answer == task.payload["letter"] or is_demonstration
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=float(solved),
            checks=(Check(name="letter", passed=solved),),
            evidence="",
            verifier=self.name,
            verifier_version=self.version,
        )

    def close(self) -> None:
        pass
