"""The shape of the families whose functions are not just numbered steps: a draft is a reference, what is said of it and near misses.

Tests are chosen from the draft's inputs so that every near miss fails one; a draft whose result hardly depends on its input, or
whose reference raises on one of the inputs, is drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flywheel.contracts import Knob
from flywheel.envs.code.reference import LIMITS, check_knobs, compiled, demonstrate, validate
from flywheel.types import Knobs, Task, content_id, derive_seed

NUM_HIDDEN = 10
MAX_DRAWS = 300
MAX_RESULT_CHARS = 400
MAX_SHOWN_CHARS = 80
MIN_RESULTS = 4
Args = tuple[Any, ...]
RAISED = "raised"


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A function ``f`` to write.

    `near_misses` are sources that are nearly right; those in `different` must differ from the reference somewhere (a step that
    does nothing would be no step). `inputs`, no two of them equal, decide which functions are the same; `edges` are always
    tested, and `domain` keeps functions of unlike arguments apart.
    """

    domain: str
    source: str
    inputs: Sequence[Args]
    edges: Sequence[Args] = ()
    near_misses: Sequence[str] = ()
    different: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def distinct(inputs: Iterable[Args], without: Sequence[Args] = ()) -> tuple[Args, ...]:
    """Return the inputs without repetitions, and without those that are named."""
    named = {repr(args) for args in without}
    return tuple({repr(args): args for args in inputs if repr(args) not in named}.values())


def results(source: str, inputs: Sequence[Args]) -> list[Any]:
    """Return what a source gives on inputs, `RAISED` where it raises."""
    try:
        function = compiled(source)
    except (SyntaxError, NameError, TypeError):
        return [RAISED] * len(inputs)
    return [_apply(function, args) for args in inputs]


def _apply(function: Any, args: Args) -> Any:
    try:
        return function(*args)
    except Exception:  # noqa: BLE001 - a near miss may break in any way
        return RAISED


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a draft's inputs tell: the reference's results on them, and for each near miss the places where it gives another."""

    meant: Sequence[Any]
    killers: Sequence[frozenset[int]]

    def choose(self, places: Sequence[int], count: int, rng: random.Random) -> list[int] | None:
        """Return `count` of the places, such as fail near misses first; None where there are too few."""
        killers = [killer for all_places in self.killers if (killer := all_places.intersection(places))]
        chosen: list[int] = []
        while len(chosen) < count:
            left = [at for at in places if at not in chosen]
            if not left:
                return None
            killers = [killer for killer in killers if killer.isdisjoint(chosen)]
            chosen.append(rng.choice(sorted(rng.choice(killers)) if killers else left))
        return chosen

    def choose_others(self, shown: Sequence[int], count: int, rng: random.Random) -> list[int] | None:
        """Return `count` places that are not shown: those of hidden tests."""
        return self.choose([at for at in range(len(self.meant)) if at not in shown], count, rng)


def tell(draft: Draft) -> Told | None:
    """Return what the draft's inputs tell, or None where the draft is not sound."""
    meant = results(draft.source, draft.inputs)
    if RAISED in meant or max(len(repr(value)) for value in meant) > MAX_RESULT_CHARS:
        return None
    if len({repr(value) for value in meant}) < MIN_RESULTS:
        return None
    killers = []
    for source in [*draft.different, *draft.near_misses]:
        got = results(source, draft.inputs)
        differs = [at for at, (value, right) in enumerate(zip(got, meant, strict=True)) if type(value) is not type(right) or value != right]
        if differs:
            killers.append(frozenset(differs))
        elif source in draft.different:
            return None
    return Told(meant=meant, killers=killers)


