"""Variants of a step task: a step left out, put in, or exchanged, another constant, the first half alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flywheel.contracts import Operator
from flywheel.envs.code.steps import Placed, Step, StepFamily
from flywheel.types import Task, Verdict, derive_seed

OPERATORS: Mapping[str, Operator] = {
    "drop_step": Operator(direction="easier", help="one step left out"),
    "first_half": Operator(direction="easier", help="the first half of the steps alone"),
    "change_constant": Operator(direction="same", help="another constant in one step"),
    "exchange_step": Operator(direction="same", help="one step replaced by one of another kind"),
    "add_step": Operator(direction="harder", help="one more step"),
}


class MutableStepFamily(StepFamily):
    """A `StepFamily` that is a `flywheel.contracts.Mutator`."""

    operators = OPERATORS

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return a variant of a task of this family.

        Raises:
            ValueError: the operator does not fit, or its variant is not sound (a step that does nothing, say).
        """
        placed = self._placed(task)
        num_fixed = len(self.opening(task.params, random.Random(0)))
        kinds = self.steps[: int(task.params["num_kinds"])]
        rng = random.Random(derive_seed("variant", operator, task.id, seed))
        made = _MAKERS[operator](placed[num_fixed:], kinds, int(task.params["max_constant"]), rng)
        knob = self.knobs["num_ops"]
        num_ops = num_fixed + len(made)
        if not made or made == placed[num_fixed:] or not knob.low <= num_ops <= knob.high:
            raise ValueError(f"{operator} does not fit {task.payload['steps']!r}")
        child = self._try((*placed[:num_fixed], *made), {**task.params, "num_ops": num_ops}, seed, rng)
        if child is None:
            raise ValueError(f"{operator} made an unsound variant of {task.payload['steps']!r}")
        return child.derived(task, f"mutate:{operator}")

    def _placed(self, task: Task) -> list[Placed]:
        """Return the steps that a task's payload names."""
        opening = [placed.step for placed in self.opening(task.params, random.Random(0))]
        kinds = {step.name: step for step in (*self.steps, *opening)}
        return [Placed(step=kinds[name], constant=constant) for name, constant in task.payload["steps"]]


def _draw(kinds: Sequence[Step], top: int, rng: random.Random, *, but: Sequence[str] = ()) -> Placed:
    step = rng.choice([kind for kind in kinds if kind.name not in but] or list(kinds))
    return Placed(step=step, constant=step.draw(rng, top) if step.draw else None)


def _drop_step(steps: list[Placed], kinds: Sequence[Step], top: int, rng: random.Random) -> list[Placed]:
    at = rng.randrange(len(steps))
    return steps[:at] + steps[at + 1 :]


def _first_half(steps: list[Placed], kinds: Sequence[Step], top: int, rng: random.Random) -> list[Placed]:
    return steps[: len(steps) // 2]


def _change_constant(steps: list[Placed], kinds: Sequence[Step], top: int, rng: random.Random) -> list[Placed]:
    places = [at for at, placed in enumerate(steps) if placed.step.draw]
    if not places:
        return []
    at = rng.choice(places)
    draw: Callable[[random.Random, int], Any] | None = steps[at].step.draw
    constant = draw(rng, top) if draw else None
    return [*steps[:at], Placed(step=steps[at].step, constant=constant), *steps[at + 1 :]]


def _exchange_step(steps: list[Placed], kinds: Sequence[Step], top: int, rng: random.Random) -> list[Placed]:
    at = rng.randrange(len(steps))
    return [*steps[:at], _draw(kinds, top, rng, but=[steps[at].step.name]), *steps[at + 1 :]]


def _add_step(steps: list[Placed], kinds: Sequence[Step], top: int, rng: random.Random) -> list[Placed]:
    at = rng.randint(0, len(steps))
    return [*steps[:at], _draw(kinds, top, rng), *steps[at:]]


_MAKERS: Mapping[str, Callable[[list[Placed], Sequence[Step], int, random.Random], list[Placed]]] = {
    "drop_step": _drop_step,
    "first_half": _first_half,
    "change_constant": _change_constant,
    "exchange_step": _exchange_step,
    "add_step": _add_step,
}
