"""Functions from examples alone: no word says what they do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.arithmetic import Arithmetic
from flywheel.envs.code.drafts import Args, Draft, DraftFamily, distinct, equation
from flywheel.envs.code.lists import Lists
from flywheel.envs.code.mutations import STEP_OPERATORS, changed_steps
from flywheel.envs.code.steps import Placed, StepFamily
from flywheel.envs.code.strings import Strings
from flywheel.types import Knobs, Task, Verdict, derive_seed

BASES: tuple[StepFamily, ...] = (Lists(), Strings(), Arithmetic())
MOST_EXAMPLES = 9


def drawn_steps(base: StepFamily, params: Knobs, rng: random.Random) -> tuple[tuple[str, ...], tuple[Placed, ...]]:
    """Return the argument names and the steps of a function of a step family, as a family with the knobs of this one draws it."""
    own = {
        "num_ops": params["num_ops"],
        "num_kinds": min(int(params["num_kinds"]), len(base.steps)),
        "max_constant": params["max_constant"],
        "num_args": rng.randint(1, 2),
    }
    return base.arguments(own), base.draw_steps(own, rng)


@cache
def step_inputs(base: StepFamily, num_arguments: int) -> tuple[Args, ...]:
    """Return a step family's fixed inputs, no two of them equal."""
    return distinct(base.battery(num_arguments), without=base.edge_inputs(num_arguments))


def step_draft(base: StepFamily, names: tuple[str, ...], placed: tuple[Placed, ...]) -> Draft:
    """Return the draft of a step family's function."""
    changes = base.near_misses(placed, 1 if len(names) > 1 else 0)
    without, others = ([base.source_of([*placed[: one.at], *one.rest], names) for one in of] for of in changes)
    return Draft(
        domain=f"{base.family}/{len(names)}",
        source=base.source_of(placed, names),
        inputs=step_inputs(base, len(names)),
        edges=base.edge_inputs(len(names)),
        near_misses=others,
        different=without,
        extra={"steps": [[p.step.name, p.constant] for p in placed], "phrases": [p.phrase for p in placed]},
    )


def told_by_examples(header: str, shown: Sequence[tuple[Args, Any]]) -> str:
    """Return the prompt that shows calls and what they give, and says no more."""
    return "\n".join([f"Write {header}.", *(equation(args, value, header.partition("(")[0]) for args, value in shown)])


class MutableDraftFamily(DraftFamily):
    """A family whose drafts are functions of step families: what changes the steps makes variants of its tasks."""

    operators = STEP_OPERATORS

    def base_of(self, task: Task) -> tuple[StepFamily, tuple[str, ...]]:
        """Return the step family that a task's function is of, and the names of its arguments."""
        names = tuple(str(task.payload["reference"]).partition("(")[2].partition(")")[0].split(", "))
        return next((base for base in BASES if (base.variable,) == names), BASES[-1]), names

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return a variant of a task of this family.

        Raises:
            ValueError: the operator does not fit, or its variant is not sound.
        """
        base, names = self.base_of(task)
        num_kinds = min(int(task.params["num_kinds"]), len(base.steps))
        rng = random.Random(derive_seed("variant", operator, task.id, seed))
        own = {**task.params, "num_kinds": num_kinds, "num_args": len(names)}
        placed = changed_steps(base, task, operator, self.knobs["num_ops"], own, rng)
        params = {**task.params, "num_ops": len(placed)}
        child = self.from_draft(step_draft(base, names, placed), params, seed, rng, task)
        if child is None:
            raise ValueError(f"{operator} made an unsound variant of {task.payload['steps']!r}")
        return child.derived(task, f"mutate:{operator}")


class FromExamples(MutableDraftFamily):
    """``f`` of a list, a string or integers, shown by what it gives. The examples tell it from near misses."""

    family = "examples"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_ops": Knob(low=1, high=4, default=(3, 4), help="Steps in a row."),
        "num_kinds": Knob(low=4, high=18, default=(12, 18), help="Kinds of step to draw from."),
        "max_constant": Knob(low=2, high=20, default=(9, 16), help="Largest constant in a step."),
        "num_left_out": Knob(low=0, high=6, default=(1, 4), help=f"Examples left out of {MOST_EXAMPLES}."),
    }

    def num_shown(self, params: Knobs) -> int:
        """Return how many calls the prompt shows."""
        return MOST_EXAMPLES - int(params["num_left_out"])

    def draft(self, params: Knobs, rng: random.Random) -> Draft:
        """Return a draft of one of the step families."""
        base = rng.choice(BASES)
        return step_draft(base, *drawn_steps(base, params, rng))

    def describe(self, draft: Draft, shown: Sequence[tuple[Args, Any]]) -> str:
        """Return the examples."""
        return told_by_examples(draft.source[len("def ") : draft.source.index(":")], shown)
