"""One episode: the policy and an environment take turns, token ids in and token ids out.

The ids that the model saw and sampled are kept as they were; only *new* text (the task, each observation) is ever tokenised.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.config import RolloutConfig
from flywheel.contracts import Engine, Sampling
from flywheel.inference.chat import ChatFormat
from flywheel.rollout.stage import Stage
from flywheel.types import StopReason, Task, ToolCall, Trajectory, Turn, derive_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an episode may use. `max_context` counts prompt and completion ids together."""

    max_turns: int
    max_tokens_per_turn: int
    max_tokens_per_episode: int
    max_context: int

    @staticmethod
    def of(config: RolloutConfig, max_context: int) -> Limits:
        """Return the limits that a recipe and the model's context set."""
        return Limits(
            max_turns=config.max_turns,
            max_tokens_per_turn=config.max_tokens_per_turn,
            max_tokens_per_episode=config.max_tokens_per_episode,
            max_context=max_context,
        )


async def run_episode(
    task: Task, *, stage: Stage, engine: Engine, chat: ChatFormat, limits: Limits, sampling: Sampling, seed: int
) -> Trajectory:
    """Play one episode of `task`; a limit that is reached ends it with its own stop reason.

    Args:
        task: What to do.
        stage: Lends the environment.
        engine: Samples the completions.
        chat: The policy's chat template and tool-call syntax.
        limits: When to stop.
        sampling: Temperature and truncation; the token limit is set for each turn.
        seed: The environment's seed, and (where ``sampling.seed`` is set) that of each turn.

    Raises:
        InfraError: the engine or the environment broke.
    """
    async with stage.environment(task.env) as env:
        prompt, _ = await stage.call(env.reset, seed=task.seed % 2**31, options={"task": task})
        tools = getattr(env, "tools", [])
        new_ids = chat.render_task(prompt, tools)
        turns: list[Turn] = []
        context: list[int] = []
        env_return = 0.0
        stop: StopReason | None = None
        said: str | None = None
        while stop is None:
            context += new_ids
            room, limit = _room(limits, turns, len(context))
            if room < 1:
                stop = limit
                break
            turn_seed = None if sampling.seed is None else derive_seed(seed, "turn", len(turns))
            asked = dataclasses.replace(sampling, max_tokens=room, seed=turn_seed)
            completion = await engine.generate(context, asked)
            parsed = chat.parse(completion.token_ids, tools, prompt=context)
            said = parsed.content if parsed.reasoning else parsed.text
            context += completion.token_ids
            calls: tuple[ToolCall, ...] = ()
            observations: list[str] = []
            if completion.finish == "length":
                stop = limit
            else:
                reached = await _act(env, stage, parsed.tool_calls, said)
                calls, observations = reached.calls, reached.observations
                env_return += reached.reward
                stop = reached.stop or ("max_turns" if len(turns) + 1 >= limits.max_turns else None)
            turns.append(
                Turn(
                    prompt_ids=tuple(new_ids),
                    completion_ids=completion.token_ids,
                    behavior_logprobs=completion.logprobs,
                    policy_version=completion.policy_version,
                    text=parsed.text,
                    tool_calls=calls,
                    observation="\n".join(observations) if observations else None,
                )
            )
            if stop is None:
                new_ids = chat.render_observation(observations, after=completion.token_ids, as_tool=bool(calls))
        trajectory = Trajectory(
            task_id=task.id, turns=tuple(turns), stop_reason=stop or "max_turns", answer=None, env_return=env_return, seed=seed
        )
        return dataclasses.replace(trajectory, answer=answer_of(env, trajectory, said))


def answer_of(env: Any, trajectory: Trajectory, said: str | None = None) -> str | None:
    """Return what the environment says is judged; without an ``answer`` method, what was `said` last (default: the last turn's text)."""
    if hasattr(env, "answer"):
        answer: str | None = env.answer(trajectory)
        return answer
    return trajectory.turns[-1].text if said is None and trajectory.turns else said


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reached:
    calls: tuple[ToolCall, ...]
    observations: list[str]
    reward: float
    stop: StopReason | None


async def _act(env: Any, stage: Stage, calls: Sequence[ToolCall], text: str) -> _Reached:
    """Play a turn's tool calls one after another until the episode ends; plain text is an action of its own."""
    made: list[ToolCall] = []
    observations: list[str] = []
    reward = 0.0
    for call in calls or (None,):
        action = text if call is None else json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
        observation, step_reward, terminated, truncated, _ = await stage.call(env.step, action)
        observations.append(str(observation))
        reward += float(step_reward)
        if call is not None:
            made.append(call)
        if terminated or truncated:
            stop: StopReason = "terminated" if terminated else "max_turns"
            return _Reached(calls=tuple(made), observations=observations, reward=reward, stop=stop)
    return _Reached(calls=tuple(made), observations=observations, reward=reward, stop=None)


def _room(limits: Limits, turns: Sequence[Turn], context_length: int) -> tuple[int, StopReason]:
    """Return how many tokens the next completion may have, and the reason to stop when it uses them all."""
    used = sum(len(turn.completion_ids) for turn in turns)
    room = min(limits.max_tokens_per_turn, limits.max_tokens_per_episode - used)
    in_context = limits.max_context - context_length
    return (room, "max_tokens") if room <= in_context else (in_context, "max_context")
