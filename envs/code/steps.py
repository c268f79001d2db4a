"""The shape that the code families share: a function described as numbered steps, a comment and a line of Python a step.

The reference is made with the description, step by step; its comments say each step again, so that a small model has one thing to do
at a time: copy a step, then translate it. Hidden inputs are chosen so that near misses are told apart: a step left out, a constant
one off, two steps swapped. Compositions in which a step does nothing are drawn again.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flywheel.contracts import Knob
from flywheel.envs.code.reference import LIMITS, check_knobs, compiled, demonstrate, validate
from flywheel.types import Knobs, Task, content_id, derive_seed

NUM_HIDDEN = 8
NUM_BATTERY = 64
MAX_DRAWS = 200
MAX_EXAMPLES = 3
MAX_RESULT_CHARS = 400
Draw = Callable[[random.Random, int], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One kind of step. ``{k}`` in its phrase and its line stands for the constant that `draw` makes, if it has one.

    The line gives the family's variable a new value (``xs = …``).
    """

    name: str
    phrase: str
    line: str
    draw: Draw | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A step with its constant."""

    step: Step
    constant: Any = None

    @property
    def phrase(self) -> str:
        """What the prompt says."""
        return self.step.phrase.format(k=self.constant)

    @property
    def line(self) -> str:
        """What the reference says."""
        return self.step.line.format(k=self.constant)


class Change(NamedTuple):
    """Other steps from place `at` on."""

    at: int
    rest: Sequence[Placed]


def number(low: int = 1, high: int | None = None) -> Draw:
    """Return a draw of an integer constant from `low` to the knob's maximum, and to `high` at most."""
    return lambda rng, top: rng.randint(low, max(low, min(top, high if high is not None else top)))


