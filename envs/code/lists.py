"""Functions over a list of integers."""

from __future__ import annotations

import random
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.mutations import MutableStepFamily
from flywheel.envs.code.steps import Step, number


class Lists(MutableStepFamily):
    """``f(xs)``: select, order and change the items of a list."""

    family = "lists"
    variable = "xs"
    steps = (
        Step(name="reverse", phrase="reverse", line="xs = xs[::-1]"),
        Step(name="add", phrase="add {k}", line="xs = [x + {k} for x in xs]", draw=number()),
        Step(name="multiply", phrase="multiply by {k}", line="xs = [x * {k} for x in xs]", draw=number(2)),
        Step(name="sort", phrase="sort", line="xs = sorted(xs)"),
        Step(name="keep_even", phrase="keep even", line="xs = [x for x in xs if x % 2 == 0]"),
        Step(name="keep_above", phrase="keep above {k}", line="xs = [x for x in xs if x > {k}]", draw=number()),
        Step(name="drop_first", phrase="drop first {k}", line="xs = xs[{k}:]", draw=number(1, 3)),
        Step(name="subtract", phrase="subtract {k}", line="xs = [x - {k} for x in xs]", draw=number()),
        Step(name="keep_below", phrase="keep below {k}", line="xs = [x for x in xs if x < {k}]", draw=number()),
        Step(name="negate", phrase="negate", line="xs = [-x for x in xs]"),
        Step(name="append", phrase="append {k}", line="xs = xs + [{k}]", draw=number()),
        Step(name="take_first", phrase="take first {k}", line="xs = xs[:{k}]", draw=number(1, 5)),
        Step(name="keep_odd", phrase="keep odd", line="xs = [x for x in xs if x % 2 == 1]"),
        Step(name="square", phrase="square", line="xs = [x * x for x in xs]"),
        Step(name="unique", phrase="unique", line="xs = list(dict.fromkeys(xs))"),
        Step(name="every", phrase="take every {k}", line="xs = xs[::{k}]", draw=number(2, 4)),
        Step(name="absolute", phrase="absolute", line="xs = [abs(x) for x in xs]"),
        Step(name="drop_last", phrase="drop last {k}", line="xs = xs[:-{k}]", draw=number(1, 3)),
    )
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_ops": Knob(low=1, high=6, default=(2, 3), help="Steps in a row."),
        "num_kinds": Knob(low=4, high=18, default=(10, 14), help="Kinds of step to draw from."),
        "max_constant": Knob(low=2, high=20, default=(6, 9), help="Largest constant in a step."),
        "example_size": Knob(low=1, high=6, default=(2, 3), help="Items in the example."),
    }

    def draw_input(self, rng: random.Random, size: int) -> tuple[Any, ...]:
        """Return a list that may have duplicates and negative numbers."""
        items = [rng.randint(-6, 15) for _ in range(size)]
        if size > 3 and rng.random() < 0.5:
            items[rng.randrange(size)] = items[rng.randrange(size)]
        return (items,)

    def edge_inputs(self, num_arguments: int) -> tuple[tuple[Any, ...], ...]:
        """Return the empty list and one that is all negative, with duplicates."""
        return (([],), ([-3, -3, -8],))
