"""Demonstrations: the generators' reference actions, played through the real environment and verified, then made into rows."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.errors import ConfigError, InfraError
from flywheel.inference.chat import ChatFormat
from flywheel.judge import judge
from flywheel.rollout.asking import backoff_s
from flywheel.rollout.episode import answer_of
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Row, Task, ToolCall, Trajectory, Turn, content_id

_MAX_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """A solved task as text: the actions and what the environment said to each (the last one ends the episode)."""

    experience: Experience
    tools: list[dict[str, Any]]


async def play_demonstrations(
    references: Iterable[tuple[Task, list[str]]], stage: Stage, *, concurrency: int, progress: Callable[[int], None]
) -> list[Demonstration]:
    """Play and verify demonstrations, in order.

    Args:
        references: Tasks and their reference actions.
        stage: Lends environments and verifiers.
        concurrency: How many at once.
        progress: Called with the number played so far.

    Raises:
        ConfigError: an environment has no demonstrations, or a reference does not solve its own task.
    """
    places = asyncio.Semaphore(concurrency)
    played = 0

    async def play(task: Task, actions: list[str]) -> Demonstration:
        nonlocal played
        async with places:
            demonstration = await _play(stage, task, actions)
        played += 1
        progress(played)
        return demonstration

    try:
        chosen = list(references)
    except NotImplementedError as error:
        raise ConfigError(f'demonstrations are needed (policy.model = "tiny", or cold_start.steps above 0), but {error}') from None
    return list(await asyncio.gather(*(play(task, actions) for task, actions in chosen)))


def demonstration_row(demonstration: Demonstration, chat: ChatFormat) -> Row:
    """Return a demonstration as a cross-entropy row in the policy's own chat template; observations have mask 0."""
    experience = demonstration.experience
    prompt = chat.render_task(experience.task.prompt, demonstration.tools)
    completion: list[int] = []
    mask: list[int] = []
    after: Sequence[int] = ()
    observation: str | None = None
    as_tool = False
    for turn in experience.trajectory.turns:
        if observation is not None:
            said = chat.render_observation([observation], after=after, as_tool=as_tool)
            completion += said
            mask += [0] * len(said)
        after = chat.render_action(turn.text, demonstration.tools)
        completion += after
        mask += [1] * len(after)
        observation, as_tool = turn.observation, bool(turn.tool_calls)
    return Row(
        experience_id=experience.id,
        kind="ce",
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        loss_mask=tuple(mask),
        behavior_logprobs=None,
        advantage=0.0,
    )


async def _play(stage: Stage, task: Task, actions: Sequence[str]) -> Demonstration:
    """Play and judge one demonstration; what breaks through nobody's fault is tried again.

    Raises:
        ConfigError: it broke at every try, or the reference does not solve its task.
    """
    problem = ""
    for attempt in range(_MAX_TRIES):
        if attempt:
            await asyncio.sleep(backoff_s(min(attempt - 1, 2)))
        try:
            trajectory, tools = await _acted(stage, task, actions)
        except InfraError as error:
            problem = str(error)
            continue
        verdict = await stage.call(judge, stage.verifiers[task.env], task, trajectory)
        if verdict.outcome == "solved":
            identity = content_id("experience", "demonstration", task.id)
            experience = Experience(
                id=identity, group_id=identity, task=task, trajectory=trajectory, verdict=verdict, origin="demonstration"
            )
            return Demonstration(experience=experience, tools=tools)
        if verdict.outcome != "infra_error":
            raise ConfigError(
                f"the reference solution of a {task.env}/{task.family} task does not solve it ({verdict.outcome}): {verdict.evidence}\n"
                f"task: {task.prompt}\nactions: {list(actions)}"
            )
        problem = verdict.evidence
    raise ConfigError(f"a demonstration of {task.env}/{task.family} could not be played: {problem}")


async def _acted(stage: Stage, task: Task, actions: Sequence[str]) -> tuple[Trajectory, list[dict[str, Any]]]:
    """Return the trajectory of some actions, and the environment's tools."""
    turns: list[Turn] = []
    env_return = 0.0
    async with stage.environment(task.env) as env:
        await stage.call(env.reset, seed=task.seed % 2**31, options={"task": task})
        terminated = False
        for action in actions:
            observation, reward, terminated, _, _ = await stage.call(env.step, action)
            env_return += float(reward)
            turns.append(_turn(action, str(observation)))
        trajectory = Trajectory(
            task_id=task.id,
            turns=tuple(turns),
            stop_reason="terminated" if terminated else "max_turns",
            answer=None,
            env_return=env_return,
            seed=task.seed,
        )
        return dataclasses.replace(trajectory, answer=answer_of(env, trajectory)), list(getattr(env, "tools", []))


def _turn(action: str, observation: str) -> Turn:
    try:
        data = json.loads(action)
        calls: tuple[ToolCall, ...] = (ToolCall(name=data["name"], arguments=data.get("arguments", {})),)
    except (ValueError, TypeError, KeyError):
        calls = ()
    return Turn(
        prompt_ids=(),
        completion_ids=(),
        behavior_logprobs=None,
        policy_version="reference",
        text=action,
        tool_calls=calls,
        observation=observation,
    )
