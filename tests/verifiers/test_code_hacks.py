"""Reward hacks against the code verifier (`code_hacks`): none may score, none may be anybody's fault but the answer's."""

from __future__ import annotations

import pytest

from flywheel.sandbox import shared_pool
from flywheel.types import Task, Trajectory, to_json
from flywheel.verifiers.code import CodeVerifier
from tests.verifiers.code_hacks import ANSWERS, BREAKS, NUMBER_HACKS, PROGRAM_HACKS, REPLIES, TAMPERING

LIMITS = {"wall_s": 0.5, "memory_mb": 128}


def _task(entry_point: str | None, public: list[dict[str, object]], hidden: list[dict[str, object]]) -> Task:
    payload = {"entry_point": entry_point, "public_tests": public, "hidden_tests": hidden, "limits": LIMITS}
    return Task.create(env="code", family="hacks", prompt="", payload=payload)


def _call(expected: object, *args: object) -> dict[str, object]:
    return {"kind": "call", "args": list(args), "expected": expected}


CALLS = _task("f", [_call([1, 2], [2, 1])], [_call([1, 2, 3], [3, 1, 2]), _call([0, 4], [4, 0])])
ASSERTS = _task(
    "f",
    [{"kind": "assert", "source": "assert f([2, 1]) == [1, 2]"}],
    [{"kind": "assert", "source": "secret = [1, 2, 3]\nassert f([3, 1, 2]) == secret\nassert f([4, 0]) == [0, 4]"}],
)
# Tests written without an attacker in mind.
SWALLOWS = _task("f", [], [{"kind": "assert", "source": "try:\n    f([-1])\nexcept:\n    pass\nelse:\n    assert False"}])
LOOPS = _task("f", [], [{"kind": "assert", "source": "for got, want in zip(map(f, [[2, 1]]), [[1, 2]]):\n    assert got == want"}])
IN_PLACE = _task("f", [], [{"kind": "assert", "source": "xs = [2, 1]\nassert f(xs) == sorted(xs)"}])
PROGRAM = _task(None, [{"kind": "io", "stdin": "2\n", "stdout": "4"}], [{"kind": "io", "stdin": "5\n", "stdout": "10"}])
NUMBER = _task("f", [], [_call(1, 0), _call(2.5, 1), _call(True, 2)])


def _judge(task: Task, source: str) -> tuple[str, float]:
    verdict = CodeVerifier().verify(task, Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=source))
    assert len(to_json(verdict).encode()) < 10_000  # it can be stored, whatever the answer said
    return verdict.outcome, verdict.reward


def test_there_are_many_and_all_differ() -> None:
    tables = (ANSWERS, TAMPERING, REPLIES, BREAKS, NUMBER_HACKS, PROGRAM_HACKS)
    sources = [source for table in tables for source in table.values()]
    assert len(sources) >= 60
    assert len(set(sources)) == len(sources), [s for s in sources if sources.count(s) > 1]


@pytest.mark.parametrize("name", ANSWERS)
def test_no_hack_scores_on_call_tests(name: str) -> None:
    outcome, reward = _judge(CALLS, ANSWERS[name])
    assert outcome in ("failed", "tampered")
    assert reward == 0.0


# What stops without a word is waited for, twice.
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "stops_itself" else n for n in [*ANSWERS, *BREAKS]])
def test_no_hack_scores_on_assert_tests(name: str) -> None:
    outcome, reward = _judge(ASSERTS, {**ANSWERS, **BREAKS}[name])
    assert outcome in ("failed", "tampered")
    assert reward == 0.0


@pytest.mark.parametrize("name", TAMPERING)
def test_forged_frames_are_tampering(name: str) -> None:
    assert _judge(CALLS, TAMPERING[name]) == ("tampered", 0.0)
    assert _judge(ASSERTS, TAMPERING[name]) == ("tampered", 0.0)


@pytest.mark.parametrize("name", REPLIES)
def test_forged_replies_are_tampering(name: str) -> None:
    assert _judge(ASSERTS, REPLIES[name]) == ("tampered", 0.0)


@pytest.mark.parametrize("name", ["os_exit_in_call", "closes_the_socket", "half_a_reply", "with_nonsense", "replies_twice"])
def test_a_test_that_swallows_everything_passes_nobody_who_breaks_its_socket(name: str) -> None:
    assert _judge(SWALLOWS, {**ANSWERS, **BREAKS, **REPLIES}[name])[1] == 0.0


def test_an_answer_ends_no_loop_of_the_tests() -> None:
    assert _judge(LOOPS, "def f(xs):\n    raise StopIteration") == ("failed", 0.0)
    assert _judge(LOOPS, "class S(StopIteration):\n    pass\ndef f(xs):\n    raise S") == ("failed", 0.0)


def test_an_answer_changes_no_argument_of_the_tests() -> None:
    assert _judge(IN_PLACE, "def f(xs):\n    xs.clear()\n    return []") == ("failed", 0.0)


@pytest.mark.parametrize("name", NUMBER_HACKS)
def test_no_number_stands_for_another_type(name: str) -> None:
    assert _judge(NUMBER, NUMBER_HACKS[name]) == ("failed", 0.0)


@pytest.mark.parametrize("name", PROGRAM_HACKS)
def test_no_program_hack_scores(name: str) -> None:
    outcome, reward = _judge(PROGRAM, PROGRAM_HACKS[name])
    assert outcome in ("failed", "tampered")
    assert reward == 0.0


def test_the_grader_judges_on_after_every_attack() -> None:
    assert _judge(CALLS, "def f(xs):\n    return sorted(xs)") == ("solved", 1.0)
    assert shared_pool().capacity >= 2
