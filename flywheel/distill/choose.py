"""Which of the attempts at a task are kept: solved ones with different answers, the shortest first, then those least like the kept ones."""

from __future__ import annotations

import dataclasses

from flywheel.hindsight.diversity import AnswerKey, most_diverse, solved_by_key
from flywheel.types import Experience, Group


def best_and_most_diverse(group: Group, keep: int, key: AnswerKey) -> list[Experience]:
    """Return at most `keep` of a group's solved attempts; of those with one answer, the shortest stands for it."""
    shortest_first = dataclasses.replace(group, experiences=tuple(sorted(group.experiences, key=_effort)))
    return most_diverse(list(solved_by_key(shortest_first, key).values()), keep)


def _effort(experience: Experience) -> tuple[int, int]:
    return len(experience.trajectory.turns), experience.trajectory.num_completion_tokens
