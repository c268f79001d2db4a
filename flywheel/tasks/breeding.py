"""What comes back: tasks that all attempts failed, nearly all failed or all solved become the parents of new ones.

A failed parent gets easier or different children, a solved one harder ones. Which operator makes them is chosen by a discounted
Thompson-sampling bandit (arXiv:1707.09727) for each family; an operator is rewarded when its child's group has both solved and
unsolved attempts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flywheel.contracts import Operator
from flywheel.errors import ConfigError, FlywheelError, described
from flywheel.tasks.family import Family
from flywheel.tasks.mutation import PREFIX, mutated, operators_of
from flywheel.tasks.outcomes import Outcome
from flywheel.types import Task, derive_seed, to_json

MAX_PARENTS = 64
NEAR_MISS = 0.25  # a solve rate up to this, above 0, is a near miss
_MAX_TRIES = 8
_FITS = {"failed": ("easier", "same"), "near_miss": ("same", "easier"), "solved": ("harder",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parent:
    outcome: Outcome
    kind: str


class Breeder:
    """See the module.

    Args:
        families: The run's families.
        share: Share of training tasks that are children.
        discount: What a step's rewards are worth one step later.
        seed: The run's.
    """

    def __init__(self, families: Sequence[Family], *, share: float, discount: float, seed: int) -> None:
        self._families = {family.name: family for family in families}
        self._share = share
        self._discount = discount
        self._seed = seed
        self._operators: dict[str, dict[str, Operator]] = {f.name: operators_of(f.generator) for f in families}
        self._counts = {name: {op: [1.0, 1.0] for op in ops} for name, ops in self._operators.items()}
        self._parents: list[_Parent] = []

    def child(self, index: int) -> tuple[Family, Task] | None:
        """Return training task number `index` where it is a child; None where it is not, or no operator fits the parents tried."""
        if not self._share or not self._parents:
            return None
        rng = np.random.default_rng(derive_seed(self._seed, "breed", index))
        if rng.random() >= self._share:
            return None
        for attempt in range(_MAX_TRIES):
            parent = self._parents[int(rng.integers(len(self._parents)))]
            task = parent.outcome.task
            family = self._families[f"{task.env}/{task.family}"]
            fitting = [op for op, what in self._operators[family.name].items() if what.direction in _FITS[parent.kind]]
            if not fitting:
                continue
            counts = self._counts[family.name]
            worth = [rng.beta(counts[op][0], counts[op][1]) for op in fitting]
            operator = fitting[int(np.argmax(worth))]
            seed = derive_seed(self._seed, "child", index, attempt)
            try:
                failure, pinned = parent.outcome.failure, family.pinned
                return family, mutated(family.generator, task, failure, operator=operator, seed=seed, pinned=pinned)
            except ValueError:  # it does not fit this task
                continue
            except FlywheelError:
                raise
            except Exception as error:  # plug-in code
                raise ConfigError(f"{family.name}: {operator} raised {described(error)}; mend the environment") from error
        return None

    def update(self, outcomes: Sequence[Outcome]) -> None:
        """Take in a step's outcomes, in the order of task ids: rewards of operators, and new parents."""
        if not self._share:
            return
        for counts in self._counts.values():
            for pair in counts.values():
                pair[:] = [1 + self._discount * (count - 1) for count in pair]
        for outcome in outcomes:
            of_family = self._counts.get(f"{outcome.task.env}/{outcome.task.family}")
            if of_family is None:  # a record that is of no family by name has no operators
                continue
            pair_of = of_family.get(outcome.task.operator.removeprefix(PREFIX)) if outcome.task.operator.startswith(PREFIX) else None
            if pair_of is not None:
                pair_of[0 if outcome.is_mixed else 1] += 1
            rate = outcome.num_solved / outcome.num_judged
            kind = "failed" if rate == 0 else "solved" if rate == 1 else "near_miss" if rate <= NEAR_MISS else None
            if kind is not None:
                self._parents.append(_Parent(outcome=outcome, kind=kind))
        del self._parents[:-MAX_PARENTS]

    def chances(self, family: str) -> dict[str, float]:
        """Return the believed chance that an operator's child gives a mixed group."""
        return {op: pair[0] / sum(pair) for op, pair in self._counts[family].items()}

    def state(self) -> dict[str, Any]:
        """Return the state as plain data."""
        parents = [{"outcome": json.loads(to_json(p.outcome)), "kind": p.kind} for p in self._parents]
        counts = {name: {op: list(pair) for op, pair in of.items()} for name, of in self._counts.items()}
        return {"counts": counts, "parents": parents}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; families and operators that it does not know keep what they have, parents of others are let go."""
        for name, counts in state["counts"].items():
            for op, pair in counts.items():
                if op in self._counts.get(name, {}):
                    self._counts[name][op] = list(pair)
        parents = [_Parent(outcome=Outcome.from_json(p["outcome"]), kind=p["kind"]) for p in state["parents"]]
        self._parents = [p for p in parents if f"{p.outcome.task.env}/{p.outcome.task.family}" in self._families]