class StepFamily:
    """A `TaskGenerator` over a table of steps; a family gives the table, its variable and its inputs."""

    family: str
    variable: str
    steps: tuple[Step, ...]
    knobs: Mapping[str, Knob]

    def arguments(self, params: Knobs) -> tuple[str, ...]:
        """Return the function's parameter names."""
        return (self.variable,)

    def opening(self, params: Knobs, rng: random.Random) -> tuple[Placed, ...]:
        """Return steps that come first whatever is drawn; they count as steps."""
        return ()

    def draw_input(self, rng: random.Random, size: int) -> tuple[Any, ...]:
        """Return the arguments of one call, of about `size` items."""
        raise NotImplementedError

    def edge_inputs(self, num_arguments: int) -> tuple[tuple[Any, ...], ...]:
        """Return arguments that every task is tested on."""
        raise NotImplementedError

    # ------------------------------------------------------------ TaskGenerator

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task that these arguments name.

        Raises:
            ValueError: a knob is missing or out of its range, or no sound composition was found.
        """
        check_knobs(self.family, self.knobs, params)
        rng = random.Random(derive_seed("code", self.family, dict(params), seed))
        for _ in range(MAX_DRAWS):
            placed = self.draw_steps(params, rng)
            task = self._try(placed, params, seed, rng)
            if task is not None:
                return task
        raise ValueError(f"{self.family}: found no sound composition for {dict(params)!r}; widen the knobs")

    def demonstrate(self, task: Task) -> list[str]:
        """Return the reference actions: test the reference, then submit it."""
        return demonstrate(task)

    def key(self, task: Task) -> str:
        """Return a name of the function meant: what it does on a fixed battery of inputs."""
        if "key" in task.payload:  # of a task that was made of a model's program, which runs in sandboxes only
            return f"{self.family}:{task.payload['key']}"
        return _key(self, str(task.payload["reference"]))

    @staticmethod
    def name_of(results: Sequence[Any], num_arguments: int) -> str:
        """Return the name of the function that gives these results on the battery."""
        return content_id(num_arguments, results)

    def validate(self, task: Task) -> None:
        """Check that the reference passes the verifier and that doing nothing fails.

        Raises:
            ValueError: the task is not fit for training.
        """
        header = str(task.payload["reference"]).split("\n", 1)[0]
        trivial = f"{header}\n    return {header[header.index('(') + 1 : header.index(')')].split(', ')[0]}\n"
        validate(task, trivial)

    # ------------------------------------------------------------ making

    def draw_steps(self, params: Knobs, rng: random.Random) -> tuple[Placed, ...]:
        """Return steps as the knobs ask for them."""
        kinds, top = self.steps[: int(params["num_kinds"])], int(params["max_constant"])
        placed = list(self.opening(params, rng))
        for _ in range(max(1, int(params["num_ops"]) - len(placed))):
            step = rng.choice([kind for kind in kinds if not placed or kind is not placed[-1].step])
            placed.append(Placed(step=step, constant=step.draw(rng, top) if step.draw else None))
        return tuple(placed)

    def source_of(self, placed: Sequence[Placed], names: Sequence[str]) -> str:
        """Return the function that the steps describe."""
        lines = "".join(f"    # {p.phrase}\n    {p.line}\n" for p in placed)
        return f"def f({', '.join(names)}):\n{lines}    return {self.variable}\n"

    def battery(self, num_arguments: int) -> tuple[tuple[Any, ...], ...]:
        """Return the fixed inputs that tests are chosen from and that tell functions apart."""
        return _battery(self, num_arguments)

    @staticmethod
    def _apply(source: str, args: Sequence[Any]) -> Any:
        return compiled(source)(*args)

    def near_misses(self, placed: Sequence[Placed], num_fixed: int) -> tuple[list[Change], list[Change]]:
        """Return changes that leave a step, or two in a row, out, and changes that are wrong in another small way."""
        without, others = [], []
        for at in range(num_fixed, len(placed)):
            without.append(Change(at, placed[at + 1 :]))
            if at + 1 < len(placed):
                without.append(Change(at, placed[at + 2 :]))
                others.append(Change(at, (placed[at + 1], placed[at], *placed[at + 2 :])))
            constant = placed[at].constant
            if isinstance(constant, int):
                changed = [Placed(step=placed[at].step, constant=other) for other in (constant - 1, constant + 1) if other > 0]
                others += [Change(at, (one, *placed[at + 1 :])) for one in changed]
        return without, others

    def about(self, placed: tuple[Placed, ...], params: Knobs, seed: int, rng: random.Random) -> Task | None:
        """Return the task that asks for given steps, drawing its tests and its example; None where it would not be a sound one."""
        for _ in range(MAX_EXAMPLES):
            if (task := self._try(placed, params, seed, rng)) is not None:
                return task
        return None

    def _after_each(self, placed: Sequence[Placed], names: Sequence[str], num_fixed: int) -> list[list[Any]]:
        """Return what the variable is on each input of the battery after the fixed steps, and after each further one."""
        battery = self.battery(len(names))
        if num_fixed:
            first = compiled(self.source_of(placed[:num_fixed], names))
            values = [first(*args) for args in battery]
        else:
            values = [args[0] for args in battery]
        states = [values]
        for one in placed[num_fixed:]:
            states.append(_on_all(self.variable, one.line)(states[-1]))
        return states

    def _try(self, placed: tuple[Placed, ...], params: Knobs, seed: int, rng: random.Random) -> Task | None:
        names = self.arguments(params)
        source = self.source_of(placed, names)
        battery = self.battery(len(names))
        num_fixed = len(self.opening(params, random.Random(0)))
        states = self._after_each(placed, names, num_fixed)
        meant = states[-1]
        if max(len(str(value)) for value in meant) > MAX_RESULT_CHARS:
            return None
        without, others = self.near_misses(placed, num_fixed)
        killers: list[list[int]] = []
        for number, wrong in enumerate([*without, *others]):
            values = states[wrong.at - num_fixed]
            for one in wrong.rest:
                values = _on_all(self.variable, one.line)(values)
            differs = [at for at, (value, right) in enumerate(zip(values, meant, strict=True)) if value != right]
            if differs:
                killers.append(differs)
            elif number < len(without):
                return None  # a step that does nothing, or two that cancel
        hidden = list(self.edge_inputs(len(names)))
        chosen: set[int] = set()
        while len(chosen) < NUM_HIDDEN - len(hidden):
            alive = [differs for differs in killers if not chosen & set(differs)]
            pool = rng.choice(alive) if alive else [at for at in range(len(battery)) if at not in chosen]
            chosen.add(rng.choice(pool))
        hidden += [battery[at] for at in sorted(chosen)]
        results = [self._apply(source, args) for args in hidden]
        if len({str(result) for result in results}) < min(4, NUM_HIDDEN // 2):
            return None  # hardly depends on its input
        example = self._example(source, int(params["example_size"]), rng)
        if example is None:
            return None
        tests = [{"kind": "call", "args": list(args), "kwargs": {}, "expected": self._apply(source, args)} for args in (example, *hidden)]
        shown = ", ".join(repr(arg) for arg in example)
        numbered = "\n".join(f"{at}. {p.phrase}" for at, p in enumerate(placed, 1))
        return Task.create(
            env="code",
            family=self.family,
            prompt=f"Write f({', '.join(names)}).\n{numbered}\nf({shown}) == {tests[0]['expected']!r}",
            payload={
                "entry_point": "f",
                "public_tests": tests[:1],
                "hidden_tests": tests[1:],
                "limits": LIMITS,
                "reference": source,
                "steps": [[p.step.name, p.constant] for p in placed],
            },
            params=dict(params),
            seed=seed,
        )

    def _example(self, source: str, size: int, rng: random.Random) -> tuple[Any, ...] | None:
        """Return short arguments whose result says something; None where there are none."""
        for extra in (0, 0, 0, 0, 1, 1, 2, 2, 3, 3):
            args = self.draw_input(rng, size + extra)[: source[: source.index(")")].count(",") + 1]
            result = self._apply(source, args)
            if (result or isinstance(result, int)) and result != args[0] and len(repr(result)) <= 40:
                return args
        return None


@functools.lru_cache(maxsize=4096)
def _on_all(variable: str, line: str) -> Callable[[list[Any]], list[Any]]:
    """Return a function that runs a step's line on every value: many times faster than a function for each variant of the steps.

    Raises:
        ValueError: the line does not give the variable a new value, and so might change one that others are compared with.
    """
    assigns, _, expression = line.partition(" = ")
    if assigns != variable or not expression:
        raise ValueError(f'a step\'s line is {line!r}, expected "{variable} = …"')
    namespace: dict[str, Any] = {}
    exec(compile(f"def on_all(values):\n    return [({expression}) for {variable} in values]\n", "<step>", "exec"), namespace)
    made: Callable[[list[Any]], list[Any]] = namespace["on_all"]
    return made


@functools.lru_cache(maxsize=4096)
def _key(family: StepFamily, source: str) -> str:
    names = source[source.index("(") + 1 : source.index(")")].split(", ")
    function = compiled(source)
    return f"{family.family}:{family.name_of([function(*args) for args in family.battery(len(names))], len(names))}"


@functools.lru_cache(maxsize=16)
def _battery(family: StepFamily, num_arguments: int) -> tuple[tuple[Any, ...], ...]:
    rng = random.Random(f"battery {family.family}")
    return tuple(family.draw_input(rng, rng.randint(0, 9))[:num_arguments] for _ in range(NUM_BATTERY))
