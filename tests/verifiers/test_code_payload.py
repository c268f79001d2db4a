"""What a code task's payload may say: every mistake is named, and none is taken out on an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flywheel.types import Task, Trajectory
from flywheel.verifiers.code import CodeVerifier
from flywheel.verifiers.code_payload import CodePayload

CALL: dict[str, Any] = {"kind": "call", "args": [1], "kwargs": {}, "expected": 2}


def payload(**fields: Any) -> dict[str, Any]:
    return {"entry_point": "f", "hidden_tests": [CALL], **fields}


def test_defaults() -> None:
    read = CodePayload.read({"entry_point": "f", "hidden_tests": [{"kind": "call", "expected": None}]})
    assert read.public_tests == ()
    assert read.hidden_tests == ({"kind": "call", "args": [], "kwargs": {}, "expected": None},)
    assert (read.wall_s, read.memory_mb) == (None, None)


def test_a_whole_payload_is_read() -> None:
    tests = [{"kind": "assert", "source": "assert f(1) == 2"}, {"kind": "io", "stdin": "", "stdout": "x"}]
    limits = {"wall_s": 1.5, "memory_mb": 64}
    read = CodePayload.read({"entry_point": None, "public_tests": tests, "hidden_tests": [], "limits": limits, "reference": "…"})
    assert (read.entry_point, list(read.public_tests), read.hidden_tests) == (None, tests, ())
    assert (read.wall_s, read.memory_mb) == (1.5, 64)


@pytest.mark.parametrize("empty", [{"limits": None}, {"limits": {}}, {"limits": {"wall_s": None}}, {"public_tests": None}])
def test_null_is_as_good_as_absent(empty: dict[str, Any]) -> None:
    assert CodePayload.read(payload(**empty)) == CodePayload.read(payload())


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "entry_point is missing"),
    "entry_point a number": (payload(entry_point=5), "entry_point is 5, expected a function's name"),
    "entry_point no name": (payload(entry_point="a.b"), "entry_point is 'a.b'"),
    "entry_point a keyword": (payload(entry_point="if"), "entry_point is 'if'"),
    "entry_point a keyword of JavaScript": (payload(entry_point="delete", language="javascript"), "entry_point is 'delete'"),
    "no tests": (payload(hidden_tests=[]), "no tests at all"),
    "tests misspelt": ({"entry_point": "f", "public_tests": [CALL], "hidden_test": [CALL]}, "'hidden_test'; did you mean 'hidden_tests'"),
    "tests an object": (payload(hidden_tests={"0": CALL}), "hidden_tests is an object, expected a list"),
    "a test that is text": (payload(hidden_tests=[CALL, "x"]), "hidden_tests[1] is 'x', expected an object"),
    "no kind": (payload(hidden_tests=[{"args": [], "expected": 1}]), "hidden_tests[0] has the kind None"),
    "unknown kind": (
        payload(public_tests=[{**CALL, "kind": "cal"}]),
        "public_tests[0] has the kind 'cal', expected one of call, io, assert",
    ),
    "kind a list": (payload(hidden_tests=[{**CALL, "kind": ["call"]}]), "the kind a list"),
    "call without expected": (payload(hidden_tests=[{"kind": "call", "args": [1]}]), "a call test, lacks 'expected'"),
    "call with another field": (payload(hidden_tests=[{**CALL, "want": 2}]), "has no field 'want'"),
    "args an object": (payload(hidden_tests=[{**CALL, "args": {"x": 1}}]), "hidden_tests[0].args is an object, expected a list"),
    "args null": (payload(hidden_tests=[{**CALL, "args": None}]), "args is None, expected a list"),
    "kwargs a list": (payload(hidden_tests=[{**CALL, "kwargs": []}]), "kwargs is a list, expected an object"),
    "args not data": (payload(hidden_tests=[{**CALL, "args": [{1, 2}]}]), "not plain JSON data"),
    "expected beyond what is sent": (
        payload(hidden_tests=[{**CALL, "expected": [0] * 600_000}]),
        "that an answer can give back: too large",
    ),
    "call of a program": (payload(entry_point=None), "hidden_tests[0] is a call test, and entry_point is null"),
    "io without stdin": (payload(hidden_tests=[{"kind": "io", "stdout": "x"}]), "an io test, lacks 'stdin'"),
    "io without stdout": (payload(hidden_tests=[{"kind": "io", "stdin": "x"}]), "an io test, lacks 'stdout'"),
    "io with another comparison": (
        payload(hidden_tests=[{"kind": "io", "stdin": "1", "stdout": "2", "compare": "floats"}]),
        "compare is 'floats', expected one of exact, numbers",
    ),
    "io with a comparison of no kind": (
        payload(hidden_tests=[{"kind": "io", "stdin": "1", "stdout": "2", "compare": []}]),
        "compare is a list",
    ),
    "io with numbers": (payload(hidden_tests=[{"kind": "io", "stdin": "1", "stdout": 2}]), "stdout is 2, expected a string"),
    "assert without source": (payload(hidden_tests=[{"kind": "assert"}]), "an assert test, lacks 'source'"),
    "assert with lines": (payload(hidden_tests=[{"kind": "assert", "source": ["assert f"]}]), "source is a list, expected Python source"),
    "assert of nothing": (payload(hidden_tests=[{"kind": "assert", "source": " "}]), "expected Python source"),
    "assert not Python": (payload(hidden_tests=[{"kind": "assert", "source": "assert f(1) = 2"}]), "is not Python"),
    "assert with a null": (payload(hidden_tests=[{"kind": "assert", "source": "assert f(1)\0"}]), "is not Python"),
    "limits a number": (payload(limits=5), "limits is 5, expected an object"),
    "limits misspelt": (payload(limits={"cpu_s": 1}), "limits has no field 'cpu_s'"),
    "wall_s text": (payload(limits={"wall_s": "1"}), "limits.wall_s is '1', expected seconds above 0"),
    "wall_s zero": (payload(limits={"wall_s": 0}), "limits.wall_s is 0"),
    "wall_s true": (payload(limits={"wall_s": True}), "limits.wall_s is True"),
    "wall_s infinite": (payload(limits={"wall_s": float("inf")}), "limits.wall_s is inf"),
    "wall_s no number": (payload(limits={"wall_s": float("nan")}), "limits.wall_s is nan"),
    "memory_mb negative": (payload(limits={"memory_mb": -1}), "limits.memory_mb is -1, expected a whole number"),
    "memory_mb a fraction": (payload(limits={"memory_mb": 0.5}), "limits.memory_mb is 0.5"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("answer", ["def f(x):\n    return 2\n", None])
def test_a_malformed_payload_is_named_whatever_the_answer(name: str, answer: str | None) -> None:
    fields, why = MALFORMED[name]
    task = Task.create(env="code", family="test", prompt="", payload=fields) if _is_json(fields) else _unhashed(fields)
    attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=answer)
    with pytest.raises(ValueError, match=r"^code payload: ") as caught:
        CodeVerifier().verify(task, attempt)
    assert why in str(caught.value)


def test_a_message_shows_nothing_that_a_hidden_test_expects() -> None:
    secret = [98765] * 3
    for fields in (payload(hidden_tests=[{**CALL, "args": {"x": secret}, "expected": secret}]), payload(hidden_tests={"tests": secret})):
        with pytest.raises(ValueError, match="code payload") as caught:
            CodePayload.read(fields)
        assert "98765" not in str(caught.value)


def _is_json(fields: dict[str, Any]) -> bool:
    try:
        return bool(json.dumps(fields))
    except TypeError:
        return False


def _unhashed(fields: dict[str, Any]) -> Task:
    return Task(id="t", env="code", family="test", prompt="", payload=fields)
