"""The families of drafts: examples alone, algorithms, bug repair, programs. Tasks are sound, distinct and the same every time."""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Sequence

import pytest

from flywheel.contracts import draw_params, level_of
from flywheel.envs.code import CodeEnv
from flywheel.envs.code.algorithm_table import Core
from flywheel.envs.code.algorithms import DOMAINS, inputs
from flywheel.envs.code.drafts import RAISED, results
from flywheel.envs.code.families import FAMILIES, STEPS
from flywheel.envs.code.programs import READERS, WRITERS
from flywheel.envs.code.repair import mutant
from flywheel.types import Task, Trajectory
from flywheel.verifiers.code import CodeVerifier

DRAFTS = sorted(set(FAMILIES) - set(STEPS))


def drawn(family: str, seeds: Sequence[int]) -> list[Task]:
    generator = FAMILIES[family]
    return [generator.generate(draw_params(generator.knobs, {}, seed), seed) for seed in seeds]


def judged(task: Task, answer: str) -> str:
    return CodeVerifier().verify(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)).outcome


def test_there_is_a_family_of_each_kind() -> None:
    assert set(FAMILIES) == {"lists", "strings", "arithmetic", "examples", "algorithms", "repair", "programs"}
    assert all(len(family.knobs) >= 3 for family in FAMILIES.values())


@pytest.mark.parametrize("family", DRAFTS)
def test_no_two_tasks_are_equal_and_the_same_seed_gives_the_same_task(family: str) -> None:
    tasks, key = drawn(family, range(300)), FAMILIES[family].key
    assert len({key(task) for task in tasks}) == len({task.prompt for task in tasks}) == 300
    assert drawn(family, [7]) == [tasks[7]]
    assert max(len(task.prompt) for task in tasks) < 900
    for task in tasks:
        assert task.payload["reference"] not in task.prompt
        tests = [str(test) for test in (*task.payload["public_tests"], *task.payload["hidden_tests"])]
        assert len(set(tests)) == len(tests) >= 11


@pytest.mark.parametrize("family", DRAFTS)
def test_every_knob_reaches_its_ends(family: str) -> None:
    generator = FAMILIES[family]
    for end in ("low", "high"):
        params = {name: getattr(knob, end) for name, knob in generator.knobs.items()}
        assert level_of(generator.knobs, params) == (1 if end == "low" else 5)
        for seed in range(8):
            assert generator.generate(params, seed).params == params
    with pytest.raises(ValueError, match=next(iter(generator.knobs))):
        generator.generate({**params, next(iter(generator.knobs)): 99}, 0)


@pytest.mark.parametrize("family", DRAFTS)
def test_references_are_solved_through_the_environment_and_trivial_answers_fail(family: str) -> None:
    env, generator = CodeEnv(), FAMILIES[family]
    for task in drawn(family, range(12)):
        generator.validate(task)
    prompt, _ = env.reset(options={"task": task})
    assert prompt == task.prompt
    first, second = generator.demonstrate(task)
    number = len(task.payload["public_tests"])
    assert env.step(first)[:3] == (f"{number}/{number} passed", 0.0, False)
    assert env.step(second)[4]["outcome"] == "solved"


def test_examples_say_nothing_but_calls() -> None:
    for task in drawn("examples", range(20)):
        first, *calls = task.prompt.splitlines()
        assert re.fullmatch(r"Write f\([\w, ]+\)\.", first)
        assert 5 <= len(calls) <= 8
        assert all(re.fullmatch(r"f\(.*\) == .*", line) for line in calls)


def test_a_function_with_nothing_to_change_is_left_as_it_is() -> None:
    assert mutant("def f(xs):\n    return xs\n", random.Random(0)) == "def f(xs):\n    return xs\n"
    assert mutant("def f(x):\n    return x + y\n", random.Random(0)) == "def f(x):\n    return x - y\n"


def test_what_is_to_be_repaired_fails_the_calls_that_are_shown() -> None:
    for task in drawn("repair", range(8)):
        broken = task.payload["broken"]
        assert broken.rstrip() in task.prompt
        assert judged(task, broken) == "failed"
        assert sum("gives" in line for line in task.prompt.splitlines()) >= 2


def test_every_shape_of_input_and_output_is_read_and_printed_by_its_reference() -> None:
    seen = set()
    for task in drawn("programs", range(60)):
        shape = next(at for at, reader in enumerate(READERS) if reader.phrase in task.prompt)
        manner = next(at for at, writer in enumerate(WRITERS) if f"\n{writer.phrase}\n" in task.prompt)
        if ("reader", shape) not in seen or ("writer", manner) not in seen:
            assert judged(task, task.payload["reference"]) == "solved"
            seen |= {("reader", shape), ("writer", manner)}
    assert len(seen) == len(READERS) + len(WRITERS)


