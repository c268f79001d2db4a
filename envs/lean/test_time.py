"""Test-time reinforcement learning: one hard theorem, and variants of it to train on until the theorem itself is proved.

Every draw is the theorem (a share of them) or a variant some operators away from it, so harder and easier neighbours come mixed. A search
recognises variants that the basic tactics prove, whose proofs become their references; the rest are open tasks. Attempts at the theorem are
tasks of the family ``target``: ``[run] stop_when_solved = "target"`` ends a run with the first proof. With ``learning.hindsight_share``,
failed attempts are searched on from with the policy's own logprobs (`SearchRelabeller`), and what is found trains.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.contracts import Relabeller, TaskGenerator
from flywheel.envs.lean.environment import LeanEnv
from flywheel.envs.lean.family import split_script
from flywheel.envs.lean.guides import BasicGuide
from flywheel.envs.lean.relabel import SearchRelabeller
from flywheel.envs.lean.search import Budget, ProofSearch, actions
from flywheel.envs.lean.variants import OPERATORS, make_variant, sub_goals, with_reference
from flywheel.types import Task, content_id, derive_seed
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_gate import read_statement
from flywheel.verifiers.lean_protocol import LeanBackend

TARGET, VARIANT = "target", "variant"
LEMMA = "lemma"
NAMES = (*OPERATORS, LEMMA)
NUM_COPIES = 16
MAX_REDRAWS = 30


class TestTimeEnv(LeanEnv):
    """Prove one theorem, and what lies around it.

    Args:
        statement: The theorem, up to and without ``:=``.
        header: Its imports and opens.
        project: The Lake project that it lives in, if any.
        share: Of the draws that are the theorem itself.
        distance: Operators applied one after another to make a variant, at most.
        operators: Which; all of `OPERATORS`, and ``lemma``, a sub-goal of the theorem, by default.
        expansions: States that a search with the basic tactics expands for a proof of each variant, its reference; 0: variants stay open.
        judge: As in `LeanEnv`.
        backend: As in `LeanEnv`.
    """

    __test__ = False  # no test class, whatever its name begins with

    def __init__(
        self,
        *,
        statement: str,
        header: str = "",
        project: str | None = None,
        share: float = 0.25,
        distance: int = 3,
        operators: tuple[str, ...] = NAMES,
        expansions: int = 2,
        judge: bool = True,
        backend: LeanBackend | None = None,
    ) -> None:
        super().__init__(judge=judge, backend=backend)
        if unknown := sorted(set(operators) - set(NAMES)):
            raise ValueError(f"operators has {unknown[0]!r}; known: {', '.join(NAMES)}")
        read_statement(statement)
        self._original: dict[str, Any] = {"header": header, "statement": statement, "project": project}
        self._share, self._distance, self._operators, self._expansions = share, distance, operators, expansions
        self._checker: ProofChecker | None = None

    @classmethod
    def generators(cls) -> Mapping[str, TaskGenerator]:
        """There are none: `draw` makes the tasks."""
        return {}

    @classmethod
    def relabellers(cls) -> Sequence[Relabeller]:
        """Return what makes theorems of failed attempts: here a search for what they missed is worth its price."""
        return (*super().relabellers(), SearchRelabeller())

    def draw(self, seed: int) -> Task:
        """Return the theorem or a variant of it that Lean can read.

        Raises:
            InfraError: there is no Lean to ask.
        """
        rng = random.Random(derive_seed("test time", seed))
        if rng.random() >= self._share:
            for attempt in range(MAX_REDRAWS):
                variant = self._variant(derive_seed("variant", seed, attempt))
                if variant is not None:
                    return variant
        return self._target(rng.randrange(NUM_COPIES))

    @classmethod
    def task_key(cls, task: Task) -> str:
        """Return a hash of all that a task is: copies of the theorem, and ways to say a variant, are different tasks here."""
        return content_id(task.prompt, task.payload)

    def demonstrate(self, task: Task) -> list[str]:
        """Return the proof that a task has with it.

        Raises:
            NotImplementedError: it has none; nothing around a hard theorem need have one.
        """
        if "reference" not in task.payload:
            return super().demonstrate(task)
        return actions(split_script(str(task.payload["reference"])))

    def _target(self, copy: int) -> Task:
        # Copies differ in a number that nobody sees: the theorem is to be met in training and in evaluation alike.
        prompt = f"Prove in Lean 4:\n{self._original['header']}\n{self._original['statement']}".replace("\n\n", "\n")
        return Task.create(env=self.name, family=TARGET, prompt=prompt, payload={**self._original, "copy": copy}, operator="generate")

    def _variant(self, seed: int) -> Task | None:
        rng = random.Random(seed)
        task = self._target(0)
        if self._checker is None:
            self._checker = ProofChecker(self._backend)
        try:
            for step in range(rng.randint(1, self._distance)):
                child = self._next(task, rng.choice(self._operators), derive_seed(seed, step))
                if child is None:
                    return None
                task = child
            theorem = LeanPayload.read(task.payload).theorem
            self._checker.asked(theorem)
        except ValueError:  # what is no theorem, or was none on the way
            return None
        fields: dict[str, Any] = {"parent_id": task.parent_id, "operator": task.operator, "seed": seed}
        made = Task.create(env=self.name, family=VARIANT, prompt=task.prompt, payload=task.payload, **fields)
        if not self._expansions:
            return made
        found = ProofSearch(self._backend, BasicGuide(), budget=Budget(expansions=self._expansions)).prove_now(theorem)
        return made if found.proof is None else with_reference(made, found.proof)

    def _next(self, task: Task, operator: str, seed: int) -> Task | None:
        if operator != LEMMA:
            return make_variant(task, operator, seed)
        goals = sub_goals(task, self._backend)
        return random.Random(seed).choice(goals) if goals else None
