"""Proof search over tactic states: best-first and Monte-Carlo tree search, with whatever proposes tactics as the guide.

A guide (`flywheel.envs.lean.guides`) is a policy, its own samples with its own logprobs, or the basic tactics. A state without goals is
not a proof yet: every find is checked from scratch, and only what passes is returned. `actions` turns it into the actions that play it
through the real environment, where it is verified once more before it trains anything.

Best-first follows GPT-f (arXiv:2009.03393): the open state whose path has the highest logprob is expanded; we divide by
depth**`length_power` (0.5 by default), which keeps long paths alive. The tree search is PUCT (arXiv:1712.01815; AlphaProof has the like): a
child's prior is the guide's probability among its siblings, a state's value the chance that its remaining goals close, guessed as
0.5 ** number of goals where no `value` is given, and the mean of values backed up.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flywheel.types import derive_seed
from flywheel.verifiers.lean_check import ProofChecker
from flywheel.verifiers.lean_gate import refuse_tactic
from flywheel.verifiers.lean_protocol import LeanBackend, ProofState, Theorem
from flywheel.verifiers.lean_scripts import script

Method = Literal["best_first", "mcts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A tactic that a guide proposes, and the logprob that it gave it."""

    tactic: str
    logprob: float


class Guide(Protocol):
    """Proposes tactics."""

    async def propose(self, state: ProofState, count: int, seed: int) -> Sequence[Candidate]:
        """Return at most `count` tactics for a state."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a search may spend."""

    expansions: int = 64
    width: int = 8  # tactics to ask a guide for at a state
    max_depth: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How a search ended. `tactics` is None where no proof was found."""

    tactics: tuple[str, ...] | None
    num_expansions: int
    num_tactics: int

    @property
    def proof(self) -> str | None:
        """The proof as one tactic block."""
        return None if self.tactics is None else script(self.tactics)


def actions(tactics: Sequence[str]) -> list[str]:
    """Return what a policy would do to play a proof: its tactics, then a submission."""
    return [*(_call("tactic", text=tactic) for tactic in tactics), _call("submit")]


def submission(proof: str) -> str:
    """Return what a policy would do to submit a proof whole."""
    return _call("submit", proof=proof)


def _call(name: str, **arguments: str) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


@dataclass(slots=True, eq=False)
class _Node:
    state: ProofState
    logprob: float = 0.0
    prior: float = 1.0
    parent: _Node | None = None
    children: list[_Node] = field(default_factory=list)
    expanded: bool = False
    dead: bool = False
    num_visits: int = 0
    total: float = 0.0

    @property
    def depth(self) -> int:
        return len(self.state.tactics)


class ProofSearch:
    """One search at a time over one backend.

    Args:
        backend: Runs tactics, and checks finds.
        guide: Proposes them.
        allowed_axioms: What a proof may rest on.
        method: ``best_first`` or ``mcts``.
        budget: What it may spend.
        exploration: PUCT's constant.
        length_power: Of the depth that a path's logprob is divided by.
        value: The chance that a state's goals close, in [0, 1].
    """

    def __init__(
        self,
        backend: LeanBackend,
        guide: Guide,
        *,
        allowed_axioms: Sequence[str] = ("propext", "Classical.choice", "Quot.sound"),
        method: Method = "best_first",
        budget: Budget | None = None,
        exploration: float = 1.25,
        length_power: float = 0.5,
        value: Callable[[ProofState], float] | None = None,
    ) -> None:
        self.backend, self.guide, self.method = backend, guide, method
        self.budget = budget or Budget()
        self._axioms = tuple(allowed_axioms)
        self._checker = ProofChecker(backend)
        self._exploration, self._power = exploration, length_power
        self._value = value or (lambda state: 0.5 ** len(state.goals))

    async def prove(self, theorem: Theorem, *, seed: int = 0, after: Sequence[str] = ()) -> Found:
        """Search for a proof, from the start or after tactics that are known to work.

        Raises:
            ValueError: the statement does not elaborate.
            InfraError: Lean or the policy can't be reached.
        """
        start = await asyncio.to_thread(self.backend.open_goal, theorem)
        for tactic in after:
            step = await asyncio.to_thread(self.backend.run_tactic, start, tactic)
            if step.state is None or not step.state.goals:
                break
            start = step.state
        root = _Node(state=start)
        seen = {root.state.goals}
        num_expansions = num_tactics = 0
        heap: list[tuple[float, int, _Node]] = [(0.0, 0, root)]
        tie = itertools.count(1)
        while num_expansions < self.budget.expansions:
            node = self._next(heap) if self.method == "best_first" else self._select(root)
            if node is None:
                break
            num_expansions += 1
            candidates = await self.guide.propose(node.state, self.budget.width, derive_seed(seed, node.state.tactics))
            ranked = sorted({c.tactic: c for c in candidates}.values(), key=lambda c: (-c.logprob, c.tactic))
            for candidate in ranked:
                if refuse_tactic(candidate.tactic) is not None:
                    continue
                num_tactics += 1
                step = await asyncio.to_thread(self.backend.run_tactic, node.state, candidate.tactic)
                if step.state is None or (step.state.goals and step.state.goals in seen):
                    continue
                if not step.state.goals:
                    if await asyncio.to_thread(self._holds, theorem, step.state):
                        return Found(tactics=step.state.tactics, num_expansions=num_expansions, num_tactics=num_tactics)
                    continue
                seen.add(step.state.goals)
                logprob = node.logprob + candidate.logprob
                child = _Node(state=step.state, logprob=logprob, prior=math.exp(min(0.0, candidate.logprob)), parent=node)
                node.children.append(child)
                if child.depth < self.budget.max_depth:
                    heapq.heappush(
                        heap, (-child.logprob / child.depth**self._power, next(tie), child) if logprob else (0.0, next(tie), child)
                    )
            self._settle(node)
        return Found(tactics=None, num_expansions=num_expansions, num_tactics=num_tactics)

    def prove_now(self, theorem: Theorem, *, seed: int = 0, after: Sequence[str] = ()) -> Found:
        """Do what `prove` does for a caller that blocks, in whatever thread or event loop it is."""
        with ThreadPoolExecutor(1, thread_name_prefix="lean-search") as thread:
            return thread.submit(asyncio.run, self.prove(theorem, seed=seed, after=after)).result()

    def _holds(self, theorem: Theorem, state: ProofState) -> bool:
        return self._checker.check(theorem, script(state.tactics), self._axioms).passed

    @staticmethod
    def _next(heap: list[tuple[float, int, _Node]]) -> _Node | None:
        return heapq.heappop(heap)[2] if heap else None

    def _select(self, node: _Node) -> _Node | None:
        """Return the state that PUCT expands next; None where every path is closed."""
        if node.dead:
            return None
        while node.expanded:
            alive = [child for child in node.children if not child.dead]
            total = sum(child.prior for child in alive) or 1.0
            scale = self._exploration * math.sqrt(max(1, node.num_visits))

            def score(child: _Node, total: float = total, scale: float = scale) -> float:
                mean = child.total / child.num_visits if child.num_visits else self._value(child.state)
                return mean + scale * child.prior / total / (1 + child.num_visits)

            node = max(alive, key=score)
        return node

    def _settle(self, node: _Node) -> None:
        """Back a value up from an expanded state, and close the paths that have no open end."""
        node.expanded = True
        for child in node.children:
            child.dead = child.depth >= self.budget.max_depth
        value = max((self._value(child.state) for child in node.children if not child.dead), default=0.0)
        at: _Node | None = node
        while at is not None:
            at.num_visits += 1
            at.total += value
            at.dead = at.expanded and all(child.dead for child in at.children)
            at = at.parent
