"""`ScriptedPolicy`: an engine whose answers a test writes down, through the real tokenizer and chat format.

A script is a function from the whole context, decoded, to what the policy says next. Logprobs are made up, the same for the same
token: `made_up_logprob`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from flywheel.config import Recipe
from flywheel.contracts import Completion, Sampling, WeightUpdate
from flywheel.errors import InfraError
from flywheel.inference.chat import ChatFormat
from flywheel.rollout.episode import Limits
from flywheel.rollout.groups import Collector, Traffic
from flywheel.rollout.stage import Stage
from flywheel.trainer.tiny import make_tokenizer

TEXTS = [
    "<tool_call><function=run_tests><parameter=code>def f(xs):\n    return sorted(xs)\n</parameter></function></tool_call>",
    "<tool_call><function=submit></function></tool_call>1/1 passed",
    "<tool_call><function=submit><parameter=smiles>CC(=O)O</parameter></function></tool_call>",
] * 4

Script = Callable[[str], str]


def make_chat(max_context: int = 4096) -> ChatFormat:
    """Return the tiny policy's own chat format."""
    return ChatFormat(make_tokenizer(TEXTS, 400, max_context))


def call(name: str, **arguments: object) -> str:
    """Return a tool call as the tiny policy writes it."""
    values = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in arguments.items())
    inside = "".join(f"<parameter={key}>{value}</parameter>" for key, value in values)
    return f"<tool_call><function={name}>{inside}</function></tool_call>"


def made_up_logprob(token_id: int) -> float:
    """Return the logprob that the scripted policy says it gave a token."""
    return -(1 + token_id % 13) / 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request and its answer."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    completion_ids: tuple[int, ...]


class ScriptedPolicy:
    """Answers by a script.

    Args:
        chat: Encodes what the script says.
        script: What the policy says to a context; the end of turn is added.
        broken: Numbers of the requests, from 0, that raise an `InfraError` instead.
        policy_version: Of every completion.
    """

    name = "scripted"

    def __init__(self, chat: ChatFormat, script: Script, *, broken: Container[int] = (), policy_version: str = "1.0") -> None:
        self.chat = chat
        self.script = script
        self.broken = broken
        self.policy_version = policy_version
        self.asked: list[Asked] = []
        self.num_requests = 0
        self.in_flight = 0
        self.most_in_flight = 0

    async def start(self) -> None:
        """Nothing to start."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Return what the script says, cut where the sampling says."""
        number, self.num_requests = self.num_requests, self.num_requests + 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)  # others get their turn, as with an engine that batches
        self.in_flight -= 1
        if number in self.broken:
            raise InfraError(f"request {number} was to break")
        tokenizer = self.chat.tokenizer
        said = self.script(tokenizer.decode(list(prompt_ids), skip_special_tokens=False))
        whole = (*tokenizer.encode(said, add_special_tokens=False), self.chat.end_id)
        ids = whole[: sampling.max_tokens]
        self.asked.append(Asked(prompt_ids=tuple(prompt_ids), sampling=sampling, completion_ids=ids))
        return Completion(
            token_ids=ids,
            logprobs=tuple(made_up_logprob(token) for token in ids),
            policy_version=self.policy_version,
            finish="stop" if len(ids) == len(whole) else "length",
        )

    async def update_weights(self, update: WeightUpdate) -> None:
        """Take the version; the script stays."""
        self.policy_version = update.policy_version

    async def close(self) -> None:
        """Nothing to stop."""


def make_recipe(environment: str = "code", **rollout: object) -> Recipe:
    """Return a recipe with one environment (a name, or ``module:Class``)."""
    name = environment.rpartition(":")[2].lower()
    return Recipe.model_validate({"environments": {name: {"use": environment}}, "rollout": {"env_threads": 4, **rollout}})


def make_collector(policy: ScriptedPolicy, recipe: Recipe, *, max_context: int = 4096, places: int = 8) -> Collector:
    """Return what collects a scripted policy's attempts; it has to be made and used in one event loop."""
    rollout = recipe.rollout
    return Collector(
        stage=Stage(recipe),
        engine=policy,
        chat=policy.chat,
        limits=Limits.of(rollout, max_context),
        sampling=Sampling(max_tokens=rollout.max_tokens_per_turn),
        max_retries=rollout.max_retries,
        places=asyncio.Semaphore(places),
        traffic=Traffic(),
    )
