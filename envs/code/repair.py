"""Bug repair: a function that was right before something in it changed, and calls that show it. The rest of it is to be kept."""

from __future__ import annotations

import ast
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.drafts import RAISED, Args, Draft, DraftFamily, Told, equation, results
from flywheel.envs.code.examples import BASES, drawn_steps, step_draft
from flywheel.types import Knobs, Task

MOST_CALLS = 6
MAX_INPUT_CHARS, MAX_GIVEN_CHARS = 40, 60  # each call is shown with two results
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.BitXor: ast.BitAnd,
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_NAMES = {"max": "min", "min": "max", "upper": "lower", "swapcase": "upper", "sorted": "list", "abs": "int"}


def mutant(source: str, rng: random.Random) -> str:
    """Return the source with one small thing changed, where it has one: an operator, a comparison, a constant, a name, or two lines."""
    tree = ast.parse(source)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    changes = [change for node in ast.walk(function) for change in _changes(node)]
    changes += [_swap(function, at) for at in range(len(function.body) - 2)]
    if changes:
        rng.choice(changes)()
    return ast.unparse(tree) + "\n"


def _swap(function: ast.FunctionDef, at: int) -> Callable[[], None]:
    def change() -> None:
        function.body[at : at + 2] = reversed(function.body[at : at + 2])

    return change


def _changes(node: ast.AST) -> Iterator[Callable[[], None]]:
    """Yield what may be changed in a node."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield functools.partial(setattr, node, "value", node.value + 1)
        yield functools.partial(setattr, node, "value", node.value - 1)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield functools.partial(setattr, node, "op", _OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        yield functools.partial(setattr, node, "ops", [_COMPARISONS[type(node.ops[0])]()])
    elif isinstance(node, ast.Name) and node.id in _NAMES:
        yield functools.partial(setattr, node, "id", _NAMES[node.id])
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
        yield functools.partial(setattr, node, "attr", _NAMES[node.attr])


class Repair(DraftFamily):
    """A step family's function with one to three mutations; the calls shown are ones that it gets wrong, and one that it gets right."""

    family = "repair"
    knobs = {  # noqa: RUF012 - a constant of the protocol
        "num_ops": Knob(low=1, high=6, default=(3, 4), help="Steps of the function."),
        "num_kinds": Knob(low=4, high=18, default=(12, 18), help="Kinds of step to draw from."),
        "max_constant": Knob(low=2, high=20, default=(7, 12), help="Largest constant in a step."),
        "num_bugs": Knob(low=1, high=3, default=(1, 2), help="Mutations in a row."),
        "num_left_out": Knob(low=0, high=4, default=(1, 3), help=f"Calls left out of {MOST_CALLS}."),
    }

    def num_shown(self, params: Knobs) -> int:
        """Return how many calls the prompt shows."""
        return MOST_CALLS - int(params["num_left_out"])

    def draft(self, params: Knobs, rng: random.Random) -> Draft | None:
        """Return a step family's function and a broken one."""
        base = rng.choice(BASES)
        whole = step_draft(base, *drawn_steps(base, params, rng))
        broken = ast.unparse(ast.parse(whole.source)) + "\n"
        for _ in range(int(params["num_bugs"])):
            broken = mutant(broken, rng)
        meant, got = results(whole.source, whole.inputs), results(broken, whole.inputs)
        wrong = [value for value, right in zip(got, meant, strict=True) if value != right]
        if len(wrong) < len(meant) // 4 or any(value == RAISED or len(repr(value)) > MAX_GIVEN_CHARS for value in got):
            return None  # a bug that hardly shows, or one whose results would fill the prompt
        return Draft(
            domain=whole.domain,
            source=whole.source,
            inputs=whole.inputs,
            edges=whole.edges,
            near_misses=[*whole.near_misses, broken],
            different=whole.different,
            extra={"broken": broken},
        )

    def choose_shown(self, draft: Draft, told: Told, count: int, rng: random.Random) -> list[int] | None:
        """Return inputs that the broken function gets wrong, and one that it gets right where there is one."""
        short = [at for at, args in enumerate(draft.inputs) if len(repr(args)) <= MAX_INPUT_CHARS]
        got = results(draft.extra["broken"], draft.inputs)
        right = [at for at in short if got[at] == told.meant[at]]
        keep = rng.sample(right, min(1, len(right), count - 1))
        wrong = told.choose([at for at in short if at not in right], count - len(keep), rng)
        return None if wrong is None else [*wrong, *keep]

    def describe(self, draft: Draft, shown: Sequence[tuple[Args, Any]]) -> str:
        """Return the broken function, what it should give and what it gives."""
        gives = results(draft.extra["broken"], [args for args, _ in shown])
        lines = [
            equation(args, value) if got == value else f"{equation(args, value)}, gives {got!r}"
            for (args, value), got in zip(shown, gives, strict=True)
        ]
        return "\n".join(["Repair f.", draft.extra["broken"].rstrip(), *lines])

    def trivial(self, task: Task) -> str:
        """Return the broken function as it was given."""
        return str(task.payload["broken"])