CORES = [(domain.name, domain.arguments, core) for domain in DOMAINS for core in domain.cores]


@pytest.mark.parametrize(("domain", "arguments", "core"), CORES, ids=[core.name for _, _, core in CORES])
def test_every_algorithm_is_defined_everywhere_and_its_slips_differ(domain: str, arguments: str, core: Core) -> None:
    def source(code: str, k: int) -> str:
        body = textwrap.indent(code.format(k=k), "    ")
        return f"def f({arguments}):\n{body}\n    return {'xs' if core.gives == 'list' else 'n'}\n"

    constants = (2, 3, 4, 7) if core.draw else (0,)
    meant = {k: results(source(core.code, k), inputs(domain)) for k in constants}
    assert RAISED not in [value for values in meant.values() for value in values]
    assert {type(value) for values in meant.values() for value in values} == {list if core.gives == "list" else int}
    for old, new in core.slips:
        slipped = core.code.replace(old, new)
        assert slipped != core.code, old
        assert any(results(source(slipped, k), inputs(domain)) != meant[k] for k in constants), (old, new)
    assert inputs(domain) == inputs.__wrapped__(domain), "it changed its arguments"


# Worked by hand.
KNOWN = {
    "longest_run": (([2, 2, 1, 1, 1, 2],), 3),
    "prefix_sums": (([3, -1, 4],), [3, 2, 6]),
    "inversions": (([3, 1, 2],), 2),
    "max_subarray": (([1, -2, 3, 4, -1],), 7),
    "best_trade": (([5, 1, 4, 2],), 3),
    "next_greater": (([1, 3, 2],), [3, -1, -1]),
    "no_neighbours": (([2, 7, 9, 3],), 11),
    "rising_subsequence": (([3, 1, 2, 2, 5],), 3),
    "common_with_reverse": (([1, 2, 3, 1],), 3),
    "sort_by_count": (([4, 1, 4, 2, 2],), [2, 4, 1]),
    "degrees": ((3, [[0, 1], [1, 1]]), [1, 2, 0]),
    "components": ((4, [[0, 1], [2, 2]]), 3),
    "largest_component": ((4, [[0, 1], [1, 3]]), 3),
    "distances": ((4, [[1, 0], [1, 2]]), [0, 1, 2, -1]),
    "reachable": ((3, [[1, 0], [0, 2]]), 2),
    "spanning_weight": ((4, [[0, 3], [0, 1], [1, 3]]), 3),
    "topological": ((4, [[3, 1], [2, 1], [0, 0]]), [2, 3, 1]),
    "triangles": ((4, [[0, 1], [1, 2], [2, 0], [2, 3]]), 1),
    "common_letters": (("aabc", "abbd"), 2),
    "common_substring": (("xabcy", "zabc"), 3),
    "common_subsequence": (("abcd", "acbd"), 3),
    "divisors": ((-12,), 6),
    "prime_factors": ((60,), [2, 2, 3, 5]),
    "collatz": ((5,), 8),  # from 6: 3, 10, 5, 16, 8, 4, 2, 1
}
KNOWN_4 = {  # with the constant 4
    "pairs": (([1, 2, 2, 3],), 2),
    "sort_by_remainder": (([5, 4, 1, 8],), [4, 8, 1, 5]),
    "coin_ways": (([1, 2, 2],), 3),
    "fewest_coins": (([1, 3, 3],), 2),
    "subsets": (([1, 3, 3, 4],), 3),
    "edit_distance": (("kitten", "sitting"), 5),  # two substitutions for a strike and an insertion each, and one insertion
    "occurrences": (("rabbbit", "rabbit"), 3),
    "gcd": ((-6,), 2),
    "base_digits": ((27,), [3, 2, 1]),
    "power": ((1,), 2),
    "fibonacci": ((7,), 1),
}


def test_algorithms_give_what_is_worked_by_hand() -> None:
    for domain, arguments, core in CORES:
        args, expected = KNOWN_4[core.name] if core.draw else KNOWN[core.name]
        body = textwrap.indent(core.code.format(k=4), "    ")
        source = f"def f({arguments}):\n{body}\n    return {'xs' if core.gives == 'list' else 'n'}\n"
        assert results(source, [args]) == [expected], (domain, core.name)
