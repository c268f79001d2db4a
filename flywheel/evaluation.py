"""Held-out evaluation: pass@1 and pass@k by environment and family, with bootstrap intervals over tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flywheel.config import EvaluationConfig
from flywheel.errors import InfraError
from flywheel.rollout.groups import Collector
from flywheel.router import counted
from flywheel.statistics import Estimate, TaskScore, estimate_pass_at
from flywheel.tasks.source import TaskSource
from flywheel.types import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an evaluation found; `policy_version` and `step` say of what."""

    step: int
    policy_version: str
    scores: tuple[TaskScore, ...]
    num_masked: int

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `flywheel.types.to_json` wrote."""
        return Evaluation(**{**data, "scores": tuple(TaskScore(**score) for score in data["scores"])})

    def estimates(self, k: int = 1, confidence: float = 0.95) -> dict[str, Estimate]:
        """Return pass@k under ``ENV`` and ``ENV/FAMILY``."""
        return estimate_pass_at(self.scores, k, confidence=confidence)


async def evaluate(
    collector: Collector, source: TaskSource, config: EvaluationConfig, *, step: int, name: str
) -> tuple[Evaluation, list[Group]]:
    """Attempt every environment's held-out tasks and return the scores and the groups.

    Raises:
        InfraError: more than a tenth of the attempts broke; a number over the rest would be misleading.
    """
    envs = sorted({family.env for family in source.families if family.share > 0})
    tasks = [task for env in envs for task in source.heldout(env, config.tasks_per_environment)]
    sampling = dataclasses.replace(collector.sampling, temperature=config.temperature)
    groups = await dataclasses.replace(collector, sampling=sampling).collect(tasks, config.samples_per_task, name=name)
    attempts = [e for group in groups for e in group.experiences]
    num_masked = sum(e.verdict.outcome == "infra_error" for e in attempts)
    if num_masked * 10 > len(attempts):
        evidence = next(e.verdict.evidence for e in attempts if e.verdict.outcome == "infra_error")
        raise InfraError(f"evaluation: {num_masked} of {len(attempts)} attempts broke; the first: {evidence}")
    scores = tuple(
        TaskScore(
            task_id=group.task.id,
            env=group.task.env,
            family=group.task.family,
            num_samples=len(counted(group)),
            num_solved=sum(e.verdict.outcome == "solved" for e in group.experiences),
        )
        for group in groups
        if counted(group)
    )
    versions = {turn.policy_version for e in attempts for turn in e.trajectory.turns}
    return Evaluation(step=step, policy_version=max(versions, default=""), scores=scores, num_masked=num_masked), groups
