"""Variants of a molecule task: one constraint dropped (the one that failed where that is known), one added, or other words."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flywheel.contracts import Operator
from flywheel.envs.chemistry.family import ChemistryFamily
from flywheel.types import Task, Verdict, derive_seed
from flywheel.verifiers.chemistry_judge import compile_task, judge

OPERATORS: Mapping[str, Operator] = {
    "drop_constraint": Operator(direction="easier", help="one constraint fewer, the failed one first"),
    "reword": Operator(direction="same", help="the same molecule asked for in other words, its constraints in another order"),
    "add_constraint": Operator(direction="harder", help="one more constraint that the reference meets"),
}
AND = " and "
ASKING, REWORDED = "Give the SMILES of ", "Answer with the SMILES of "


class Wish(NamedTuple):
    """What a prompt says of a constraint, and the constraint."""

    words: str
    constraint: dict[str, Any]


class WishListFamily(ChemistryFamily):
    """A family whose prompt lists wishes, one for each constraint from number `first_wish` on.

    Its prompt is `before`, the wishes, `after`; a family whose wishes are joined in another way gives `joined` and `split`.
    """

    first_wish: int
    operators = OPERATORS

    def more_wishes(self, params: Mapping[str, int], reference: str, rng: random.Random) -> Sequence[Wish]:
        """Return wishes that the reference meets, those that it was asked for among them."""
        raise NotImplementedError

    def split(self, prompt: str) -> tuple[str, list[str], str]:
        """Return what a prompt says before its wishes, the wishes, and what it says after them."""
        before, _, rest = prompt.removesuffix(".").partition(" with ")
        return f"{before} with ", rest.split(AND), "."

    def joined(self, wishes: Sequence[str]) -> str:
        """Return wishes as a prompt lists them."""
        return AND.join(wishes)

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return a variant of a task of this family.

        Raises:
            ValueError: the operator does not fit (one wish only, nothing more to ask for), or a trivial molecule meets what is left.
        """
        if operator not in OPERATORS:
            raise ValueError(f"{self.family}: no operator {operator!r}; known: {', '.join(OPERATORS)}")
        before, words, after = self.split(task.prompt)
        constraints = list(task.payload["constraints"])
        end = self.first_wish + len(words)
        wishes = [Wish(said, spec) for said, spec in zip(words, constraints[self.first_wish : end], strict=True)]
        rng = random.Random(derive_seed(operator, task.id, seed))
        if operator == "drop_constraint":
            del wishes[self._dropped(wishes, failure, rng)]
        elif operator == "add_constraint":
            params = {name: int(value) for name, value in task.params.items()}
            asked = [wish.constraint for wish in wishes]
            names = [_subject(spec) for spec in asked]
            more = [w for w in self.more_wishes(params, self.reference(task), rng) if _subject(w.constraint) not in names]
            if not more:
                raise ValueError(f"{self.family}: there is nothing more to ask for in task {task.id}")
            wishes.append(rng.choice(more))
        else:
            wishes = rng.sample(wishes, len(wishes))
            before = before.replace(ASKING, REWORDED) if ASKING in before else before.replace(REWORDED, ASKING)
        made = Task.create(
            env=task.env,
            family=task.family,
            prompt=f"{before}{self.joined([wish.words for wish in wishes])}{after}",
            payload={
                **task.payload,
                "constraints": [*constraints[: self.first_wish], *(wish.constraint for wish in wishes), *constraints[end:]],
            },
            params=task.params,
            seed=task.seed,
        )
        if made.prompt == task.prompt:
            raise ValueError(f"{self.family}: there is nothing to say otherwise in task {task.id}")
        child = made.derived(task, f"mutate:{operator}")
        self.validate(child)
        return child

    def reference(self, task: Task) -> str:
        """Return the SMILES that the task, or the one that it descends from, was made round.

        Raises:
            ValueError: see `ChemistryFamily`.
        """
        if not task.operator.startswith("mutate:"):
            return super().reference(task)
        made = self._made(tuple(sorted((name, int(value)) for name, value in task.params.items())), task.seed)
        if not all(finding.passed for finding in judge(compile_task(task.payload), made.reference)):
            raise ValueError(f"task {task.id}: the molecule of its params and seed does not meet its constraints")
        return made.reference

    def _dropped(self, wishes: Sequence[Wish], failure: Verdict | None, rng: random.Random) -> int:
        """Return the place of the wish to drop: one that failed, where that is known."""
        if len(wishes) < 2:
            raise ValueError(f"{self.family}: there is one wish only")
        failed = [] if failure is None else [at for at in range(len(wishes)) if not self._passed(failure, self.first_wish + at)]
        return rng.choice(failed or range(len(wishes)))

    @staticmethod
    def _passed(failure: Verdict, constraint: int) -> bool:
        """Whether a constraint passed; a verdict has a check for the rules of every answer, then one a constraint."""
        checks = failure.checks[1:]
        return constraint >= len(checks) or checks[constraint].passed


def _subject(spec: Mapping[str, Any]) -> tuple[str, str]:
    return spec["kind"], spec["name"]
