"""The Lean verifier: an answer is solved if Lean's kernel takes it as a proof of the task's own statement, on allowed axioms.

Payload: `header` (imports, opens), `statement` (a theorem up to and without ``:=``), `allowed_axioms` (by default propext,
Classical.choice and Quot.sound) and `project` (a Lake project's folder, or null for Lean's own library). The answer is what follows
``:=``: a term, or ``by`` and tactics.

Layers, each a check of its own: the lexical gate (`lean_gate`), which needs no Lean; elaboration from scratch under a name with a nonce,
the statement compared with itself elaborated alone, axioms read from a report that an answer can't forge (`lean_check`); and a replay by
another kernel process where a checker is installed (`lean_recheck`). What can't be judged is never solved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flywheel import sandbox
from flywheel.types import Check, Task, Trajectory, Verdict
from flywheel.verifiers.lean_backends import acquire_shared, release_shared
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_gate import read_statement, refuse_answer
from flywheel.verifiers.lean_protocol import LeanBackend, Theorem
from flywheel.verifiers.lean_recheck import Rechecker
from flywheel.verifiers.lean_toolchain import Settings
from flywheel.verifiers.payload_fields import refuse_misspelt

STANDARD_AXIOMS = ("propext", "Classical.choice", "Quot.sound")
FIELDS = ("header", "statement", "allowed_axioms", "project")
# No list of allowed axioms may make an open proof a proof.
NEVER_ALLOWED = frozenset({"sorryAx", "lcProof", "lcUnreachable"})
NEEDED = frozenset({"gate", "statement", "elaborates", "statement_match", "axioms"})
MAX_EVIDENCE_CHARS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class LeanPayload:
    """A Lean task's payload."""

    theorem: Theorem
    allowed_axioms: tuple[str, ...]

    @staticmethod
    def read(payload: Mapping[str, Any]) -> LeanPayload:
        """Return the payload that a task holds; fields of other names are left alone, unless they look like a misspelt one.

        Raises:
            ValueError: it is not a Lean task's payload; the message says where.
        """
        refuse_misspelt(payload, FIELDS, "lean")
        header, statement, project = payload.get("header", ""), payload.get("statement"), payload.get("project")
        if not isinstance(header, str):
            raise ValueError(f"lean payload: header is {header!r}, expected a string of imports and opens")
        if not isinstance(statement, str):
            raise ValueError(f"lean payload: statement is {statement!r}, expected a theorem up to and without ':='")
        if project is not None and not isinstance(project, str):
            raise ValueError(f"lean payload: project is {project!r}, expected a folder, or null for Lean's own library")
        axioms = payload.get("allowed_axioms")
        axioms = STANDARD_AXIOMS if axioms is None else axioms
        if not isinstance(axioms, list | tuple) or not all(isinstance(axiom, str) for axiom in axioms):
            raise ValueError(f"lean payload: allowed_axioms is {axioms!r}, expected a list of names")
        if NEVER_ALLOWED & set(axioms):
            raise ValueError(f"lean payload: allowed_axioms has {sorted(NEVER_ALLOWED & set(axioms))[0]!r}, which proves anything")
        try:
            read_statement(statement)
        except ValueError as error:
            raise ValueError(f"lean payload: {error}") from None
        theorem = Theorem(header=header.replace("\r\n", "\n"), statement=statement, project=project)
        return LeanPayload(theorem=theorem, allowed_axioms=tuple(axioms))


class LeanVerifier:
    """Judges ``trajectory.answer``, what follows ``:=``.

    Args:
        backend: How Lean is reached; the process's shared backend by default, which is looked for when a proof first needs it.
        rechecker: The independent replay; by the settings by default.
    """

    name = "lean"
    version = "3"

    def __init__(self, *, backend: LeanBackend | None = None, rechecker: Rechecker | None = None) -> None:
        self._own, self._rechecker = backend, rechecker
        self._checker: ProofChecker | None = None
        self._lock = threading.Lock()

    def verify(self, task: Task, trajectory: Trajectory) -> Verdict:
        """Return the verdict on a proof.

        Raises:
            InfraError: there is no Lean here, or it broke and not by the answer.
            ValueError: the task's payload is malformed, or its statement does not elaborate.
        """
        started = time.monotonic()
        payload = LeanPayload.read(task.payload)
        answer = trajectory.answer
        if answer is None or not answer.strip():
            return self._verdict([Check(name="no_answer", passed=False, detail="no answer")], started)
        refusal = refuse_answer(answer)
        if refusal is not None:
            return self._verdict([Check(name="gate", passed=False, detail=f"{refusal.rule}: {refusal}")], started)
        found = self._proofs().check(payload.theorem, answer, payload.allowed_axioms)
        checks = list(found.checks)
        if found.accepted is not None:
            replayed = self._replay().check(found.accepted)
            if replayed is not None:
                checks.append(replayed)
        return self._verdict(checks, started)

    def verify_many(self, pairs: Sequence[tuple[Task, Trajectory]]) -> list[Verdict]:
        """Return the verdicts on several attempts, in order: their statements are read together, their proofs judged side by side.

        Raises:
            InfraError: there is no Lean here, or it broke and not by an answer.
            ValueError: a task's payload is malformed, or its statement does not elaborate.
        """
        asked = [(LeanPayload.read(task.payload).theorem, trajectory.answer or "") for task, trajectory in pairs]
        theorems = [theorem for theorem, answer in asked if refuse_answer(answer) is None]
        if theorems:
            self._proofs().ask_all(theorems)
        with ThreadPoolExecutor(Settings.read().workers, thread_name_prefix="lean-verify") as threads:
            return list(threads.map(lambda pair: self.verify(*pair), pairs))

    def close(self) -> None:
        """Give the shared backend back, or end one's own."""
        with self._lock:
            checker, self._checker = self._checker, None
        if self._own is not None:
            self._own.close()
        elif checker is not None:
            release_shared()

    def _proofs(self) -> ProofChecker:
        with self._lock:
            if self._checker is None:
                self._checker = ProofChecker(self._own or acquire_shared())
            return self._checker

    def _replay(self) -> Rechecker:
        with self._lock:
            if self._rechecker is None:
                self._rechecker = Rechecker(sandbox=sandbox.current().backend)
            return self._rechecker

    def _verdict(self, checks: Sequence[Check], started: float) -> Verdict:
        solved = {check.name for check in checks} >= NEEDED and all(check.passed for check in checks)
        evidence = next((f"{check.name}: {check.detail}" for check in checks if not check.passed), "Lean's kernel accepts the proof")
        return Verdict(
            outcome="solved" if solved else "failed",
            reward=1.0 if solved else 0.0,
            checks=tuple(checks),
            evidence=evidence[:MAX_EVIDENCE_CHARS],
            verifier=self.name,
            verifier_version=self.version,
            duration_s=time.monotonic() - started,
        )
