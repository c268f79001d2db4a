"""The pool: lessons that wait to be imitated, with a bound on their uses, their age and their number.

Its state is a function of the journal: after step k it is the fold of each step's new lessons and of the rows that trained in it
(`flywheel.hindsight.history`). A draw is a function of that state, the run's seed and the step.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flywheel.config import LearningConfig
from flywheel.hindsight.lesson import Lesson
from flywheel.store.tiers import TIER_WEIGHTS, sampling_key
from flywheel.types import Row, Tier, derive_seed

Source = Literal["hindsight", "repair", "distill", "anchor"]
SOURCES: tuple[Source, ...] = ("hindsight", "repair", "distill", "anchor")
SOURCE_OF: Mapping[str, Source] = {"hindsight": "hindsight", "repair": "repair", "on_policy": "distill", "demonstration": "anchor"}
LEAST_CHANCE = 0.05


def source_of(lesson: Lesson) -> Source:
    """Return which share a lesson belongs to."""
    return SOURCE_OF[lesson.experience.origin]


def num_tokens(row: Row) -> int:
    """Return how many tokens of a row are trained."""
    return sum(row.loss_mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Most tokens of each source, as shares of the tokens that the step sampled, and the anchors' part of them all together."""

    of: Mapping[Source, float]
    anchor_floor: float

    @staticmethod
    def by(config: LearningConfig, *, collapsing: bool = False) -> Shares:
        """Return a recipe's shares; where the policy is collapsing, what would sharpen it further is halved and the anchors doubled."""
        factor = 0.5 if collapsing else 1.0
        shares: dict[Source, float] = {
            "hindsight": factor * config.hindsight_share,
            "repair": config.repair_share,
            "distill": factor * config.distill_share,
        }
        return Shares(of=shares, anchor_floor=min(1.0, config.anchor_floor / factor))

    def budgets(self, num_sampled: int) -> dict[Source, int]:
        """Return the token budget of each source: anchors have their part of all, and each other source the rest of its own share."""
        budgets = {source: int(share * (1 - self.anchor_floor) * num_sampled) for source, share in self.of.items()}
        return {**budgets, "anchor": math.ceil(self.anchor_floor * sum(self.of.values()) * num_sampled)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A lesson as it waits, and as the journal keeps it; its attempt is a record of its own.

    Attributes:
        row: What trains.
        source: The share that it belongs to.
        weight: Its relative chance to be drawn.
        maker: See `Lesson`, as the rest.
    """

    row: Row
    source: Source
    weight: float
    maker: str = ""
    parent_ids: tuple[str, ...] = ()
    predicted: float | None = None

    @staticmethod
    def of(lesson: Lesson, tier: Tier) -> Entry:
        """Return a lesson as an entry: better evidence has better chances, and what the policy does anyway the least."""
        novelty = 1.0 if lesson.predicted is None else max(LEAST_CHANCE, 1 - lesson.predicted)
        return Entry(
            row=lesson.row,
            source=source_of(lesson),
            weight=TIER_WEIGHTS.get(tier, 0.0) * novelty,
            maker=lesson.maker,
            parent_ids=lesson.parent_ids,
            predicted=lesson.predicted,
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Entry:
        """Return the entry that the journal kept."""
        return Entry(**{**data, "row": Row.from_json(data["row"]), "parent_ids": tuple(data["parent_ids"])})


@dataclass(frozen=True, slots=True)
class _Waiting:
    entry: Entry
    step: int
    uses: int = 0


class Pool:
    """See the module.

    Args:
        config: ``[learning]``.
        seed: The run's.
    """

    def __init__(self, config: LearningConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, step: int, entries: Iterable[Entry]) -> None:
        """Let the new lessons of a step wait."""
        for entry in entries:
            self._waiting.setdefault(entry.row.experience_id, _Waiting(entry, step))

    def draw(self, step: int, budgets: Mapping[Source, int], fresh: Iterable[Entry] = ()) -> list[Entry]:
        """Return the lessons that a step trains on, source by source within the budgets.

        Args:
            step: Chooses among them.
            budgets: Trained tokens of each source, at most.
            fresh: The step's own new lessons, which don't wait yet.
        """
        left = dict(budgets)
        drawn = []
        candidates = [*self._waiting.values(), *(_Waiting(entry, step) for entry in fresh)]
        for found in sorted(candidates, key=lambda found: self._priority(found.entry, step), reverse=True):
            source, size = found.entry.source, num_tokens(found.entry.row)
            if size <= left.get(source, 0) and step - found.step < self._config.max_age:
                left[source] -= size
                drawn.append(found.entry)
        return sorted(drawn, key=lambda entry: SOURCES.index(entry.source))

    def settle(self, step: int, trained: Iterable[str]) -> None:
        """Count the uses of a step's batch, and drop what has no use left, is too old or is beyond the pool's size."""
        for experience_id in trained:
            if (found := self._waiting.get(experience_id)) is not None:
                self._waiting[experience_id] = dataclasses.replace(found, uses=found.uses + 1)
        config = self._config
        kept = [(i, w) for i, w in self._waiting.items() if w.uses < config.max_uses and step - w.step < config.max_age]
        self._waiting = dict(kept[-config.pool_size :])

    def figures(self) -> dict[str, float]:
        """Return how many lessons of each source wait (flywheel/monitor/figures.py)."""
        counts = Counter(found.entry.source for found in self._waiting.values())
        return {f"learning/waiting/{source}": float(counts[source]) for source in SOURCES if source != "anchor"}

    def state(self) -> list[Any]:
        """Return the state as plain data, without the lessons themselves, which the journal has."""
        return [[experience_id, found.step, found.uses] for experience_id, found in self._waiting.items()]

    def restore(self, state: Iterable[Any], entry: Callable[[str], Entry]) -> None:
        """Take over a state; `entry` returns a lesson that was journalled."""
        self._waiting = {experience_id: _Waiting(entry(experience_id), step, uses) for experience_id, step, uses in state}

    def _priority(self, entry: Entry, step: int) -> tuple[float, str]:
        uniform = (derive_seed(self._seed, "lesson", step, entry.row.experience_id) + 1) / 2**31
        return sampling_key(uniform, entry.weight), entry.row.experience_id
