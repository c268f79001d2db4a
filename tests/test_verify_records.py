"""`python -m flywheel.verify` on the task records that DESIGN-style data sets hold, through the real verifiers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CALL: dict[str, Any] = {"kind": "call", "args": [2], "expected": 4}


def line(env: str, payload: object, answer: object, **fields: object) -> str:
    return json.dumps({"task": {"env": env, "prompt": "Do it.", "payload": payload, **fields}, "answer": answer})


def code(answer: object, *hidden: object, entry_point: str | None = "double", **fields: object) -> str:
    return line("code", {"entry_point": entry_point, "hidden_tests": list(hidden)}, answer, **fields)


def molecule(answer: object, *constraints: object, **fields: object) -> str:
    return line("chemistry", {"constraints": list(constraints)}, answer, **fields)


DOUBLE = "def double(x):\n    return 2 * x\n"
LIMITED = {"entry_point": "double", "public_tests": [CALL], "hidden_tests": [CALL], "limits": {"wall_s": 2, "memory_mb": 256}}
GOOD = [
    (line("code", LIMITED, DOUBLE, id="he-1", family="mine", params={"size": 1}, seed=3, split="heldout", tier="L2"), "solved"),
    (code(DOUBLE, {"kind": "call", "kwargs": {"x": 5}, "expected": 10}, {"kind": "assert", "source": "assert double(7) == 14"}), "solved"),
    (code(DOUBLE, {"kind": "call", "args": [1], "expected": 3}), "failed"),
    (code(None, CALL), "failed"),
    (code("print(int(input()) * 2)", {"kind": "io", "stdin": "3\n", "stdout": "6"}, entry_point=None), "solved"),
    (molecule("CCC", {"kind": "valid"}, {"kind": "formula", "value": "C3H8"}, {"kind": "property", "name": "mw", "max": 50}), "solved"),
    (molecule("CCN", {"kind": "smiles", "value": "CCO", "stereo": True}, {"kind": "functional_group", "name": "alcohol"}), "failed"),
    (molecule("CC(", {"kind": "valid"}), "failed"),
]
BAD = [
    (code(DOUBLE, {"kind": "call", "args": [2]}), "code payload: hidden_tests[0], a call test, lacks 'expected'"),
    (code(DOUBLE, {**CALL, "kind": "cal"}), "code payload: hidden_tests[0] has the kind 'cal'"),
    (code(None), "code payload: it has no tests at all"),
    (code(DOUBLE, CALL, difficulty=3), "task record: unknown fields ['difficulty']"),
    (code(DOUBLE, CALL, seed="x"), "task record: seed is 'x', expected a whole number"),
    (code(DOUBLE, CALL, split="test"), "task record: split is 'test', expected one of train, heldout"),
    (molecule("CCC", {"kind": "formula", "value": "C3H8", "colour": 1}), "constraint 'formula' has no field 'colour'"),
    (molecule("CCC"), "expected a list with at least one constraint"),
    (line("code", {"entry_point": "f"}, "x", prompt=5), "task record: prompt is 5"),
    ("not json", "the line is not JSON"),
]


@pytest.fixture(scope="module")
def replies() -> tuple[list[dict[str, Any]], int]:
    mixed = [text for pair in zip(GOOD, BAD, strict=False) for text, _ in pair] + [text for text, _ in BAD[len(GOOD) :]]
    done = subprocess.run(
        [sys.executable, "-m", "flywheel.verify", "--workers", "2"],
        input="\n".join(mixed),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return [json.loads(reply) for reply in done.stdout.splitlines()], done.returncode


def test_every_line_has_its_reply_and_the_status_says_that_some_were_malformed(replies: tuple[list[dict[str, Any]], int]) -> None:
    found, status = replies
    assert status == 1
    verdicts, errors = [reply for reply in found if "outcome" in reply], [reply for reply in found if "error" in reply]
    assert [reply["outcome"] for reply in verdicts] == [outcome for _, outcome in GOOD]
    for reply, (_, why) in zip(errors, BAD, strict=True):
        assert why in reply["error"]
        assert set(reply) == {"error", "line"}
    assert [reply["line"] for reply in errors] == [2, 4, 6, 8, 10, 12, 14, 16, 17, 18]


def test_an_environment_that_is_not_there_is_a_clear_error() -> None:
    record = line("no-such-thing", {}, "rfl")
    done = subprocess.run([sys.executable, "-m", "flywheel.verify"], input=record, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "unknown environment 'no-such-thing': known: " in json.loads(done.stdout)["error"]