class DraftFamily:
    """A `TaskGenerator` of drafts; a family gives `draft`, `describe` and what it shows."""

    family: str
    knobs: Mapping[str, Knob]

    def draft(self, params: Knobs, rng: random.Random) -> Draft | None:
        """Return one draft, or None where this draw came to nothing."""
        raise NotImplementedError

    def describe(self, draft: Draft, shown: Sequence[tuple[Args, Any]]) -> str:
        """Return the prompt, with the calls that it shows and their results."""
        raise NotImplementedError

    def num_shown(self, params: Knobs) -> int:
        """Return how many calls the prompt shows."""
        return 2

    def choose_shown(self, draft: Draft, told: Told, count: int, rng: random.Random) -> list[int] | None:
        """Return the places of the inputs to show: short ones that tell near misses apart, with results of some variety."""
        short = [at for at, args in enumerate(draft.inputs) if len(repr(args)) <= MAX_SHOWN_CHARS]
        places = told.choose(short, count, rng)
        if places is None or len({repr(told.meant[at]) for at in places}) < (count + 1) // 2:
            return None
        return places

    # ------------------------------------------------------------ TaskGenerator

    def generate(self, params: Knobs, seed: int) -> Task:
        """Return the task that these arguments name.

        Raises:
            ValueError: a knob is missing or out of its range, or no sound draft was found.
        """
        check_knobs(self.family, self.knobs, params)
        rng = random.Random(derive_seed("code", self.family, dict(params), seed))
        for _ in range(MAX_DRAWS):
            task = self._try(params, seed, rng)
            if task is not None:
                return task
        raise ValueError(f"{self.family}: found no sound task for {dict(params)!r}; widen the knobs")

    def _try(self, params: Knobs, seed: int, rng: random.Random) -> Task | None:
        draft = self.draft(params, rng)
        return None if draft is None else self.from_draft(draft, params, seed, rng)

    def from_draft(self, draft: Draft, params: Knobs, seed: int, rng: random.Random, parent: Task | None = None) -> Task | None:
        """Return the task of a draft, as like its parent as can be; None where the draft is not sound."""
        told = tell(draft)
        if told is None:
            return None
        shown = self.choose_shown(draft, told, self.num_shown(params), rng)
        places = told.choose_others(shown, NUM_HIDDEN - len(draft.edges), rng) if shown else None
        if places is None or shown is None:
            return None
        calls = [draft.inputs[at] for at in shown]
        hidden = [*draft.edges, *(draft.inputs[at] for at in places)]
        values = results(draft.source, [*calls, *hidden])
        if RAISED in values:
            return None
        tests = [_call(args, value) for args, value in zip([*calls, *hidden], values, strict=True)]
        payload = {
            "entry_point": "f",
            "public_tests": tests[: len(calls)],
            "hidden_tests": tests[len(calls) :],
            "limits": LIMITS,
            "reference": draft.source,
            "key": content_id(draft.domain, told.meant),
            **draft.extra,
        }
        prompt = self.describe(draft, list(zip(calls, values, strict=False)))
        return Task.create(env="code", family=self.family, prompt=prompt, payload=payload, params=dict(params), seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        """Return the reference actions: test the reference, then submit it."""
        return demonstrate(task)

    def key(self, task: Task) -> str:
        """Return a name of the function meant: what it does on the draft's fixed inputs."""
        return f"{self.family}:{task.payload['key']}"

    def validate(self, task: Task) -> None:
        """Check that the reference passes the verifier and that a trivial answer fails.

        Raises:
            ValueError: the task is not fit for training.
        """
        validate(task, self.trivial(task))

    def trivial(self, task: Task) -> str:
        """Return an answer that is worth nothing: it gives back its first argument."""
        header = next(line for line in str(task.payload["reference"]).splitlines() if line.startswith("def f("))
        return f"{header}\n    return {header[len('def f(') : header.index(')')].split(', ')[0]}\n"


def _call(args: Args, value: Any) -> dict[str, Any]:
    return {"kind": "call", "args": list(args), "kwargs": {}, "expected": value}


def equation(args: Args, value: Any, name: str = "f") -> str:
    """Return a call and its result as Python source."""
    return f"{name}({', '.join(map(repr, args))}) == {value!r}"
