"""What failed attempts at theorems teach: a `Relabeller` for what they did prove, and one that completes them by search.

`SubgoalRelabeller` makes theorems of what an attempt proved on its way (`flywheel.envs.lean.subgoals`); `open_goals` are the tasks that it
leaves behind. `SearchRelabeller` goes on from where the policy's own tactics had got to. What comes out was played through the real
environment; whoever relabels verifies it again, from scratch, before it trains anything (`flywheel.contracts.Relabeller`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from flywheel.envs.lean.environment import LeanEnv
from flywheel.envs.lean.family import canonical
from flywheel.envs.lean.guides import BasicGuide
from flywheel.envs.lean.search import Budget, Guide, Method, ProofSearch, actions, submission
from flywheel.envs.lean.subgoals import proved, scripts_of, walk
from flywheel.envs.lean.variants import lemma
from flywheel.errors import NotRelabelledError
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_backends import acquire_shared, release_shared
from flywheel.verifiers.lean_gate import read_statement, refuse_answer
from flywheel.verifiers.lean_protocol import LeanBackend, ProofState
from flywheel.verifiers.lean_scripts import script

TRIVIAL_TACTICS = ("rfl", "assumption", "trivial")


class SubgoalRelabeller:
    """Makes theorems of what an attempt proved on its way: goals that it closed, facts that it established, a weaker statement.

    Args:
        backend: How Lean is reached; the process's shared backend by default.
        max_pairs: Theorems that one attempt gives at most, those with the longest proofs first.
    """

    name = "lean_subgoals"

    def __init__(self, backend: LeanBackend | None = None, *, max_pairs: int = 4) -> None:
        self._backend, self._max_pairs = backend, max_pairs

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return theorems other than the task's own, each with the submission of a proof that should hold.

        Raises:
            NotRelabelledError: what the attempt proved makes no theorem that is worth having; the message is the commonest reason.
            VerifierError: Lean can't be reached.
        """
        if task.env != LeanEnv.name or verdict.outcome not in ("failed", "truncated"):
            return []
        theorem = LeanPayload.read(task.payload).theorem
        pairs: list[tuple[Task, Trajectory]] = []
        dropped: Counter[str] = Counter()
        with _reached(self._backend) as backend:
            seen = {_key(task)}
            findings = [one for tactics in scripts_of(trajectory) for one in proved(walk(backend, theorem, tactics))]
            for finding in sorted(findings, key=lambda one: -len(script(one.tactics))):
                made = lemma(task, finding.goal, operator=f"hindsight:{self.name}")
                said = script(finding.tactics)
                reason = "gate" if refuse_answer(said) is not None else _refuse(made, seen, backend)
                if made is None or reason:
                    dropped[reason] += 1
                    continue
                seen.add(_key(made))
                pairs.append((made, _played(made, [submission(said)], trajectory.seed, backend)))
                if len(pairs) == self._max_pairs:
                    break
        if dropped and not pairs:
            raise NotRelabelledError(dropped.most_common(1)[0][0])
        return pairs


def open_goals(task: Task, trajectory: Trajectory, backend: LeanBackend) -> list[Task]:
    """Return the goals that an attempt left open as tasks of their own, for who makes task files of them; the trivial are left out.

    Raises:
        VerifierError: Lean can't be reached.
    """
    theorem = LeanPayload.read(task.payload).theorem
    left: list[Task] = []
    seen = {_key(task)}
    for tactics in scripts_of(trajectory):
        for goal in walk(backend, theorem, tactics).states[-1].goals:
            made = lemma(task, goal, operator="hindsight:open_goal")
            if made is not None and not _refuse(made, seen, backend):
                seen.add(_key(made))
                left.append(made)
    return left


class SearchRelabeller:
    """Looks for the proof that an attempt missed.

    Args:
        backend: How Lean is reached; the process's shared backend by default.
        guide: Who proposes tactics; the basic ones by default.
        method: ``best_first`` or ``mcts``.
        budget: What a search may spend.
    """

    name = "lean_search"

    def __init__(
        self, backend: LeanBackend | None = None, *, guide: Guide | None = None, method: Method = "best_first", budget: Budget | None = None
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
        with _reached(self._backend) as backend:
            search = ProofSearch(backend, self._guide, allowed_axioms=payload.allowed_axioms, method=self._method, budget=self._budget)
            found = asyncio.run(search.prove(payload.theorem, seed=trajectory.seed, after=LeanEnv.steps_of(trajectory)))
            if found.tactics is None:
                return []
            return [(task, _played(task, actions(found.tactics), trajectory.seed, backend))]


@contextlib.contextmanager
def _reached(backend: LeanBackend | None) -> Iterator[LeanBackend]:
    if backend is not None:
        yield backend
        return
    try:
        yield acquire_shared()
    finally:
        release_shared()


def _refuse(made: Task | None, seen: set[str], backend: LeanBackend) -> str:
    """Return why a theorem is not worth having; nothing where it may be."""
    if made is None:
        return "unsayable"
    if _key(made) in seen:
        return "repeated"
    try:
        return "trivial" if _trivial(made, backend) else ""
    except ValueError:
        return "unreadable"


def _trivial(task: Task, backend: LeanBackend) -> bool:
    """Whether one of the simplest tactics proves a theorem.

    Raises:
        ValueError: Lean can't read its statement.
    """
    start = backend.open_goal(LeanPayload.read(task.payload).theorem)
    return any(_closes(backend, start, tactic) for tactic in TRIVIAL_TACTICS)


def _closes(backend: LeanBackend, state: ProofState, tactic: str) -> bool:
    after = backend.run_tactic(state, tactic).state
    return after is not None and not after.goals


def _key(task: Task) -> str:
    return canonical(read_statement(task.payload["statement"]).signature)


def _played(task: Task, moves: Sequence[str], seed: int, backend: LeanBackend) -> Trajectory:
    env = LeanEnv(judge=False, backend=backend)
    env.reset(options={"task": task})
    for move in moves:
        env.step(move)
    made = Trajectory(task_id=task.id, turns=env.played, stop_reason="terminated", answer=None, seed=seed)
    return dataclasses.replace(made, answer=env.answer(made))
