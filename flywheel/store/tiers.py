"""Tiers: how much evidence there is that an attempt is worth learning from, and sampling that heeds it.

L0 raw rollout, or an answer that the same task already has; L1 parsed and new; L2 judged by a verifier; L3 judged twice, or
relabelled with a proof; L4 a reference or checked by a person. A tier only rises (`Journal.raise_tiers`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flywheel.types import Experience, Tier, content_id

if TYPE_CHECKING:
    from flywheel.store.reader import Reader

# Shares of the supervised part; L0 and L1 never teach by imitation.
TIER_WEIGHTS: Mapping[Tier, float] = {"L2": 1.0, "L3": 2.0, "L4": 4.0}


def content_of(experience: Experience) -> str:
    """Return what two attempts share that say the same to the same task: a hash of the task and the answer (or else the tokens).

    A repair ends with an answer that another attempt gave, and teaches the way to it: of it the turns' texts are compared.
    """
    trajectory = experience.trajectory
    said: object = trajectory.answer if trajectory.answer is not None else [turn.completion_ids for turn in trajectory.turns]
    if experience.origin == "repair":
        said = [turn.text for turn in trajectory.turns]
    # An attempt that was taken from another task's sampled tokens is the same text, and another experience.
    return content_id("content", experience.task.id, said)


def tier_of(experience: Experience, *, is_new: bool) -> Tier:
    """Return the tier that an attempt has when it is journalled.

    Args:
        experience: The attempt.
        is_new: Whether no earlier attempt has its content.
    """
    if experience.origin == "demonstration":
        return "L4"
    if not is_new or experience.trajectory.answer is None or experience.verdict.outcome == "infra_error":
        return "L0"
    if experience.verdict.outcome == "truncated":
        return "L1"
    return "L3" if experience.origin in ("hindsight", "repair") else "L2"


def sample_supervised(
    reader: Reader,
    count: int,
    *,
    seed: int,
    max_uses: int = 1,
    weights: Mapping[Tier, float] = TIER_WEIGHTS,
    env: str | None = None,
) -> list[str]:
    """Return ids of solved training attempts to imitate, better evidence first in chance: weighted sampling without replacement.

    Args:
        reader: The store.
        count: How many at most.
        seed: Same store and seed, same sample.
        max_uses: An attempt that this many cross-entropy rows were made of already is left out.
        weights: Relative chance of an attempt by its tier; a tier that is absent is left out.
        env: Only this environment's.
    """
    rng = random.Random(seed)
    keyed = [
        (sampling_key(rng.random(), weights[found.tier]), found.id)
        for found in reader.solved(env=env)
        if weights.get(found.tier, 0) > 0 and found.num_uses < max_uses
    ]
    return [experience_id for _, experience_id in sorted(keyed, reverse=True)[:count]]


def sampling_key(uniform: float, weight: float) -> float:
    """Return the key by which the largest of many are a weighted sample without replacement (Efraimidis and Spirakis, 2006)."""
    key: float = uniform ** (1 / weight)
    return key
