"""`LeanEnv`: prove a theorem by tactics whose effect is shown, and `LeanProofEnv`: in one submission.

Stepping through a proof only helps to find it: what is judged is the whole proof, from scratch, by the verifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from flywheel.contracts import Relabeller, TaskAuthor, TaskGenerator
from flywheel.envs.lean.authoring import LeanAuthor
from flywheel.envs.lean.families import FAMILIES, KINDS, WHOLE
from flywheel.envs.lean.goals import show_error, show_goals
from flywheel.envs.lean.lemmas import search_lemmas
from flywheel.envs.lean.search import submission
from flywheel.tool_env import ToolEnv
from flywheel.types import Task, Trajectory, Turn
from flywheel.verifiers.lean import LeanPayload, LeanVerifier
from flywheel.verifiers.lean_backends import acquire_shared, missing, release_shared
from flywheel.verifiers.lean_gate import refuse_tactic
from flywheel.verifiers.lean_protocol import LeanBackend, ProofState
from flywheel.verifiers.lean_scripts import script

MAX_LEMMA_CHARS = 200
ERROR = "Error:"


class LeanEnv(ToolEnv):
    """Prove a theorem in Lean 4.

    Args:
        judge: As in `ToolEnv`.
        backend: How Lean is reached; the process's shared backend by default.
    """

    name: ClassVar[str] = "lean"
    verifier: ClassVar[str | None] = "lean"

    def __init__(self, *, judge: bool = True, backend: LeanBackend | None = None) -> None:
        super().__init__(judge=judge)
        self._own = backend
        self._borrowed: LeanBackend | None = None
        self._states: list[ProofState] = []
        if backend is not None:
            self._judges = LeanVerifier(backend=backend)

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the task families."""
        return FAMILIES

    @classmethod
    def lacks(cls) -> Sequence[str]:
        """Return that there is no Lean, where there is none."""
        return missing()

    @classmethod
    def task_key(cls, task: Task) -> str:
        """Return the canonical key of a task record: its header and its statement, bound names aside."""
        try:
            return KINDS[0]().key(task)  # every family's is the same function of the statement
        except ValueError:
            return super().task_key(task)

    @classmethod
    def check_record(cls, task: Task) -> None:
        """Refuse a payload that is no Lean task's."""
        LeanPayload.read(task.payload)

    @classmethod
    def author(cls, header: str = "", project: str | None = None) -> TaskAuthor:
        """Return what makes tasks of a model's theorems, which it writes after `header`, in a Lake project if it names one."""
        return LeanAuthor(header, project)

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        """Return what makes theorems of failed attempts."""
        from flywheel.envs.lean.relabel import SubgoalRelabeller  # it plays attempts through this environment

        return (SubgoalRelabeller(),)

    def demonstrate(self, task: Task) -> list[str]:
        """Return the submission of the proof that a task record has with it, whole: what its lines do alone is not known.

        Raises:
            NotImplementedError: it has none.
        """
        return [submission(str(task.payload["reference"]))] if isinstance(task.payload.get("reference"), str) else super().demonstrate(task)

    def begin(self, task: Task) -> None:
        """Read the task's payload; Lean is not asked before a tool needs it.

        Raises:
            ValueError: the payload is malformed.
        """
        self._payload = LeanPayload.read(task.payload)
        self._states = []

    # ------------------------------------------------------------ tools

    def tactic(self, text: str) -> str:
        """Run a tactic on the first goal and return the goals that are left.

        Args:
            text: One tactic, such as intro h.
        """
        refusal = refuse_tactic(text)
        if refusal is not None:
            return f"{ERROR} {refusal}."
        step = self._backend.run_tactic(self._state(), text)
        if step.state is None:
            return show_error(step.error)
        self._states.append(step.state)
        return show_goals(step.state.goals)

    def undo(self) -> str:
        """Take the last tactic back and return the goals."""
        if len(self._states) < 2:
            return f"{ERROR} there is no tactic to take back."
        self._states.pop()
        return show_goals(self._states[-1].goals)

    def goals(self) -> str:
        """Return the goals that are left."""
        return show_goals(self._state().goals)

    def search(self, query: str) -> str:
        """Find lemmas by words in their names or statements.

        Args:
            query: Words, such as add comm.
        """
        try:
            found = search_lemmas(self._backend, self._payload.theorem, query)
        except ValueError as error:
            return f"{ERROR} {error}."
        return "\n".join(line[:MAX_LEMMA_CHARS] for line in found) or "nothing found"

    def submit(self, proof: str = "") -> str:
        """Submit a proof and end. Without one it submits the tactics run so far.

        Args:
            proof: What follows := in the theorem: a term, or by and tactics.
        """
        self.end()
        return "submitted"

    # ------------------------------------------------------------ the rest

    def answer(self, trajectory: Trajectory) -> str | None:
        """Return the proof of the last submit: its own text, or the tactics that had worked and were not taken back by then."""
        answer: str | None = None
        for at, turn in enumerate(trajectory.turns):
            for call in turn.tool_calls:
                if call.name == "submit":
                    proof = call.arguments.get("proof")
                    given = proof if isinstance(proof, str) and proof.strip() else None
                    steps = self.steps_of(replace(trajectory, turns=trajectory.turns[: at + 1]))
                    answer = given or (script(steps) if steps else None)
        return answer

    @staticmethod
    def steps_of(trajectory: Trajectory) -> tuple[str, ...]:
        """Return the tactics of an attempt that worked and were not taken back."""
        steps: list[str] = []
        for turn in trajectory.turns:
            if (turn.observation or ERROR).startswith(ERROR):
                continue
            for call in turn.tool_calls:
                text = call.arguments.get("text")
                if call.name == "tactic" and isinstance(text, str):
                    steps.append(text)
                elif call.name == "undo" and steps:
                    steps.pop()
        return tuple(steps)

    @property
    def played(self) -> tuple[Turn, ...]:
        """The turns of the episode so far, as `step` made them."""
        return tuple(self._turns)

    def close(self) -> None:
        """Give Lean back."""
        if self._borrowed is not None:
            self._borrowed = None
            release_shared()
        super().close()

    @property
    def _backend(self) -> LeanBackend:
        if self._own is not None:
            return self._own
        if self._borrowed is None:
            self._borrowed = acquire_shared()
        return self._borrowed

    def _state(self) -> ProofState:
        if not self._states:
            self._states.append(self._backend.open_goal(self._payload.theorem))
        return self._states[-1]


class LeanProofEnv(LeanEnv):
    """Prove a theorem in Lean 4 by submitting a whole proof: one turn, one tool."""

    def _find_tools(self) -> dict[str, Any]:
        return {name: tool for name, tool in super()._find_tools().items() if name == "submit"}

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the task families, demonstrated whole."""
        return WHOLE
