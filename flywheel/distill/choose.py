"""Which of the attempts at a task are kept: solved ones with different answers, the shortest first, then those least like the kept ones.

Two answers are the same where their keys are: the environment's ``answer_keys(answers)`` where it has them, else the text
without its layout. How alike two answers are is the Jaccard similarity of their 3-grams of words and symbols.
"""

from __future__ import annotations

from flywheel.hindsight.diversity import AnswerKey
from flywheel.tasks.similar import ngram_hashes
from flywheel.types import Experience, Group

SHINGLE = 3


def best_and_most_diverse(group: Group, keep: int, key: AnswerKey) -> list[Experience]:
    """Return at most `keep` of a group's solved attempts; see the module."""
    by_key: dict[str, Experience] = {}
    for experience in sorted(group.experiences, key=_effort):
        answer = experience.trajectory.answer
        if experience.verdict.outcome == "solved" and answer is not None:
            by_key.setdefault(key(group.task, answer), experience)
    left = [(experience, ngram_hashes(experience.trajectory.answer or "", SHINGLE)) for experience in by_key.values()]
    kept: list[tuple[Experience, set[int]]] = []
    while left and len(kept) < keep:
        at = min(range(len(left)), key=lambda at: max((_alike(left[at][1], other) for _, other in kept), default=0.0))
        kept.append(left.pop(at))
    return [experience for experience, _ in kept]


def _effort(experience: Experience) -> tuple[int, int]:
    return len(experience.trajectory.turns), experience.trajectory.num_completion_tokens


def _alike(first: set[int], second: set[int]) -> float:
    return len(first & second) / max(1, len(first | second))
