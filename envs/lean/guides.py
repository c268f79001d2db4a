"""Who proposes tactics to a proof search: the policy that is trained, or the basic tactics that need no policy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.contracts import Engine, Sampling
from flywheel.envs.lean.goals import show_goals
from flywheel.envs.lean.search import Candidate
from flywheel.inference.chat import ChatFormat
from flywheel.types import derive_seed
from flywheel.verifiers.lean_protocol import ProofState


class PolicyGuide:
    """The policy's own samples, each with the sum of its own token logprobs.

    The policy sees what it sees in an episode: the task, and the goals as if it had just asked for them.

    Args:
        engine: Serves the policy.
        chat: Its chat format.
        tools: The environment's tools, as the policy is shown them.
        prompt: The task's.
        max_tokens: A completion's.
        temperature: At 1 the logprobs are those of the policy itself.
    """

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        tools: Sequence[Mapping[str, Any]],
        prompt: str,
        *,
        max_tokens: int = 128,
        temperature: float = 1.0,
    ) -> None:
        self._engine, self._chat, self._tools, self._prompt = engine, chat, list(tools), prompt
        self._max_tokens, self._temperature = max_tokens, temperature

    async def propose(self, state: ProofState, count: int, seed: int) -> list[Candidate]:
        """Return the tactics among `count` samples; the same tactic sampled twice counts once, with its better logprob."""
        ids = self._chat.render_task(f"{self._prompt}\n\n{show_goals(state.goals)}", self._tools)
        made = await asyncio.gather(*(self._sample(ids, derive_seed(seed, at)) for at in range(count)))
        best: dict[str, float] = {}
        for tactic, logprob in filter(None, made):
            best[tactic] = max(logprob, best.get(tactic, logprob))
        return [Candidate(tactic=tactic, logprob=logprob) for tactic, logprob in best.items()]

    async def _sample(self, ids: Sequence[int], seed: int) -> tuple[str, float] | None:
        sampling = Sampling(max_tokens=self._max_tokens, temperature=self._temperature, seed=seed)
        completion = await self._engine.generate(ids, sampling)
        for call in self._chat.parse(completion.token_ids, self._tools, prompt=ids).tool_calls:
            text = call.arguments.get("text")
            if call.name == "tactic" and isinstance(text, str) and text.strip():
                return text, sum(completion.logprobs)
        return None


class BasicGuide:
    """Lean's basic tactics, fitted to the goal: enough for what is easy, and so a test of what is."""

    closing = ("rfl", "assumption", "trivial", "simp", "omega", "decide", "contradiction")

    async def propose(self, state: ProofState, count: int, seed: int) -> list[Candidate]:
        """Return tactics for the first goal, closing ones first; logprobs say only that order."""
        return [Candidate(tactic=tactic, logprob=-0.1 * at) for at, tactic in enumerate(basic_tactics(state.goals[0])[: 3 * count])]


def basic_tactics(goal: str) -> list[str]:
    """Return the basic tactics that fit a goal's form and the names of its hypotheses."""
    hypotheses, _, target = goal.rpartition("⊢")
    named: list[tuple[str, str]] = []
    for line in hypotheses.split("\n"):
        names, colon, kind = line.partition(" : ")
        if colon:
            named += [(name, kind) for name in names.split() if re.fullmatch(r"[^\W✝]+[\w']*", name)]
    fresh = next(name for at in range(100) if (name := f"x{at}") not in {name for name, _ in named})
    target = target.strip()
    shaped = []
    if target.startswith(("∀", "¬")) or "→" in target:
        shaped.append(f"intro {fresh}")
    if "∧" in target or "↔" in target:
        shaped.append("constructor")
    if "∨" in target:
        shaped += ["apply Or.inl", "apply Or.inr"]
    uses = [tactic for name, kind in named for tactic in _uses(name, kind)]
    return [*BasicGuide.closing, *shaped, *uses]


def _uses(name: str, kind: str) -> list[str]:
    if kind.startswith(("Prop", "Type", "Sort")):
        return []
    uses = [f"exact {name}"]
    if "→" in kind or kind.startswith(("∀", "¬")):
        uses.append(f"apply {name}")
    if "∧" in kind:
        uses += [f"exact {name}.1", f"exact {name}.2"]
    if any(mark in kind for mark in "∧∨∃"):
        uses.append(f"cases {name}")
    if " = " in kind:
        uses += [f"rw [{name}]", f"rw [← {name}]"]
    return uses
