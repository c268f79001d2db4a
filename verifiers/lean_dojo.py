"""The ``dojo`` backend: tactics through LeanDojo's `Dojo` on theorems of traced projects; whole proofs through another backend.

LeanDojo replaces the theorem's own proof in its own file by a prompt, so a state is the one that the human had. It starts ``lake env lean``
itself and as this user, outside any sandbox: only the lexical gate stands between a tactic and the machine. It is never chosen by
itself, and what it says is never a verdict: proofs are checked from scratch by the backend that it is given.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flywheel.errors import VerifierError
from flywheel.verifiers.lean_protocol import Elaborated, LeanBackend, ProofState, Step, Theorem
from flywheel.verifiers.lean_toolchain import Settings

_entering = threading.Lock()  # LeanDojo changes the process's working folder while it starts


@dataclass(slots=True)
class _Session:
    """An open `Dojo`, and LeanDojo's state after each run of tactics."""

    dojo: Any
    first: Any
    serial: int
    lock: threading.Lock = field(default_factory=threading.Lock)


class DojoBackend:
    """A `LeanBackend` on traced projects; `Theorem.project` names the traced folder.

    Args:
        settings: Limits of a tactic, and of the backend that checks proofs.
        inner: That backend; the REPL or the plain binary by default.
        max_open: Theorems open at once; the least recently used is closed.
    """

    name = "dojo"

    def __init__(self, settings: Settings | None = None, *, inner: LeanBackend | None = None, max_open: int = 4) -> None:
        from flywheel.verifiers.lean_backends import make_backend

        self.settings = settings or Settings.read()
        self._inner = inner or make_backend(Settings.read_as("auto"))
        self._max_open = max_open
        self._open: OrderedDict[Theorem, _Session] = OrderedDict()
        self._known: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._num = 0

    @property
    def version(self) -> str:
        """LeanDojo's version, and the checking backend's."""
        return f"dojo {_lean_dojo().__version__}, {self._inner.version}"

    def elaborate(self, header: str, commands: Sequence[str], *, project: str | None = None) -> Elaborated:
        """Run commands by the checking backend; see `LeanBackend`."""
        return self._inner.elaborate(header, commands, project=project)

    def open_goal(self, theorem: Theorem) -> ProofState:
        """Return the state before the first tactic; see `LeanBackend`."""
        session = self._session(theorem)
        return ProofState(theorem=theorem, goals=_goals(session.first.pp), handle=(session.serial, session.first))

    def run_tactic(self, state: ProofState, tactic: str) -> Step:
        """Run one tactic, in a Dojo opened anew and after the state's own tactics where its Dojo is gone; see `LeanBackend`."""
        lean_dojo = _lean_dojo()
        for _ in range(2):
            session = self._session(state.theorem)
            try:
                with session.lock:
                    return self._run(session, state, tactic)
            except (lean_dojo.DojoCrashError, lean_dojo.DojoTacticTimeoutError) as error:
                self._forget(state.theorem, session)
                said = "reached a limit" if isinstance(error, lean_dojo.DojoTacticTimeoutError) else "broke Lean"
        return Step(error=f"the tactic {said}")

    def close(self) -> None:
        """End every Dojo, and the checking backend."""
        with self._lock:
            sessions = list(self._open.items())
        for theorem, session in sessions:
            self._forget(theorem, session)
        self._inner.close()

    def _run(self, session: _Session, state: ProofState, tactic: str) -> Step:
        serial, at = state.handle if state.handle is not None else (0, None)
        earlier: tuple[str, ...] = ()
        if serial != session.serial:
            at, earlier = session.first, state.tactics
        goals: tuple[str, ...] = ()
        for one in (*earlier, tactic):
            if at is None:
                return Step(error="no goals")
            result = session.dojo.run_tac(at, one)
            kind = type(result).__name__
            if kind == "ProofFinished":
                at, goals = None, ()
            elif kind == "TacticState":
                at, goals = result, _goals(result.pp)
            else:
                return Step(error=getattr(result, "error", "the tactic leaves a sorry"))
        handle = (session.serial, at)
        return Step(state=ProofState(theorem=state.theorem, tactics=(*state.tactics, tactic), goals=goals, handle=handle))

    def _session(self, theorem: Theorem) -> _Session:
        with self._lock:
            if theorem in self._open:
                self._open.move_to_end(theorem)
                return self._open[theorem]
        lean_dojo = _lean_dojo()
        entry = self._entry(theorem)
        with _entering:
            dojo = lean_dojo.Dojo(entry, timeout=max(1, int(self.settings.cpu_s)), build_deps=False)
            try:
                _, first = dojo.__enter__()
            except (lean_dojo.DojoInitError, AssertionError) as error:
                raise VerifierError(f"LeanDojo can't open {entry.full_name}: {error}") from error
        with self._lock:
            self._num += 1
            session = self._open[theorem] = _Session(dojo=dojo, first=first, serial=self._num)
            old = list(self._open.items())[: -self._max_open]
        for other, closing in old:
            self._forget(other, closing)
        return session

    def _forget(self, theorem: Theorem, session: _Session) -> None:
        with self._lock:
            if self._open.get(theorem) is session:
                del self._open[theorem]
        session.dojo.__exit__(None, None, None)

    def _entry(self, theorem: Theorem) -> Any:
        """Return LeanDojo's name of a theorem: the one of the traced project that has this header and statement."""
        if theorem.project is None:
            raise ValueError("lean payload: the dojo backend opens theorems of traced projects only; set `project` to a traced folder")
        with self._lock:
            known = self._known.get(theorem.project)
        if known is None:
            known = self._known[theorem.project] = self._read(theorem.project)
        entry = known.get(_key(theorem.header, theorem.statement))
        if entry is None:
            raise ValueError(f"lean payload: no theorem of {theorem.project} has this header and statement; see flywheel.envs.lean.extract")
        return entry

    @staticmethod
    def _read(project: str) -> dict[str, Any]:
        from collections import Counter

        from flywheel.envs.lean.extract import read_traced, records

        traced = read_traced(project)
        return {
            _key(task.payload["header"], task.payload["statement"]): _lean_dojo().Theorem(
                traced.repo, task.payload["file"], task.payload["theorem"]
            )
            for task in records(traced, project, Counter())
        }


def _lean_dojo() -> Any:
    try:
        import lean_dojo
    except ImportError as error:
        raise VerifierError(f"LeanDojo can't be imported ({error}): pip install 'flywheel[lean]' (Python below 3.13)") from error
    return lean_dojo


def _goals(text: str) -> tuple[str, ...]:
    return tuple(goal for goal in text.split("\n\n") if goal.strip())


def _key(header: str, statement: str) -> str:
    return json.dumps([header.split(), statement.split()])
