"""Reads a program back as the numbered steps of a family, where every line of it is one: the family can then ask for it in its own words.

Nothing of the program runs here: what is read is a list of known steps with their constants.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import random
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flywheel.contracts import Knob
from flywheel.envs.code.arithmetic import OPENINGS
from flywheel.envs.code.programs import LISTS, READERS, WRITERS, Shape
from flywheel.envs.code.steps import Placed, Step, StepFamily
from flywheel.errors import NotRelabelledError
from flywheel.types import Knobs

MAX_CHARS = 4_000
_NUMBER, _LETTER = 907_060_503, "\u0436"  # stand for a constant in a line


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A program's arguments and steps. `belied` says that its comments tell other steps than its lines do."""

    names: tuple[str, ...]
    placed: tuple[Placed, ...]
    belied: bool


def function_of(source: str, name: str = "f") -> ast.FunctionDef:
    """Return the function of a name, the last one that a program defines.

    Raises:
        NotRelabelledError: it is something else.
    """
    if len(source) > MAX_CHARS:
        raise NotRelabelledError("too_long")
    try:
        tree = ast.parse(source)
        ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotRelabelledError("unparsable") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not functions or functions[-1].name != name:
        raise NotRelabelledError("no_function")
    return functions[-1]


def read(family: StepFamily, source: str) -> Reading | None:
    """Return a program as steps of a family; None where a line is no step of it.

    Raises:
        NotRelabelledError: it is no function.
    """
    function = function_of(source)
    names = tuple(arg.arg for arg in function.args.args)
    if len(ast.parse(source).body) != 1 or ast.unparse(function.args) != ", ".join(names) or function.decorator_list:
        return None
    lines = [ast.unparse(statement) for statement in function.body]
    if not lines or lines.pop() != f"return {family.variable}":
        return None
    placed: list[Placed] = []
    if names == ("a", "b") and lines:
        opening = lines.pop(0).removeprefix("n = ")
        if opening not in OPENINGS:
            return None
        placed.append(Placed(step=Step(name="start", phrase="start with {k}", line="n = {k}"), constant=opening))
    elif names != (family.variable,):
        return None
    steps = _placed(family, lines)
    if steps is None:
        return None
    placed += steps
    said = _comments(source)
    return Reading(names=names, placed=tuple(placed), belied=bool(said) and said != [step.phrase for step in placed])


class ProgramReading(NamedTuple):
    """How a program reads, its steps and how it prints."""

    reader: Shape
    placed: tuple[Placed, ...]
    writer: Shape


def read_program(source: str) -> ProgramReading | None:
    """Return a program as one of the programs family; None where it is none."""
    if len(source) > MAX_CHARS:
        return None
    try:
        lines = [ast.unparse(statement) for statement in ast.parse(source).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for reader, writer in itertools.product(READERS, WRITERS):
        first, last = _lines(reader.code), _lines(writer.code)
        steps = lines[len(first) : len(lines) - len(last)]
        if steps and lines == [*first, *steps, *last] and (placed := _placed(LISTS, steps)) is not None:
            return ProgramReading(reader, tuple(placed), writer)
    return None


@functools.cache
def _lines(code: str) -> tuple[str, ...]:
    return tuple(ast.unparse(statement) for statement in ast.parse(code).body)


def _placed(family: StepFamily, lines: Sequence[str]) -> list[Placed] | None:
    """Return lines as steps of a family; None where one is none."""
    placed: list[Placed] = []
    for line in lines:
        step = next(
            (found for step in family.steps if (found := _as_step(step, line, family.knobs["max_constant"].high)) is not None), None
        )
        if step is None:
            return None
        placed.append(step)
    return placed


def knobs_of(family: StepFamily, reading: Reading, params: Knobs, knobs: Mapping[str, Knob]) -> dict[str, int]:
    """Return the knobs of a task that asks for these steps of a family: those of the failed one, as far as they fit.

    Raises:
        NotRelabelledError: the steps are more, or larger, than the family has, or hardly any.
    """
    names = [step.name for step in family.steps]
    kinds = [names.index(placed.step.name) + 1 for placed in reading.placed if placed.step.name in names]
    numbers = [placed.constant for placed in reading.placed if isinstance(placed.constant, int)]
    own = {name: int(value) for name, value in params.items()}
    own["num_ops"] = len(reading.placed)
    own["num_kinds"] = max([own["num_kinds"], *kinds])
    own["max_constant"] = max([own["max_constant"], *numbers])
    if "num_args" in own:
        own["num_args"] = len(reading.names)
    if own["num_ops"] < int(params["num_ops"]) - 1:
        raise NotRelabelledError("too_small")
    if any(not knob.low <= own[name] <= knob.high for name, knob in knobs.items()):
        raise NotRelabelledError("out_of_range")
    return own


def _as_step(step: Step, line: str, top: int) -> Placed | None:
    match = _pattern(step).fullmatch(line)
    if match is None:
        return None
    values = set(match.groups())
    if not values:
        return Placed(step=step)
    constant = _drawn(step, top).get(values.pop())
    # Two constants that differ, or one that the family would never draw: its references run in this process, and s * 20 * 20 * … is big.
    return None if values or constant is None else Placed(step=step, constant=constant)


@functools.cache
def _drawn(step: Step, top: int) -> dict[str, int | str]:
    """Return the constants that a step can have, as they are written."""
    assert step.draw is not None
    return {str(constant): constant for constant in (step.draw(random.Random(seed), top) for seed in range(40 * top))}


@functools.cache
def _pattern(step: Step) -> re.Pattern[str]:
    """Return what a step's line looks like, its constant aside, however it is laid out."""
    is_letter = step.draw is not None and isinstance(step.draw(random.Random(0), 5), str)
    line = ast.unparse(ast.parse(step.line.format(k=_LETTER if is_letter else _NUMBER)))
    pattern = re.escape(line).replace(_LETTER, "([a-z])").replace(str(_NUMBER), r"(\d+)")
    return re.compile(pattern)


def _comments(source: str) -> Sequence[str]:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return []
    return [token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT]
