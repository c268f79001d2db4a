"""A task made of what a program does: the calls that its prompt shows are the program's own, and so are the hidden ones.

The program is a model's, so it runs in sandboxes alone: twice, to see whether it gives the same again, and once as each of its mutants,
for tests that tell it from them. The inputs are the fixed ones by which the failed task's family tells functions apart, so the new task
has the key, and the side of the split, that the family would give this function. A task record has no family: its inputs are those of its
public tests and small changes of them, and those of its hidden tests, which stay hidden.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.envs.code.algorithms import DOMAINS
from flywheel.envs.code.algorithms import inputs as algorithm_inputs
from flywheel.envs.code.drafts import MAX_RESULT_CHARS, MAX_SHOWN_CHARS, MIN_RESULTS, NUM_HIDDEN, Args, Told, distinct
from flywheel.envs.code.examples import BASES, step_inputs, told_by_examples
from flywheel.envs.code.families import FAMILIES, STEPS
from flywheel.envs.code.mutants import mutants
from flywheel.envs.code.reading import function_of
from flywheel.envs.code.steps import StepFamily
from flywheel.errors import NotRelabelledError
from flywheel.sandbox import shared_pool
from flywheel.sandbox.inside.plain import same
from flywheel.sandbox.judging import run_values
from flywheel.types import Task, content_id, derive_seed
from flywheel.verifiers.code_payload import CodePayload

NUM_SHOWN = 6
MIN_KILLED = 5
MAX_MUTANTS = 10
MAX_EDGES = 6
NUM_CHANGED = 40
MAX_NODES = 300  # every mutant copies them
_BASES: dict[tuple[str, ...], StepFamily] = {(base.variable,): base for base in BASES}
_BASES["a", "b"] = STEPS["arithmetic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """The inputs by which a family tells functions apart; `key` names the function that gives some results on the first of them."""

    names: tuple[str, ...]
    inputs: Sequence[Args]
    edges: Sequence[Args]
    key: Callable[[Sequence[Any]], str]


def domain_of(task: Task) -> Domain:
    """Return the domain of a task.

    Raises:
        NotRelabelledError: there is none: a program, say, or a record without public calls.
    """
    header = str(task.payload.get("reference", "")).partition("def f(")[2].partition(")")[0]
    names = tuple(header.split(", "))
    if (family := STEPS.get(task.family)) is not None:
        return Domain(
            names=names,
            inputs=family.battery(len(names)),
            edges=family.edge_inputs(len(names)),
            key=lambda results: family.name_of(results, len(names)),
        )
    if task.family in ("examples", "repair"):
        base = _BASES.get(names)
        if base is not None:
            return Domain(
                names=names,
                inputs=step_inputs(base, len(names)),
                edges=base.edge_inputs(len(names)),
                key=lambda results: content_id(f"{base.family}/{len(names)}", results),
            )
    if task.family == "algorithms":
        domain = next((domain for domain in DOMAINS if domain.arguments == header), None)
        if domain is not None:
            gives = {True: "list", False: "number"}
            return Domain(
                names=names,
                inputs=algorithm_inputs(domain.name),
                edges=(),
                key=lambda results: content_id(f"{domain.name}/{gives[isinstance(results[0], list)]}", results),
            )
    return _given(task, CodePayload.read(task.payload))


def _given(task: Task, payload: CodePayload) -> Domain:
    """Return the domain of a task record with call tests."""
    public, hidden = (
        [tuple(test["args"]) for test in tests if test["kind"] == "call" and not test["kwargs"] and test["args"]]
        for tests in (payload.public_tests, payload.hidden_tests)
    )
    if not public or task.family in FAMILIES:
        raise NotRelabelledError("no_family")
    rng = random.Random(derive_seed("inputs", task.id))
    edges = distinct(hidden, without=public)[:MAX_EDGES]
    changed = [tuple(_changed(arg, rng) for arg in rng.choice(public)) for _ in range(NUM_CHANGED)]
    return Domain(
        names=tuple("abcdefgh"[: len(public[0])]), inputs=distinct([*public, *changed], without=edges), edges=edges, key=content_id
    )


def _changed(value: Any, rng: random.Random) -> Any:
    """Return a plain value like another one, of the same type."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value + rng.choice((-2, -1, 0, 1, 2, 7))
    if isinstance(value, str):
        pieces = list(value)
        rng.shuffle(pieces)
        return "".join(pieces[: rng.randint(1, max(1, len(pieces)))])
    if isinstance(value, list | tuple):
        items = [_changed(rng.choice(value), rng) for _ in range(rng.randint(1, len(value) + 1))] if value else []
        return items if rng.random() < 0.8 else list(value)
    return value


