"""Variants of a molecule task: one constraint dropped, the one that failed where that is known."""

from __future__ import annotations

import random
from collections.abc import Mapping

from flywheel.contracts import Operator
from flywheel.envs.chemistry.family import ChemistryFamily
from flywheel.types import Task, Verdict, derive_seed

OPERATORS: Mapping[str, Operator] = {"drop_constraint": Operator(direction="easier", help="one constraint fewer, the failed one first")}
AND = " and "


class WishListFamily(ChemistryFamily):
    """A family whose prompt ends in ``with A and B.``, one wish for each constraint, from number `first_wish` on."""

    first_wish: int
    operators = OPERATORS

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return the task with one wish fewer.

        Raises:
            ValueError: it has but one wish, or what is left is met by a trivial molecule.
        """
        if operator not in OPERATORS:
            raise ValueError(f"{self.family}: no operator {operator!r}; known: {', '.join(OPERATORS)}")
        head, _, tail = task.prompt.removesuffix(".").partition(" with ")
        wishes, constraints = tail.split(AND), list(task.payload["constraints"])
        if len(wishes) < 2:
            raise ValueError(f"{self.family}: task {task.id} has one wish only")
        failed = [] if failure is None else [at for at in range(len(wishes)) if not self._passed(failure, self.first_wish + at)]
        drop = random.Random(derive_seed("drop", task.id, seed)).choice(failed or range(len(wishes)))
        del wishes[drop], constraints[self.first_wish + drop]
        made = Task.create(
            env=task.env,
            family=task.family,
            prompt=f"{head} with {AND.join(wishes)}.",
            payload={**task.payload, "constraints": constraints},
            params=task.params,
            seed=task.seed,
        )
        child = made.derived(task, f"mutate:{operator}")
        self.validate(child)
        return child

    @staticmethod
    def _passed(failure: Verdict, constraint: int) -> bool:
        """Whether a constraint passed; a verdict has a check for the rules of every answer, then one a constraint."""
        checks = failure.checks[1:]
        return constraint >= len(checks) or checks[constraint].passed
