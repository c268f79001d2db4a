"""How different the policy's solved answers are, the guard that acts when they stop being so, and picking the most different ones.

Two answers are the same where their keys are: the environment's `answer_keys` where it has them, else the text without its layout.
How alike two texts are is the Jaccard similarity of their `SHINGLE`-grams of words and symbols.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from flywheel.config import LearningConfig
from flywheel.router import attack_of
from flywheel.tasks.similar import jaccard, ngram_hashes
from flywheel.types import Experience, Group, Task

SHINGLE = 3
LEAST_ANSWERS = 8  # fewer solved answers say nothing of the policy
MAX_COMPARED = 64
MAX_KNOWN = 4096  # keys that are asked again when the step's figures are made

AnswerKey = Callable[[Task, str], str]


def plain_key(task: Task, answer: str) -> str:
    """Return an answer without its layout."""
    return " ".join(answer.split())


class AnswerKeys:
    """The keys of answers, by environment; each is asked for once.

    Args:
        environments: The environments' classes by name; ``answer_keys(answers)`` is an optional member.
    """

    def __init__(self, environments: Mapping[str, Any]) -> None:
        self._read = {name: cls.answer_keys for name, cls in environments.items() if hasattr(cls, "answer_keys")}
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __call__(self, task: Task, answer: str) -> str:
        """Return an answer's key; one that the environment can't read has its text."""
        asked = (task.env, answer)
        if (known := self._known.get(asked)) is not None:
            return known
        key = plain_key(task, answer)
        if task.env in self._read:
            with contextlib.suppress(Exception):  # a plug-in's reading of hostile text
                key = self._read[task.env]([answer])[0] or key
        self._known[asked] = key
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return key


def solved_by_key(group: Group, key: AnswerKey) -> dict[str, Experience]:
    """Return the first honest solved attempt for every different answer of a group."""
    found: dict[str, Experience] = {}
    for experience in group.experiences:
        answer, verdict = experience.trajectory.answer, experience.verdict
        if verdict.outcome == "solved" and attack_of(verdict) is None and answer is not None:
            found.setdefault(key(group.task, answer), experience)
    return found


def most_diverse(attempts: Sequence[Experience], count: int) -> list[Experience]:
    """Return `count` attempts, each the one least like those taken before it; the first is the first."""
    left = [(e, ngram_hashes(e.trajectory.answer or "", SHINGLE)) for e in attempts]
    taken = left[:1]
    left = left[1:]
    while left and len(taken) < count:
        at = min(range(len(left)), key=lambda at: max(jaccard(left[at][1], known) for _, known in taken))
        taken.append(left.pop(at))
    return [experience for experience, _ in taken]


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """Of a step's solved answers; None where there are too few to say.

    Attributes:
        distinct: Distinct answers over solved ones, in groups with at least two of them.
        per_group: Mean number of distinct answers of those groups.
        similarity: Mean similarity of solved answers to different tasks, by environment.
        entropy: The policy's, in nats a token, as the trainer last measured it.
    """

    distinct: float | None
    per_group: float | None
    similarity: float | None
    entropy: float | None = None

    def fallen(self, config: LearningConfig) -> list[str]:
        """Return what fell under the recipe's thresholds, in words."""
        said = []
        if self.distinct is not None and self.distinct < config.min_distinct:
            said.append(f"distinct solved answers {self.distinct:.2f} < learning.min_distinct = {config.min_distinct:g}")
        if self.similarity is not None and self.similarity > config.max_similarity:
            said.append(f"similarity of solved answers {self.similarity:.2f} > learning.max_similarity = {config.max_similarity:g}")
        if self.entropy is not None and self.entropy < config.min_entropy:
            said.append(f"entropy {self.entropy:.3f} < learning.min_entropy = {config.min_entropy:g}")
        return said

    def figures(self) -> dict[str, float]:
        """Return the figures ``diversity/…`` (flywheel/monitor/figures.py)."""
        named = {"distinct": self.distinct, "per_group": self.per_group, "similarity": self.similarity}
        return {f"diversity/{name}": value for name, value in named.items() if value is not None}


def diversity_of(groups: Sequence[Group], key: AnswerKey, *, entropy: float | None = None) -> Diversity:
    """Return the diversity of a step's groups."""
    num_solved: list[int] = []
    num_distinct: list[int] = []
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for group in groups:
        distinct = solved_by_key(group, key)
        if distinct:
            texts[group.task.env].append(next(iter(distinct.values())).trajectory.answer or "")
        solved = sum(e.verdict.outcome == "solved" and e.trajectory.answer is not None for e in group.experiences)
        if solved > 1:
            num_solved.append(solved)
            num_distinct.append(len(distinct))
    enough = sum(num_solved) >= LEAST_ANSWERS
    return Diversity(
        distinct=sum(num_distinct) / sum(num_solved) if enough else None,
        per_group=fmean(num_distinct) if enough else None,
        similarity=_self_similarity(texts.values()),
        entropy=entropy,
    )


def _self_similarity(texts: Iterable[list[str]]) -> float | None:
    """Return the mean similarity of all pairs of texts of one environment; None for fewer than `LEAST_ANSWERS` texts."""
    kept = [[ngram_hashes(text, SHINGLE) for text in of_env[:MAX_COMPARED]] for of_env in texts]
    if sum(len(of_env) for of_env in kept) < LEAST_ANSWERS:
        return None
    pairs = [jaccard(a, b) for of_env in kept for a, b in itertools.combinations(of_env, 2)]
    return fmean(pairs) if pairs else None
