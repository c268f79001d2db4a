"""Tasks made of tasks: the generators' own operators, and for every family with knobs three that turn a knob or none.

A knob that the recipe pins to one value is not turned.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

from flywheel.contracts import Mutator, Operator, TaskGenerator
from flywheel.types import Task, Verdict

PREFIX = "mutate:"
KNOB_OPERATORS: Mapping[str, Operator] = {
    "raise_knob": Operator(direction="harder", help="one knob a step harder"),
    "lower_knob": Operator(direction="easier", help="one knob a step easier"),
    "redraw": Operator(direction="same", help="the same knobs, another seed"),
}


def operators_of(generator: TaskGenerator) -> dict[str, Operator]:
    """Return every operator that a family has, by name."""
    own = dict(generator.operators) if isinstance(generator, Mutator) else {}
    return {**(KNOB_OPERATORS if generator.knobs else {}), **own}


def is_by_knobs(task: Task) -> bool:
    """Whether a task's params tell its difficulty: it was generated, or made by turning a knob."""
    return not task.operator.startswith(PREFIX) or task.operator.removeprefix(PREFIX) in KNOB_OPERATORS


def mutated(
    generator: TaskGenerator, task: Task, failure: Verdict | None, *, operator: str, seed: int, pinned: Collection[str] = ()
) -> Task:
    """Return the child that `operator` makes of a task; `pinned` knobs are not turned.

    Raises:
        ValueError: it does not fit this task.
        TypeError: what the generator made is no child of it.
    """
    if operator not in KNOB_OPERATORS:
        if not isinstance(generator, Mutator):
            raise ValueError(f"{generator.family}: no operator {operator!r}")
        child = generator.mutate(task, failure, operator=operator, seed=seed)
        if not isinstance(child, Task) or (child.env, child.parent_id, child.operator) != (task.env, task.id, PREFIX + operator):
            raise TypeError(f"it made {child!r:.200}, expected what child.derived(task, {PREFIX + operator!r}) returns")
        return child
    params = {name: int(value) for name, value in task.params.items()}
    if operator != "redraw":
        stride = 1 if operator == "raise_knob" else -1
        free = {name: knob for name, knob in sorted(generator.knobs.items()) if name in params and name not in pinned}
        fits = [name for name, knob in free.items() if knob.low <= params[name] + stride <= knob.high]
        if not fits:
            raise ValueError(f"{generator.family}: no knob of {params!r} can be turned")
        params[random.Random(seed).choice(fits)] += stride
    return generator.generate(params, seed).derived(task, PREFIX + operator)
