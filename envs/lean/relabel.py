"""What failed attempts at theorems teach: a `Relabeller` for what they did prove, and one that completes them by search.

`SubgoalRelabeller` makes theorems of what an attempt proved on its way (`flywheel.envs.lean.subgoals`); `open_goals` are the tasks that it
leaves behind. `SearchRelabeller` goes on from where the policy's own tactics had got to, by the policy's own samples and logprobs where
there is one to ask. What comes out was played through the real environment; whoever relabels verifies it again, from scratch, before it
trains anything (`flywheel.contracts.Relabeller`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections import Counter
from collections.abc import Sequence

from flywheel.contracts import Engine
from flywheel.envs.lean.environment import LeanEnv
from flywheel.envs.lean.family import canonical
from flywheel.envs.lean.guides import BasicGuide, PolicyGuide
from flywheel.envs.lean.search import Budget, Guide, Method, ProofSearch, actions, submission
from flywheel.envs.lean.subgoals import proved, scripts_of, walk
from flywheel.envs.lean.variants import lemma, with_reference
from flywheel.errors import NotRelabelledError
from flywheel.inference.chat import ChatFormat
from flywheel.types import Task, Trajectory, Verdict
from flywheel.verifiers.lean import LeanPayload
from flywheel.verifiers.lean_backends import borrowed
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
        if not _teaches(task, verdict):
            return []
        with borrowed(self._backend) as backend:
            return _theorems(task, scripts_of(trajectory), f"hindsight:{self.name}", self._max_pairs, backend)


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
    """Looks for the proof that an attempt missed: it gives the theorem with its proof, and what was left to prove as theorems.

    Args:
        backend: How Lean is reached; the process's shared backend by default.
        guide: Who proposes tactics where no policy is asked or it finds nothing; the basic ones by default.
        method: ``best_first`` or ``mcts``.
        budget: What a search may spend.
        policy_budget: What a search with the policy may spend (`guided_by`): it samples up to ``expansions`` times ``width`` completions.
        max_pairs: What one attempt gives at most: the theorem, then those with the longest proofs.
    """

    name = "lean_search"

    def __init__(
        self,
        backend: LeanBackend | None = None,
        *,
        guide: Guide | None = None,
        method: Method = "best_first",
        budget: Budget | None = None,
        policy_budget: Budget | None = None,
        max_pairs: int = 4,
    ) -> None:
        self._backend, self._guide = backend, guide or BasicGuide()
        self._method, self._budget, self._max_pairs = method, budget or Budget(expansions=32), max_pairs
        self._policy: tuple[Engine, ChatFormat] | None = None
        self._policy_budget = policy_budget or Budget(expansions=16, width=4)

    def guided_by(self, engine: Engine, chat: ChatFormat) -> SearchRelabeller:
        """Return the relabeller that asks this policy first; see `flywheel.contracts.Guided`."""
        made = copy.copy(self)
        made._policy = engine, chat
        return made

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return the theorem with the proof that was found, and the goals of that proof as theorems, each with its part of it.

        A task source that knows tasks by their statements takes the theorem for known; one that counts the proof in does not.

        Raises:
            NotRelabelledError: no proof was found.
            InfraError: Lean or the policy can't be reached.
        """
        if not _teaches(task, verdict):
            return []
        with borrowed(self._backend) as backend:
            found = self._search(task, trajectory, backend)
            if found is None:
                raise NotRelabelledError("no_proof_found")
            operator = f"hindsight:{self.name}"
            whole = with_reference(task, script(found)).derived(task, operator)
            pairs = [(whole, _played(whole, actions(found), backend))]
            with contextlib.suppress(NotRelabelledError):  # nothing of its parts is worth having
                pairs += _theorems(task, [found], operator, self._max_pairs - 1, backend)
            return pairs

    def complete(self, task: Task, trajectory: Trajectory) -> Trajectory | None:
        """Return a trajectory that proves the task itself, going on from where an attempt had got to; None where none is found.

        Raises:
            InfraError: Lean or the policy can't be reached.
        """
        with borrowed(self._backend) as backend:
            found = self._search(task, trajectory, backend)
            return None if found is None else _played(task, actions(found), backend)

    def _search(self, task: Task, trajectory: Trajectory, backend: LeanBackend) -> tuple[str, ...] | None:
        payload, after = LeanPayload.read(task.payload), LeanEnv.steps_of(trajectory)
        guides: list[tuple[Guide, Budget]] = [(self._guide, self._budget)]
        if self._policy is not None:
            tools = LeanEnv(judge=False, backend=backend).tools
            guides.insert(0, (PolicyGuide(*self._policy, tools, task.prompt), self._policy_budget))
        for guide, budget in guides:
            search = ProofSearch(backend, guide, allowed_axioms=payload.allowed_axioms, method=self._method, budget=budget)
            found = search.prove_now(payload.theorem, seed=trajectory.seed, after=after).tactics
            if found is not None:
                return found
        return None


def _teaches(task: Task, verdict: Verdict) -> bool:
    return task.env == LeanEnv.name and verdict.outcome in ("failed", "truncated")


def _theorems(
    task: Task, scripts: Sequence[Sequence[str]], operator: str, max_pairs: int, backend: LeanBackend
) -> list[tuple[Task, Trajectory]]:
    """Return what runs of tactics prove as theorems of their own, those with the longest proofs first.

    Raises:
        NotRelabelledError: there was something, and nothing of it is worth having.
    """
    theorem = LeanPayload.read(task.payload).theorem
    findings = [one for tactics in scripts for one in proved(walk(backend, theorem, tactics))]
    pairs: list[tuple[Task, Trajectory]] = []
    dropped: Counter[str] = Counter()
    seen = {_key(task)}
    for finding in sorted(findings, key=lambda one: -len(script(one.tactics))):
        if len(pairs) == max_pairs:
            break
        said = script(finding.tactics)
        made = lemma(task, finding.goal, operator=operator)
        reason = "gate" if refuse_answer(said) is not None else _refuse(made, seen, backend)
        if made is None or reason:
            dropped[reason] += 1
            continue
        seen.add(_key(made))
        pairs.append((made, _played(made, [submission(said)], backend)))
    if dropped and not pairs:
        raise NotRelabelledError(dropped.most_common(1)[0][0])
    return pairs


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


def _played(task: Task, moves: Sequence[str], backend: LeanBackend) -> Trajectory:
    env = LeanEnv(judge=False, backend=backend)
    env.reset(options={"task": task})
    for move in moves:
        env.step(move)
    made = Trajectory(task_id=task.id, turns=env.played, stop_reason="terminated", answer=None)
    return dataclasses.replace(made, answer=env.answer(made))
