"""What every code family does with its reference: check knobs, show it as actions, and hold it against the verifier."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from flywheel.contracts import Knob
from flywheel.types import Knobs, Task, Trajectory
from flywheel.verifiers.code import CodeVerifier

LIMITS = {"wall_s": 2.0, "memory_mb": 256}


@functools.lru_cache(maxsize=4096)
def compiled(source: str) -> Callable[..., Any]:
    """Return the function of a reference. Only sources that this package makes come here, never a model's."""
    namespace: dict[str, Any] = {}
    exec(compile(source, "<reference>", "exec"), namespace)
    function: Callable[..., Any] = namespace["f"]
    return function


def check_knobs(family: str, knobs: Mapping[str, Knob], params: Knobs) -> None:
    """Check that every knob is set, within its range.

    Raises:
        ValueError: a knob is missing or out of its range.
    """
    for name, knob in knobs.items():
        value = params.get(name)
        if not isinstance(value, int) or not knob.low <= value <= knob.high:
            raise ValueError(f"{family}: knob {name} is {value!r}, expected an integer from {knob.low} to {knob.high}")


def demonstrate(task: Task) -> list[str]:
    """Return the reference actions: test the reference, then submit it."""
    source = task.payload["reference"]
    return [
        json.dumps({"name": "run_tests", "arguments": {"code": source}}, ensure_ascii=False),
        json.dumps({"name": "submit", "arguments": {}}, ensure_ascii=False),
    ]


def validate(task: Task, trivial: str) -> None:
    """Check that the reference passes the verifier and that a trivial answer fails.

    Raises:
        ValueError: the task is not fit for training.
    """
    for source, wanted in ((str(task.payload["reference"]), "solved"), (trivial, "failed")):
        attempt = Trajectory(task_id=task.id, turns=(), stop_reason="terminated", answer=source)
        verdict = CodeVerifier().verify(task, attempt)
        if verdict.outcome != wanted:
            raise ValueError(f"task {task.id}: {source!r} is {verdict.outcome}, expected {wanted}: {verdict.evidence}")