def observed(source: str, task: Task, rng: random.Random) -> Task:
    """Return the task that shows some calls of a program and tests others; what it has passed of the failed task's examples is shown.

    Raises:
        NotRelabelledError: the program makes no sound task.
        InfraError: sandboxes can't be started.
    """
    domain, payload = domain_of(task), CodePayload.read(task.payload)
    name = str(payload.entry_point)
    function = function_of(source, name)
    given = function.args
    if sum(1 for _ in ast.walk(function)) > MAX_NODES:
        raise NotRelabelledError("too_long")
    if len(given.args) != len(domain.names):
        raise NotRelabelledError("no_function")
    names = domain.names if task.family in FAMILIES else [arg.arg for arg in given.args]
    tests = [test for test in payload.public_tests if test["kind"] == "call" and not test["kwargs"]]
    asked = [tuple(test["args"]) for test in tests]
    inputs = [*domain.inputs, *domain.edges, *asked]
    values = _run(source, inputs, payload)
    if values is None:
        raise NotRelabelledError("raises")
    again = _run(source, inputs[::-1], payload)  # one that remembers its calls gives itself away
    if again is None or not all(same(one, other) for one, other in zip(values, again[::-1], strict=True)):
        raise NotRelabelledError("not_deterministic")
    if not all(_is_json(value) and len(repr(value)) <= MAX_RESULT_CHARS for value in values):
        raise NotRelabelledError("odd_results")
    meant = dict(zip(map(repr, inputs), values, strict=True))
    passed = [args for args, test in zip(asked, tests, strict=True) if same(meant[repr(args)], test["expected"])]
    places = distinct(domain.inputs, without=[*domain.edges, *passed])
    told = Told(meant=[meant[repr(args)] for args in places], killers=_killers(source, places, [meant[repr(a)] for a in places], payload))
    short = [at for at, args in enumerate(places) if len(repr(args)) + len(repr(told.meant[at])) <= MAX_SHOWN_CHARS]
    shown = told.choose(short, NUM_SHOWN - min(NUM_SHOWN - 1, len(passed)), rng)
    hidden = told.choose_others(shown, NUM_HIDDEN - len(domain.edges), rng) if shown else None
    if shown is None or hidden is None or len({repr(told.meant[at]) for at in hidden}) < MIN_RESULTS:
        raise NotRelabelledError("unsound")
    if sum(not killer.isdisjoint(hidden) for killer in told.killers) < MIN_KILLED:
        raise NotRelabelledError("weak_tests")
    calls = [*passed[: NUM_SHOWN - 1], *(places[at] for at in shown)]
    return Task.create(
        env=task.env,
        family=task.family,
        prompt=told_by_examples(f"{name}({', '.join(names)})", [(args, meant[repr(args)]) for args in calls]),
        payload={
            "entry_point": name,
            "public_tests": [_test(args, meant) for args in calls],
            "hidden_tests": [_test(args, meant) for args in (*domain.edges, *(places[at] for at in hidden))],
            **({"limits": task.payload["limits"]} if "limits" in task.payload else {}),
            "key": domain.key(values[: len(domain.inputs)]),
        },
        params=task.params,
        seed=task.seed,
    )


def _run(source: str, inputs: Sequence[Args], payload: CodePayload) -> list[Any] | None:
    pool = shared_pool()
    limits = pool.limits(cpu_s=payload.wall_s, memory_mb=payload.memory_mb)
    return run_values(pool, source, str(payload.entry_point), inputs, limits, payload.setting)


def _killers(source: str, inputs: Sequence[Args], meant: Sequence[Any], payload: CodePayload) -> list[frozenset[int]]:
    """Return for each mutant that differs the places where it does."""
    changed = mutants(source)
    killers = []
    for mutant in changed[:: max(1, len(changed) // MAX_MUTANTS)][:MAX_MUTANTS]:
        got = _run(mutant, inputs, payload)
        differs = range(len(inputs)) if got is None else [at for at, value in enumerate(got) if not same(value, meant[at])]
        if differs:
            killers.append(frozenset(differs))
    return killers


def _test(args: Args, meant: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "call", "args": list(args), "kwargs": {}, "expected": meant[repr(args)]}


def _is_json(value: Any) -> bool:
    try:
        return same(json.loads(json.dumps(value, allow_nan=False)), value)
    except (TypeError, ValueError, RecursionError):
        return False
