"""Functions of one or two integers."""

from __future__ import annotations

import random
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.mutations import MutableStepFamily
from flywheel.envs.code.steps import Placed, Step, number
from flywheel.types import Knobs

OPENINGS = ("a + b", "a * b", "a - b", "max(a, b)", "min(a, b)", "a + 2 * b", "a * a + b")


class Arithmetic(MutableStepFamily):
    """``f(n)`` or ``f(a, b)``: arithmetic and a little number theory, step by step."""

    family = "arithmetic"
    variable = "n"
    steps = (
        Step(name="add", phrase="add {k}", line="n = n + {k}", draw=number()),
        Step(name="multiply", phrase="multiply by {k}", line="n = n * {k}", draw=number(2)),
        Step(name="subtract", phrase="subtract {k}", line="n = n - {k}", draw=number()),
        Step(name="remainder", phrase="remainder by {k}", line="n = n % {k}", draw=number(2)),
        Step(name="divide", phrase="divide by {k}", line="n = n // {k}", draw=number(2)),
        Step(name="negate", phrase="negate", line="n = -n"),
        Step(name="square", phrase="square", line="n = n * n"),
        Step(name="at_least", phrase="at least {k}", line="n = max(n, {k})", draw=number()),
        Step(name="at_most", phrase="at most {k}", line="n = min(n, {k})", draw=number()),
        Step(name="absolute", phrase="absolute", line="n = abs(n)"),
        Step(name="digit_sum", phrase="digit sum", line="n = sum(int(d) for d in str(abs(n)))"),
        Step(name="xor", phrase="xor {k}", line="n = n ^ {k}", draw=number()),
        Step(name="round_up", phrase="round up to {k}", line="n = n + -n % {k}", draw=number(2)),
        Step(name="reverse_digits", phrase="reverse digits", line="n = int(str(abs(n))[::-1])"),
        Step(name="count_bits", phrase="count bits", line="n = bin(n).count('1')"),
    )
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_ops": Knob(low=1, high=6, default=(2, 3), help="Steps in a row."),
        "num_kinds": Knob(low=4, high=15, default=(9, 12), help="Kinds of step to draw from."),
        "max_constant": Knob(low=3, high=30, default=(7, 9), help="Largest constant in a step."),
        "num_args": Knob(low=1, high=2, default=(1, 2), help="Arguments of the function."),
        "example_size": Knob(low=1, high=6, default=(2, 4), help="How large the example's numbers are."),
    }

    def arguments(self, params: Knobs) -> tuple[str, ...]:
        """Return ``n``, or ``a, b``."""
        return ("n",) if params["num_args"] == 1 else ("a", "b")

    def opening(self, params: Knobs, rng: random.Random) -> tuple[Placed, ...]:
        """Return how two arguments become one number."""
        if params["num_args"] == 1:
            return ()
        return (Placed(step=Step(name="start", phrase="start with {k}", line="n = {k}"), constant=rng.choice(OPENINGS)),)

    def draw_input(self, rng: random.Random, size: int) -> tuple[Any, ...]:
        """Return two integers, more often positive than not."""
        top = 3 + size * size * 2
        return tuple(rng.randint(-(top // 3), top) for _ in range(2))

    def edge_inputs(self, num_arguments: int) -> tuple[tuple[Any, ...], ...]:
        """Return zeros, and negative numbers."""
        return ((0, 0)[:num_arguments], (-7, -2)[:num_arguments])
