"""Functions over a string."""

from __future__ import annotations

import random
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.mutations import MutableStepFamily
from flywheel.envs.code.steps import Step, number

LETTERS = "abcdefghijklmnopqrst"


def letter(rng: random.Random, top: int) -> str:
    """Return one of the first `top` letters."""
    return rng.choice(LETTERS[:top])


class Strings(MutableStepFamily):
    """``f(s)``: cut, order and change the characters of a string."""

    family = "strings"
    variable = "s"
    steps = (
        Step(name="reverse", phrase="reverse", line="s = s[::-1]"),
        Step(name="append", phrase="append {k}", line="s = s + '{k}'", draw=letter),
        Step(name="remove", phrase="remove {k}", line="s = s.replace('{k}', '')", draw=letter),
        Step(name="drop_first", phrase="drop first {k}", line="s = s[{k}:]", draw=number(1, 3)),
        Step(name="upper", phrase="upper case", line="s = s.upper()"),
        Step(name="repeat", phrase="repeat {k}", line="s = s * {k}", draw=number(2, 4)),
        Step(name="prepend", phrase="prepend {k}", line="s = '{k}' + s", draw=letter),
        Step(name="take_first", phrase="take first {k}", line="s = s[:{k}]", draw=number(1, 5)),
        Step(name="sort", phrase="sort", line="s = ''.join(sorted(s))"),
        Step(name="swap_case", phrase="swap case", line="s = s.swapcase()"),
        Step(name="drop_last", phrase="drop last {k}", line="s = s[:-{k}]", draw=number(1, 3)),
        Step(name="join", phrase="join with {k}", line="s = '{k}'.join(s)", draw=letter),
        Step(name="keep_up_to", phrase="keep up to {k}", line="s = ''.join(c for c in s if c <= '{k}')", draw=letter),
        Step(name="double", phrase="double letters", line="s = ''.join(c * 2 for c in s)"),
        Step(name="every", phrase="take every {k}", line="s = s[::{k}]", draw=number(2, 4)),
        Step(name="keep_vowels", phrase="keep vowels", line="s = ''.join(c for c in s if c in 'aeiou')"),
        Step(name="unique", phrase="unique", line="s = ''.join(dict.fromkeys(s))"),
    )
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_ops": Knob(low=1, high=6, default=(2, 3), help="Steps in a row."),
        "num_kinds": Knob(low=4, high=17, default=(10, 13), help="Kinds of step to draw from."),
        "max_constant": Knob(low=2, high=20, default=(6, 9), help="Letters and numbers to draw constants from."),
        "example_size": Knob(low=1, high=6, default=(3, 4), help="Letters in the example."),
    }

    def draw_input(self, rng: random.Random, size: int) -> tuple[Any, ...]:
        """Return letters, of which some are upper case and some occur twice."""
        return ("".join(c.upper() if rng.random() < 0.15 else c for c in rng.choices(LETTERS[:12], k=size)),)

    def edge_inputs(self, num_arguments: int) -> tuple[tuple[Any, ...], ...]:
        """Return the empty string and one of repeated letters."""
        return (("",), ("aabBCca",))
