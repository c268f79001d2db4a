"""`ChemistryEnv`: propose a molecule or a reaction that meets the task's constraints, with a chemist's tools.

The tools run in the killable worker (`flywheel.envs.chemistry.workbench`): what the policy writes is hostile.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import ClassVar

from flywheel.contracts import Relabeller, TaskAuthor, TaskGenerator
from flywheel.envs.chemistry.authoring import ChemistryAuthor
from flywheel.envs.chemistry.families import families
from flywheel.envs.chemistry.family import submission
from flywheel.envs.chemistry.library import library_path
from flywheel.envs.chemistry.relabel import ChemistryRelabeller, answer_keys
from flywheel.tool_env import ToolEnv
from flywheel.types import Task, Trajectory, Verdict, to_json
from flywheel.verifiers.chemistry_judge import compile_task
from flywheel.verifiers.chemistry_pool import Reply, WorkerPool, acquire_shared, release_shared

MAX_SENT_CHARS = 3_000
WORKBENCH = "flywheel.envs.chemistry.workbench"


class ChemistryEnv(ToolEnv):
    """Molecules and reactions by what they have to be; see `generators` for the families."""

    name: ClassVar[str] = "chemistry"
    verifier: ClassVar[str | None] = "chemistry"
    _pool: WorkerPool | None = None

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the task families."""
        return families()

    @classmethod
    def task_key(cls, task: Task) -> str:
        """Return the canonical key of a task record."""
        return families()["formula"].key(task)  # every family's is the same function of the constraints

    @classmethod
    def check_record(cls, task: Task) -> None:
        """Refuse constraints that are none."""
        compile_task(task.payload)

    @classmethod
    def feedback(cls, task: Task, verdict: Verdict) -> str:
        """Return what the answer is, for each constraint that it breaks; what would have met it is left to the prompt."""
        failed = (check for check in verdict.checks if not check.passed)
        return "; ".join(f"{check.name}: {check.detail.partition(', expected')[0]}" for check in failed)

    @classmethod
    def answer_keys(cls, answers: Sequence[str]) -> list[str | None]:
        """Return the InChIKeys of molecules that were answered; None for what is none."""
        return answer_keys(answers)

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        """Return what asks for the molecule that was made."""
        return (ChemistryRelabeller(),)

    @classmethod
    def author(cls) -> TaskAuthor:
        """Return what model-written tasks need."""
        return ChemistryAuthor()

    def demonstrate(self, task: Task) -> list[str]:
        """Return the submission of the answer that a task record has with it.

        Raises:
            NotImplementedError: it has none.
        """
        return [submission(str(task.payload["reference"]))] if isinstance(task.payload.get("reference"), str) else super().demonstrate(task)

    def describe(self, smiles: str) -> str:
        """Get a molecule's formula, descriptors and functional groups.

        Args:
            smiles: The molecule.
        """
        return self._ask("describe", smiles)

    def edit(self, smiles: str, change: str) -> str:
        """Apply a named change to a molecule at every place where it fits. An unknown change gets the names that fit.

        Args:
            smiles: The molecule.
            change: For example "add methyl" or "acid to amide".
        """
        return self._ask("edit", smiles, change)

    def react(self, reactants: str, template: str) -> str:
        """Run a named reaction on reactants. An unknown template gets the names that fit.

        Args:
            reactants: SMILES joined by dots.
            template: For example "amide coupling".
        """
        return self._ask("react", reactants, template)

    def search(self, query: str) -> str:
        """Find molecules in a local table.

        Args:
            query: Terms joined by " and ": a group's name, SMARTS, mw<200, formula=C7H8O.
        """
        return self._ask("search", str(library_path()), query)

    def submit(self, smiles: str) -> str:
        """Submit the answer; this ends the task.

        Args:
            smiles: The molecule, or the reaction.
        """
        self.end()
        return "Submitted."

    def picture(self, task: Task, trajectory: Trajectory) -> bytes | None:
        """Return a drawing of the molecules that were submitted, as PNG; None where there is nothing to draw."""
        answer = self.answer(trajectory)
        if answer is None:
            return None
        reply = self._call("draw", to_json(task.payload), answer[:MAX_SENT_CHARS])
        return base64.b64decode(reply.value) if reply.status == "ok" and reply.value else None

    def _ask(self, tool: str, *arguments: str) -> str:
        reply = self._call(tool, *(text[:MAX_SENT_CHARS] for text in arguments))
        if reply.status == "task_error":
            return f"Error: {tool} can't do that."
        return str(reply.value) if reply.status == "ok" else "Error: limit: that takes too long or too much memory."

    def _call(self, function: str, *arguments: str) -> Reply:
        if self._pool is None:
            self._pool = acquire_shared()
        return self._pool.call(f"{WORKBENCH}:{function}", *arguments)

    def close(self) -> None:
        """Give the workers back."""
        if self._pool is not None:
            self._pool = None
            release_shared()
        super().close()
