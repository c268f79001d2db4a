"""From groups to training rows and routes: which attempts train, with which advantage, and where each one goes (`flywheel.routes`).

Group-relative advantages: ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` over the group's attempts that count, std with n - 1
(arXiv:2402.03300, eq. 3, as TRL computes it); ``scale = "none"`` leaves the division out (arXiv:2503.20783).
Groups that grew in stages (`flywheel.rollout.allocation`) take `staged_advantages`, undivided.
Deviation: what tampered with its grader or killed it counts below every honest failure.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flywheel.config import LearningConfig
from flywheel.routes import Attack, Facts, Route, destinations
from flywheel.types import Experience, Group, Row, Task, Verdict

TAMPER_REWARD = -0.5
_EPS = 1e-4

GroupState = Literal["mixed", "all_solved", "none_solved", "masked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """The rows that train and every attempt's route."""

    rows: tuple[Row, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """What a group does not say itself.

    Attributes:
        predicted: The predicted solve rate of a task.
        solved_before: Whether an earlier attempt of the policy's own solved a task.
        barred: Why a task may not train, or None.
    """

    predicted: Callable[[Task], float | None] = lambda task: None
    solved_before: Callable[[Task], bool] = lambda task: False
    barred: Callable[[Task], str | None] = lambda task: None


def attack_of(verdict: Verdict) -> Attack | None:
    """Return what an attempt did to its grader, if anything."""
    if verdict.outcome == "tampered":
        return "tampered"
    return "kills_grader" if any(c.name == "kills_grader" and not c.passed for c in verdict.checks) else None


def training_reward(verdict: Verdict) -> float:
    """Return the reward that advantages are computed from: the verdict's, or less for an attack on the grader."""
    return TAMPER_REWARD if attack_of(verdict) is not None else verdict.reward


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


def unlikely_rewards(attempts: Sequence[Experience], beta: float) -> list[float]:
    """Return the rewards of a group's counted attempts, those of solved ones by the unlikeliness reward (arXiv:2506.02355, section 4).

    ``r_i · (1 - β · (G - rank_i) / G)``, where rank 0 is the attempt that the policy was most likely to make and G - 1 the least likely:
    what is solved as always counts less than what is solved in a rare way, and with β up to 0.5 more than everything unsolved.
    Deviations: likelihood is the sum of the behaviour logprobs; the group stays as it is where some are missing.
    """
    rewards = [training_reward(e.verdict) for e in attempts]
    logprobs = [_logprob(e) for e in attempts]
    if beta == 0 or None in logprobs:
        return rewards
    size = len(attempts)
    order = sorted(range(size), key=lambda at: (-(logprobs[at] or 0.0), at))
    rank = {at: place for place, at in enumerate(order)}
    return [
        reward * (1 - beta * (size - rank[at]) / size) if attempts[at].verdict.outcome == "solved" else reward
        for at, reward in enumerate(rewards)
    ]


def _logprob(experience: Experience) -> float | None:
    """Return how likely the policy was to make an attempt, as a logprob; None where that is not known of all of it."""
    parts = [turn.behavior_logprobs for turn in experience.trajectory.turns]
    return None if None in parts else sum(sum(part or ()) for part in parts)


def route(
    groups: Sequence[Group],
    *,
    scale: Literal["group", "none"],
    shuffle_seed: int | None = None,
    staged: bool = False,
    unlikeliness: float = 0.0,
    learning: LearningConfig | None = None,
    knowledge: Knowledge | None = None,
) -> Routed:
    """Return the GRPO rows of `groups` and the routes of all their attempts.

    Args:
        groups: Whole groups.
        scale: See `advantages`; must be ``none`` where `staged`.
        staged: Use `staged_advantages`.
        shuffle_seed: Permute the advantages within each group (the control experiment).
        unlikeliness: See `unlikely_rewards`; whether a group has contrast is asked of the rewards without it.
        learning: Which destinations there are beside GRPO; none by default.
        knowledge: What the rules ask beside the groups.
    """
    learning, knowledge = learning or LearningConfig(), knowledge or Knowledge()
    rows: list[Row] = []
    routes: list[Route] = []
    for group in groups:
        facts = _facts(group, knowledge)
        routes += [_route(e, facts[e.id], learning) for e in group.experiences]
        attempts = counted(group)
        if not any(found.has_contrast and found.barred is None for found in facts.values()):
            continue
        rewards = unlikely_rewards(attempts, unlikeliness)
        values = _staged(group, rewards) if staged else advantages(rewards, scale)
        if shuffle_seed is not None:
            random.Random(f"{shuffle_seed}/{group.id}").shuffle(values)
        # An attempt whose task left no room to answer has no token to train, yet its reward counts in the mean.
        rows += [grpo_row(e, a) for e, a in zip(attempts, values, strict=True) if e.trajectory.num_completion_tokens]
    return Routed(rows=tuple(rows), routes=tuple(routes))


def _facts(group: Group, knowledge: Knowledge) -> dict[str, Facts]:
    attempts = counted(group)
    rewards = {training_reward(e.verdict) for e in attempts}
    num_solved = sum(e.verdict.outcome == "solved" for e in attempts)
    of_group = Facts(
        outcome="infra_error",
        num_counted=len(attempts),
        has_contrast=len(attempts) > 1 and len(rewards) > 1,
        all_failed=len(attempts) > 1 and num_solved == 0,
        solved_elsewhere=num_solved > 0 or knowledge.solved_before(group.task),
        predicted=knowledge.predicted(group.task),
        barred=knowledge.barred(group.task),
    )
    return {
        e.id: dataclasses.replace(
            of_group, outcome=e.verdict.outcome, attack=attack_of(e.verdict), has_answer=e.trajectory.answer is not None
        )
        for e in group.experiences
    }


def _route(experience: Experience, facts: Facts, learning: LearningConfig) -> Route:
    found = destinations(facts, learning)
    if not found:
        reason = "too few attempts that count" if facts.num_counted < 2 else "every attempt has the same reward"
        return Route(experience_id=experience.id, destination="no_signal", reason=reason)
    (first, _), *others = found
    reason = "; ".join(reason for _, reason in found)
    return Route(experience_id=experience.id, destination=first, reason=reason, also=tuple(d for d, _ in others))


def _staged(group: Group, rewards: Sequence[float]) -> list[float]:
    """Return the staged advantages of the attempts that count; 0 for one with nothing to compare with."""
    left, judged = iter(group.experiences), iter(rewards)
    stages = [[next(judged) for e in itertools.islice(left, size) if e.verdict.outcome != "infra_error"] for size in group.stages]
    return [value or 0.0 for stage in staged_advantages(stages) for value in stage]


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


def self_imitation_row(experience: Experience) -> Row:
    """Return an attempt of the policy's own as a cross-entropy row: the ids that it sampled, as they were."""
    return dataclasses.replace(grpo_row(experience, 0.0), kind="ce", behavior_logprobs=None)
