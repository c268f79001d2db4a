"""`ChemistryEnv`: propose a molecule that meets the task's constraints; describe candidates first where that helps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

from flywheel.contracts import TaskGenerator
from flywheel.envs.chemistry.descriptors import DescriptorFamily
from flywheel.envs.chemistry.formula import FormulaFamily
from flywheel.envs.chemistry.formula_groups import FormulaGroupsFamily
from flywheel.tool_env import ToolEnv
from flywheel.verifiers.chemistry_pool import WorkerPool, acquire_shared, release_shared

MAX_SENT_CHARS = 3_000


@cache
def _families() -> dict[str, TaskGenerator]:
    families: list[TaskGenerator] = [FormulaFamily(), FormulaGroupsFamily(), DescriptorFamily()]
    return {family.family: family for family in families}


class ChemistryEnv(ToolEnv):
    """Molecules by formula, functional groups and descriptors."""

    name: ClassVar[str] = "chemistry"
    verifier: ClassVar[str | None] = "chemistry"
    _pool: WorkerPool | None = None

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """Return the task families."""
        return _families()

    def describe(self, smiles: str) -> str:
        """Get a molecule's formula, descriptors and functional groups.

        Args:
            smiles: The molecule.
        """
        if self._pool is None:
            self._pool = acquire_shared()
        reply = self._pool.ask(["describe", smiles[:MAX_SENT_CHARS]])
        return str(reply.value) if reply.status == "ok" else "Error: limit: that molecule takes too long to look at."

    def submit(self, smiles: str) -> str:
        """Submit the answer; this ends the task.

        Args:
            smiles: The molecule.
        """
        self.end()
        return "Submitted."

    def close(self) -> None:
        """Give the workers back."""
        if self._pool is not None:
            self._pool = None
            release_shared()
        super().close()
