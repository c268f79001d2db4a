"""Variants of a step task: a step left out, put in or exchanged, another constant, the first half alone, the failed case, other words.

"The failed case" is a kind of input (short, with repetitions, negative …), never the hidden test's own input: what is shown and
what is judged are new inputs of that kind.
"""

from __future__ import annotations

import io
import random
import tokenize
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flywheel.contracts import Knob, Operator
from flywheel.envs.code.steps import Placed, Step, StepFamily
from flywheel.types import Knobs, Task, Verdict, derive_seed

STEP_OPERATORS: Mapping[str, Operator] = {
    "drop_step": Operator(direction="easier", help="one step left out"),
    "first_half": Operator(direction="easier", help="the first half of the steps alone"),
    "change_constant": Operator(direction="same", help="another constant in one step"),
    "exchange_step": Operator(direction="same", help="one step replaced by one of another kind"),
    "add_step": Operator(direction="harder", help="one more step"),
}
"""What changes the steps alone; any family whose tasks name their steps can have them (`changed_steps`)."""
OPERATORS: Mapping[str, Operator] = {
    **STEP_OPERATORS,
    "failing_case": Operator(direction="easier", help="the same function on inputs of the kind that failed, two of them shown"),
    "reword": Operator(direction="same", help="the same function in other words, its variable renamed"),
}

NUM_SHOWN, NUM_CASES = 2, 10
MAX_DRAWN = 600
NEW_NAMES = ("data", "value", "given", "source", "it")
WORDINGS = ("Write {call}: {steps}.", "{call} has to do this: {steps}. Write it.", "The steps of {call} are: {steps}. Write the function.")


class MutableStepFamily(StepFamily):
    """A `StepFamily` that is a `flywheel.contracts.Mutator`."""

    operators = OPERATORS

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        """Return a variant of a task of this family.

        Raises:
            ValueError: the operator does not fit, or its variant is not sound (a step that does nothing, say).
        """
        if "steps" not in task.payload or "key" in task.payload:  # a model's program, which runs in sandboxes only
            raise ValueError(f"{self.family}: task {task.id} is not of this family's making")
        if operator == "failing_case":
            return self._failing_case(task, failure, seed)
        if operator == "reword":
            return self._reworded(task, seed)
        rng = random.Random(derive_seed("variant", operator, task.id, seed))
        placed = changed_steps(self, task, operator, self.knobs["num_ops"], task.params, rng)
        child = self._try(placed, {**task.params, "num_ops": len(placed)}, seed, rng)
        if child is None:
            raise ValueError(f"{operator} made an unsound variant of {task.payload['steps']!r}")
        return child.derived(task, f"mutate:{operator}")

    def _failing_case(self, task: Task, failure: Verdict | None, seed: int) -> Task:
        """Return the task on new inputs of the kind of one that failed.

        Raises:
            ValueError: nothing says which input failed, or there are too few others of its kind that tell anything.
        """
        tests = [*task.payload["public_tests"], *task.payload["hidden_tests"]]
        checks = failure.checks if failure is not None else ()
        failed = [test["args"] for test, check in zip(tests, checks, strict=False) if not check.passed]
        if len(checks) != len(tests) or not failed:
            raise ValueError("failing_case needs a verdict that names the test that failed")
        rng = random.Random(derive_seed("variant", "failing_case", task.id, seed))
        kind, seen = input_kind(rng.choice(failed)), {repr(test["args"]) for test in tests}
        drawn = (list(self.draw_input(rng, rng.randint(0, 9))[: len(failed[0])]) for _ in range(MAX_DRAWN))
        new = list({repr(args): args for args in drawn if input_kind(args) == kind and repr(args) not in seen}.values())[:NUM_CASES]
        results = [self._apply(str(task.payload["reference"]), args) for args in new]
        told = {repr(result) for result in results[NUM_SHOWN:]}
        if len(new) < NUM_CASES or len(told) < 2 or all(result == args[0] for args, result in zip(new, results, strict=True)):
            raise ValueError(f"failing_case: too few inputs like {kind} tell anything about {task.payload['steps']!r}")
        cases = [{"kind": "call", "args": a, "kwargs": {}, "expected": r} for a, r in zip(new, results, strict=True)]
        payload = {**task.payload, "public_tests": cases[:NUM_SHOWN], "hidden_tests": cases[NUM_SHOWN:]}
        prompt = "\n".join([_without_examples(task), *map(_equation, cases[:NUM_SHOWN])])
        return _child(task, prompt, payload, seed).derived(task, "mutate:failing_case")

    def _reworded(self, task: Task, seed: int) -> Task:
        """Return the task in other words: its steps as a sentence, its variable by another name."""
        rng = random.Random(derive_seed("variant", "reword", task.id, seed))
        names = str(task.payload["reference"]).partition("(")[2].partition(")")[0].split(", ")
        new = rng.choice([name for name in NEW_NAMES if name not in names])
        reference = renamed(str(task.payload["reference"]), self.variable, new)
        named = [new if name == self.variable else name for name in names]
        steps = ", then ".join(placed.phrase for placed in placed_of(self, task, task.params))
        said = rng.choice(WORDINGS).format(call=f"f({', '.join(named)})", steps=steps)
        prompt = "\n".join([said, *map(_equation, task.payload["public_tests"])])
        if reference == task.payload["reference"] and prompt == task.prompt:
            raise ValueError("reword: there is nothing to say otherwise")
        return _child(task, prompt, {**task.payload, "reference": reference}, seed).derived(task, "mutate:reword")


