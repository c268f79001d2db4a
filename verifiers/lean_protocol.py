"""What a Lean backend is, whichever way it reaches Lean: one protocol and the records that it speaks in.

`elaborate` runs commands after a header and returns what Lean said about each; proofs are judged with it (`lean_check`). `open_goal`
and `run_tactic` step through a proof. A backend says ``limit`` or ``kills_grader`` where text broke Lean itself, and raises
`VerifierError` where something broke that is nobody's fault.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flywheel.errors import VerifierError

Breakage = Literal["limit", "kills_grader"]
INSTALL = "curl -sSf https://elan.lean-lang.org/elan-init.sh | sh -s -- -y --default-toolchain leanprover/lean4:stable"
# What Lean says where an import can't be found; it is the machine that lacks a library, not the task that is wrong.
_NO_IMPORT = re.compile(
    r"unknown (package|module)|object file .* does not exist|bad import|could not be loaded|failed to (open|read)", re.S
)


class LeanMissingError(VerifierError):
    """There is no Lean here, or not the part of it that is needed; the message says how to get it."""


class BrokeError(Exception):
    """A Lean process ended, or was ended, while it worked on a request.

    Args:
        cause: ``limit`` (CPU time, memory or output), ``kills_grader`` (a crash, or answers out of step) or ``stalled`` (time passed
            and no CPU time was used).
        detail: What was seen.
        own: Whether the request alone is to blame, whatever else the process had done before.
    """

    def __init__(self, cause: Literal["limit", "kills_grader", "stalled"], detail: str, *, own: bool = False) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail, self.own = cause, detail, own


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One thing that Lean said, at a line (from 1) and column (from 0) of the command that it was about."""

    severity: Literal["error", "warning", "info"]
    line: int
    column: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Elaborated:
    """What Lean said about each command, or what the commands did to Lean."""

    messages: tuple[tuple[Message, ...], ...] = ()
    broke: Breakage | None = None
    detail: str = ""
    cpu_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Theorem:
    """What is to be proved: imports and opens, the statement up to ``:=``, and the Lake project that it lives in, if any."""

    header: str
    statement: str
    project: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofState:
    """Open goals after some tactics; none left means that Lean's tactic mode is satisfied, which is not yet a proof.

    `handle` is the backend's own; a state outlives it, because its tactics can be run again.
    """

    theorem: Theorem
    tactics: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()
    handle: Any = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a tactic led to: a state, or why there is none."""

    state: ProofState | None = None
    error: str = ""


class LeanBackend(Protocol):
    """Reaches Lean. Safe to call from several threads; every call blocks."""

    name: str

    @property
    def version(self) -> str:
        """Lean's version and the backend's.

        Raises:
            LeanMissingError: there is none.
        """
        ...

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands one after another, after a header.

        Raises:
            ValueError: the header itself is refused.
            VerifierError: Lean can't be reached, or broke and not by these commands.
        """
        ...

    def open_goal(self, theorem: Theorem) -> ProofState:
        """Return the state before the first tactic.

        Raises:
            ValueError: the statement is refused.
            VerifierError: Lean can't be reached.
        """
        ...

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        """Run one tactic, which the lexical gate has let through.

        Raises:
            VerifierError: Lean can't be reached.
        """
        ...

    def close(self) -> None:
        """End every process."""
        ...


def header_error(messages: Sequence[Message]) -> ValueError | VerifierError | None:
    """Return what to raise for what Lean said about a header; None where it said nothing against it."""
    error = next((message for message in messages if message.severity == "error"), None)
    if error is None:
        return None
    text = error.text[:500]
    if _NO_IMPORT.search(text):
        return LeanMissingError(
            f"the task's header needs what this Lean does not have: {text}; set `project` to a Lake project that has it"
        )
    return ValueError(f"lean payload: the header does not elaborate (line {error.line}): {text}")
