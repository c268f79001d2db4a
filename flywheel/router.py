"""From groups to training rows: which attempts train, with which advantage, and why the others don't.

Group-relative advantages: ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` over the group's attempts that count, std with n - 1
(arXiv:2402.03300, eq. 3, as TRL computes it); ``scale = "none"`` leaves the division out (arXiv:2503.20783).
Groups that grew in stages (`flywheel.rollout.allocation`) take `staged_advantages`, undivided.
Deviation: what tampered with its grader or killed it counts below every honest failure.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flywheel.types import Experience, Group, Row, Verdict

TAMPER_REWARD = -0.5
_EPS = 1e-4

GroupState = Literal["mixed", "all_solved", "none_solved", "masked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where an attempt went, and why."""

    experience_id: str
    destination: Literal["grpo", "no_signal", "quarantine"]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """The rows that train and every attempt's route."""

    rows: tuple[Row, ...]
    routes: tuple[Route, ...]


def training_reward(verdict: Verdict) -> float:
    """Return the reward that advantages are computed from: the verdict's, or less for an attack on the grader."""
    attacked = verdict.outcome == "tampered" or any(c.name == "kills_grader" and not c.passed for c in verdict.checks)
    return TAMPER_REWARD if attacked else verdict.reward


def counted(group: Group) -> tuple[Experience, ...]:
    """Return the attempts that count: all but those that broke through nobody's fault."""
    return tuple(e for e in group.experiences if e.verdict.outcome != "infra_error")


def group_state(group: Group) -> GroupState:
    """Return what the group can teach: fewer than two attempts that count is ``masked``."""
    attempts = counted(group)
    if len(attempts) < 2:
        return "masked"
    num_solved = sum(e.verdict.outcome == "solved" for e in attempts)
    return "all_solved" if num_solved == len(attempts) else "mixed" if num_solved else "none_solved"


def advantages(rewards: Sequence[float], scale: Literal["group", "none"]) -> list[float]:
    """Return the group-relative advantages of at least two rewards."""
    mean = statistics.fmean(rewards)
    divisor = statistics.stdev(rewards) + _EPS if scale == "group" else 1.0
    return [(reward - mean) / divisor for reward in rewards]


def staged_advantages(rewards: Sequence[Sequence[float]]) -> list[list[float | None]]:
    """Return the advantages of attempts made in stages, one list a stage.

    The baseline of an attempt is the mean of all rewards of earlier stages and of the *other* rewards of its own: none of them
    depends on its action, and rewards of later stages, which do through the decision to go on, are left out. So with N the number of
    attempts, E[Σ_i A_i ∇log π(a_i)] = E[N] · ∇J for every rule of going on that looks at the past only. Dividing by the group's
    standard deviation would break that. None stands for an attempt with nothing to compare with.
    """
    found: list[list[float | None]] = []
    total, count = 0.0, 0
    for stage in rewards:
        total, count = total + sum(stage), count + len(stage)
        found.append([r - (total - r) / (count - 1) if count > 1 else None for r in stage])
    return found


def route(groups: Sequence[Group], *, scale: Literal["group", "none"], shuffle_seed: int | None = None, staged: bool = False) -> Routed:
    """Return the GRPO rows of `groups` and the routes of all their attempts.

    Args:
        groups: Whole groups.
        scale: See `advantages`; must be ``none`` where `staged`.
        staged: Use `staged_advantages`.
        shuffle_seed: Permute the advantages within each group (the control experiment).
    """
    rows: list[Row] = []
    routes: list[Route] = []
    for group in groups:
        attempts = counted(group)
        broken = [e for e in group.experiences if e.verdict.outcome == "infra_error"]
        routes += [Route(experience_id=e.id, destination="quarantine", reason="infra_error") for e in broken]
        rewards = [training_reward(e.verdict) for e in attempts]
        if len(attempts) < 2 or max(rewards) == min(rewards):
            reason = "too few attempts that count" if len(attempts) < 2 else "every attempt has the same reward"
            routes += [Route(experience_id=e.id, destination="no_signal", reason=reason) for e in attempts]
            continue
        values = _staged(group) if staged else advantages(rewards, scale)
        if shuffle_seed is not None:
            random.Random(f"{shuffle_seed}/{group.id}").shuffle(values)
        # An attempt whose task left no room to answer has no token to train, yet its reward counts in the mean.
        rows += [grpo_row(e, a) for e, a in zip(attempts, values, strict=True) if e.trajectory.num_completion_tokens]
        routes += [Route(experience_id=e.id, destination="grpo", reason="group with contrast") for e in attempts]
    return Routed(rows=tuple(rows), routes=tuple(routes))


def _staged(group: Group) -> list[float]:
    """Return the staged advantages of the attempts that count; 0 for one with nothing to compare with."""
    rewards: list[list[float]] = []
    left = iter(group.experiences)
    for size in group.stages:
        judged = [e.verdict for e in itertools.islice(left, size) if e.verdict.outcome != "infra_error"]
        rewards.append([training_reward(verdict) for verdict in judged])
    return [value or 0.0 for stage in staged_advantages(rewards) for value in stage]


def grpo_row(experience: Experience, advantage: float) -> Row:
    """Return an attempt as one training sequence; only what the model sampled has mask 1."""
    turns = experience.trajectory.turns
    completion: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    missing = any(turn.behavior_logprobs is None for turn in turns)
    for number, turn in enumerate(turns):
        if number:
            completion += turn.prompt_ids
            mask += [0] * len(turn.prompt_ids)
            logprobs += [0.0] * len(turn.prompt_ids)
        completion += turn.completion_ids
        mask += [1] * len(turn.completion_ids)
        logprobs += turn.behavior_logprobs or [0.0] * len(turn.completion_ids)
    return Row(
        experience_id=experience.id,
        kind="grpo",
        prompt_ids=turns[0].prompt_ids if turns else (),
        completion_ids=tuple(completion),
        loss_mask=tuple(mask),
        behavior_logprobs=None if missing else tuple(logprobs),
        advantage=advantage,
    )