def placed_of(family: StepFamily, task: Task, params: Knobs) -> list[Placed]:
    """Return the steps, of a family's kinds, that a task's payload names.

    Raises:
        ValueError: it names none, or others.
    """
    opening = [placed.step for placed in family.opening(params, random.Random(0))]
    kinds = {step.name: step for step in (*family.steps, *opening)}
    named = task.payload.get("steps", [])
    if not named or any(name not in kinds for name, _ in named):
        raise ValueError(f"task {task.id} names no steps of the family {family.family!r}")
    return [Placed(step=kinds[name], constant=constant) for name, constant in named]


def changed_steps(family: StepFamily, task: Task, operator: str, num_ops: Knob, params: Knobs, rng: random.Random) -> tuple[Placed, ...]:
    """Return a task's steps as one of `STEP_OPERATORS` changes them; those that come first whatever is drawn stay.

    Args:
        family: Whose kinds of steps they are.
        task: It names them in its payload.
        operator: Of `STEP_OPERATORS`.
        num_ops: How many there may be.
        params: The knobs as `family` has them.
        rng: Makes the choices.

    Raises:
        ValueError: no such operator, or it does not fit.
    """
    if operator not in _MAKERS:
        raise ValueError(f"no operator {operator!r}; known: {', '.join(_MAKERS)}")
    placed = placed_of(family, task, params)
    num_fixed = len(family.opening(params, random.Random(0)))
    made = _MAKERS[operator](placed[num_fixed:], family.steps[: int(params["num_kinds"])], int(params["max_constant"]), rng)
    if not made or made == placed[num_fixed:] or not num_ops.low <= num_fixed + len(made) <= num_ops.high:
        raise ValueError(f"{operator} does not fit {task.payload['steps']!r}")
    return (*placed[:num_fixed], *made)


def input_kind(args: Sequence[Any]) -> tuple[Any, ...]:
    """Return what kind of input some arguments are: their sizes, signs, repetitions and upper case, roughly."""
    return tuple(_value_kind(value) for value in args)


def _value_kind(value: Any) -> tuple[Any, ...]:
    if isinstance(value, int):
        return ("positive" if value > 0 else "not positive", "large" if abs(value) >= 10 else "small")
    marked = any(item.isupper() if isinstance(item, str) else item < 0 for item in value)
    size = "tiny" if len(value) < 2 else "short" if len(value) < 5 else "long"
    return (size, "marked" if marked else "plain", "repeats" if len(set(value)) < len(value) else "distinct")


def _without_examples(task: Task) -> str:
    return "\n".join(task.prompt.split("\n")[: -len(task.payload["public_tests"])])


def _equation(test: Mapping[str, Any]) -> str:
    return f"f({', '.join(map(repr, test['args']))}) == {test['expected']!r}"


def _child(task: Task, prompt: str, payload: Mapping[str, Any], seed: int) -> Task:
    return Task.create(env=task.env, family=task.family, prompt=prompt, payload=payload, params=task.params, seed=seed)


def renamed(source: str, name: str, new: str) -> str:
    """Return a source with a variable renamed; strings and comments, which may hold the same letters, stay."""
    lines = source.splitlines(keepends=True)
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        if token.type == tokenize.NAME and token.string == name:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + new + lines[row - 1][column + len(name) :]
    return "".join(lines)


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
