"""`ReasoningGymVerifier`: judges answers by reasoning-gym's own scorers, in a worker that it can kill.

Solved is a score of 1. The entry, answer and all, is made again from the task's payload and never leaves the worker. Answers that a
scorer would evaluate as Python are held to plain data first (`flywheel.verifiers.reasoning_gym_answer`).
"""

from __future__ import annotations

import json
import time

from flywheel.errors import VerifierError
from flywheel.types import Check, Task, Trajectory, Verdict
from flywheel.verifiers.reasoning_gym_answer import refusal
from flywheel.verifiers.reasoning_gym_pool import LIMITS, ask


class ReasoningGymVerifier:
    """See the module.

    Args:
        partial_credit: Give a failed answer half its score.
    """

    name = "reasoning_gym"
    version = "1"

    def __init__(self, *, partial_credit: bool = False) -> None:
        self.partial_credit = partial_credit

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict on ``trajectory.answer``.

        Raises:
            InfraError: the worker broke, and not by the answer.
            ValueError: the task's payload is malformed.
        """
        started = time.monotonic()
        answer = trajectory.answer
        if answer is None or not answer.strip():
            return self._verdict(0.0, Check(name="no_answer", passed=False, detail="no answer"), started)
        why = refusal(str(task.payload.get("dataset")), answer)
        if why is not None:
            return self._verdict(0.0, Check(name="refused", passed=False, detail=why), started)
        reply = ask("score", payload=task.payload, answer=answer)
        if "task_error" in reply:
            raise ValueError(str(reply["task_error"]))
        if reply.get("limit") == "wall":  # a scorer does not sleep: the machine is starved
            raise VerifierError(f"reasoning-gym's scorer of {task.payload['dataset']} got too little CPU time in {LIMITS['wall_s']:g} s")
        if "score" in reply:
            score = float(reply["score"])
            return self._verdict(score, Check(name="score", passed=score >= 1.0, detail=f"score {score:g}"), started)
        if "raised" in reply:
            return self._verdict(0.0, Check(name="score", passed=False, detail=f"the scorer raised {reply['raised']}"), started)
        name = "limit" if "limit" in reply else "kills_grader"
        return self._verdict(0.0, Check(name=name, passed=False, detail=json.dumps(reply)), started)

    def close(self) -> None:
        """Nothing to release: the worker is the program's."""

    def _verdict(self, score: float, check: Check, started: float) -> Verdict:
        solved = check.passed
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=1.0 if solved else 0.5 * min(1.0, max(0.0, score)) if self.partial_credit else 0.0,
            checks=(check,),
            evidence=check.detail,
            verifier=self.name,
            verifier_version=self.version,
            duration_s=time.monotonic() - started,
        )
