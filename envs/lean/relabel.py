"""Failed attempts completed by search: a `Relabeller` that goes on from where the policy's own tactics had got to.

What comes out is the same task with a trajectory that proves it, played through the real environment; whoever relabels verifies it again
before it trains anything (`flywheel.contracts.Relabeller`).
"""

from __future__ import annotations

import asyncio
import dataclasses

from flywheel.envs.lean.environment import LeanEnv
from flywheel.envs.lean.guides import BasicGuide
from flywheel.envs.lean.search import Budget, Guide, Method, ProofSearch, actions
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_protocol import LeanBackend


class SearchRelabeller:
    """Looks for the proof that an attempt missed.

    Args:
        backend: How Lean is reached.
        guide: Who proposes tactics; the basic ones by default.
        method: ``best_first`` or ``mcts``.
        budget: What a search may spend.
    """

    name = "lean_search"

    def __init__(
        self, backend: LeanBackend, *, guide: Guide | None = None, method: Method = "best_first", budget: Budget | None = None
    ) -> None:
        self._backend, self._guide = backend, guide or BasicGuide()
        self._method, self._budget = method, budget or Budget(expansions=32)

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return the task with a trajectory that proves it, or nothing.

        Raises:
            InfraError: Lean or the policy can't be reached.
        """
        if task.env != LeanEnv.name or verdict.outcome not in ("failed", "truncated"):
            return []
        payload = LeanPayload.read(task.payload)
        search = ProofSearch(self._backend, self._guide, allowed_axioms=payload.allowed_axioms, method=self._method, budget=self._budget)
        found = asyncio.run(search.prove(payload.theorem, seed=trajectory.seed, after=worked(trajectory)))
        if found.tactics is None:
            return []
        return [(task, self._played(task, found.tactics, trajectory.seed))]

    def _played(self, task: Task, tactics: tuple[str, ...], seed: int) -> Trajectory:
        env = LeanEnv(judge=False, backend=self._backend)
        env.reset(options={"task": task})
        for action in actions(tactics):
            env.step(action)
        made = Trajectory(task_id=task.id, turns=env.played, stop_reason="terminated", answer=None, seed=seed)
        return dataclasses.replace(made, answer=env.answer(made))


def worked(trajectory: Trajectory) -> tuple[str, ...]:
    """Return the tactics of an attempt that had worked and were not taken back."""
    return LeanEnv.steps_of(trajectory)
