"""Replay: an own earlier success trains beside a group of the same task that failed as a whole.

The success is off-policy data with its behaviour logprobs, so each token has the trainer's truncated importance weight. It does not
enter the group's baseline: its advantage is its reward minus the mean of the group's, undivided (the spread of a group that failed
alike is nothing to divide by). It is journalled as an attempt of its own (origin ``replay``) made of the first one, because an
on-policy attempt trains once; how many such there are is its use count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from flywheel.config import LearningConfig
from flywheel.router import counted, grpo_row, training_reward
from flywheel.routes import Route
from flywheel.store.journal import Journal, Relabelling
from flywheel.store.reader import READABLE
from flywheel.types import Experience, Group, Row, content_id

MAKER = "replay"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """A replayed success: the new attempt, where it is from, and what is recorded of it."""

    experience: Experience
    row: Row
    route: Route
    relabelling: Relabelling


class SuccessMemory:
    """Finds own successes in the journal.

    Args:
        journal: The run's.
        config: ``[learning]``.
    """

    def __init__(self, journal: Journal, config: LearningConfig) -> None:
        self._journal = journal
        self._config = config

    def solved_before(self, task_id: str, step: int) -> bool:
        """Whether an attempt of an earlier step solved a task."""
        asked = "SELECT 1 FROM experiences WHERE task_id = ? AND outcome = 'solved' AND origin = 'on_policy' AND step < ? LIMIT 1"
        return bool(self._journal.query(asked, (task_id, step)))

    def replayed(self, groups: Sequence[Group], step: int) -> list[Replayed]:
        """Return one success for every group of at least two counted attempts that failed as a whole, where there is one to replay."""
        if self._config.retry_size == 0 or self._config.replay_staleness == 0:
            return []
        found = []
        for group in groups:
            attempts = counted(group)
            if len(attempts) > 1 and not any(e.verdict.outcome == "solved" for e in attempts):
                success = self._success(group.task.id, step)
                if success is not None:
                    found.append(_replayed(success, group, fmean(training_reward(e.verdict) for e in attempts)))
        return found

    def _success(self, task_id: str, step: int) -> Experience | None:
        """Return the newest success with behaviour logprobs that has a use left and is not too old."""
        # Uses of other steps only: a step that is made again after a kill finds its own replay written down already.
        asked = (
            "SELECT e.id FROM experiences e WHERE e.task_id = ? AND e.outcome = 'solved' AND e.origin = 'on_policy' "
            f"AND e.step < ? AND e.step >= ? AND {READABLE} "
            "AND (SELECT count(*) FROM relabellings r JOIN experiences c ON c.id = r.child_id "
            "WHERE r.parent_id = e.id AND c.origin = 'replay' AND c.step != ?) < ? ORDER BY e.seq DESC"
        )
        oldest = step - self._config.replay_staleness
        for (experience_id,) in self._journal.query(asked, (task_id, step, oldest, step, self._config.max_uses)):
            experience = self._journal.experience(experience_id)
            turns = experience.trajectory.turns
            if turns and all(turn.behavior_logprobs is not None for turn in turns):
                return experience
        return None


def _replayed(success: Experience, group: Group, baseline: float) -> Replayed:
    identity = content_id("experience", MAKER, success.id, group.id)
    experience = dataclasses.replace(success, id=identity, group_id=identity, origin="replay")
    return Replayed(
        experience=experience,
        row=grpo_row(experience, training_reward(experience.verdict) - baseline),
        route=Route(experience_id=identity, destination="replay", reason=f"an own success joins a group that failed: {group.id}"),
        relabelling=Relabelling(parent_id=success.id, child_id=identity, relabeller=MAKER, kept=True),
    )
