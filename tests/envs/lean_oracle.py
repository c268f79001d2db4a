"""A Lean backend that has read the answers: it takes the references that the task families made in this process, and no other proof.

For what needs *a* judge of proofs where no Lean is installed. `learning` makes the families tell it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from flywheel.envs.lean import family
from flywheel.types import Task
from flywheel.verifiers.lean_process import read_messages
from flywheel.verifiers.lean_protocol import Elaborated
from flywheel.verifiers.lean_scripts import ScriptedTactics
from tests.verifiers.scripted_lean import Script

SCRIPT = Script()
SCRIPT.lemmas = ["Nat.add_comm : ∀ (n m : Nat), n + m = m + n", "Nat.add_assoc : ∀ (n m k : Nat), n + m + k = n + (m + k)"]


class Oracle(ScriptedTactics):
    """The backend; every one shares what is known."""

    name = "oracle"
    version = "oracle"

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands by the script."""
        known: dict[str, Any] = {}
        messages = []
        for command in commands:
            said, known, _ = SCRIPT.elaborate(command, known)
            messages.append(read_messages({"messages": said}))
        return Elaborated(messages=tuple(messages))

    def close(self) -> None:
        """Nothing to end."""


def learn(statement: str, *answers: str) -> None:
    """Make answers proofs of a statement."""
    SCRIPT.learn(statement.removeprefix("theorem "), list(answers), [])


@contextlib.contextmanager
def learning() -> Iterator[None]:
    """Make the oracle the process's backend, and have it learn the reference of every theorem that is made, until this ends."""
    original = family.task_of

    def told(signature: str, name: str, **rest: Any) -> Task:
        task = original(signature, name, **rest)
        if "reference" in task.payload:
            learn(task.payload["statement"], task.payload["reference"])
        return task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "task_of", told)
        patch.setattr(SCRIPT, "proofs", copy.deepcopy(SCRIPT.proofs))
        patch.setenv("FLYWHEEL_LEAN_BACKEND", f"{__name__}:Oracle")
        patch.setenv("FLYWHEEL_LEAN_REPLAY", "never")
        yield
