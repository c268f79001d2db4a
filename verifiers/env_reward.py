"""Solved where the environment's own rewards add up to a threshold: for environments that bring no verifier.

It checks nothing: whoever wrote the environment is trusted, and a reward that can be talked round is talked round here too.
"""

from __future__ import annotations

import math

from flywheel.types import Check, Task, Trajectory, Verdict


class EnvRewardVerifier:
    """Judges `env_return`, the sum of the environment's rewards over the episode.

    Args:
        solved_threshold: Solved is a return of at least this.
    """

    name = "env_reward"
    version = "1"

    def __init__(self, solved_threshold: float) -> None:
        if not math.isfinite(solved_threshold):
            raise ValueError(f"solved_threshold is {solved_threshold!r}, expected a finite number")
        self.solved_threshold = float(solved_threshold)

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return ``solved`` or ``failed``; an attempt without a return is failed with check ``no_answer``."""
        got = trajectory.env_return
        if got is None:
            check = Check(name="no_answer", passed=False, detail="the episode gave no return")
        elif not math.isfinite(got):
            check = Check(name="env_return", passed=False, detail=f"the return is {got!r}, not a finite number")
        else:
            detail = f"return {got:g}, threshold {self.solved_threshold:g}"
            check = Check(name="env_return", passed=got >= self.solved_threshold, detail=detail)
        return Verdict(
            outcome="solved" if check.passed else "failed",
            reward=1.0 if check.passed else 0.0,
            checks=(check,),
            evidence=f"{check.detail} (trusts the environment's own reward; nothing was verified)",
            verifier=self.name,
            verifier_version=self.version,
        )

    def close(self) -> None:
        """There is nothing to release."""
