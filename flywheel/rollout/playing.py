"""Actions that are given, not sampled: played through the real environment, judged, and made into a row of the policy's own tokens."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.errors import InfraError
from flywheel.inference.chat import ChatFormat
from flywheel.judge import judge
from flywheel.rollout.asking import backoff_s
from flywheel.rollout.episode import answer_of
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Row, Task, ToolCall, Trajectory, Turn, Verdict

_MAX_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What came of some actions: a trajectory without token ids, its verdict, and the environment's tools.

    Where the episode ended before the last of the actions, the trajectory has fewer turns than were given.
    """

    trajectory: Trajectory
    verdict: Verdict
    tools: list[dict[str, Any]]


async def play(
    stage: Stage, task: Task, turns: Sequence[Sequence[str]], *, policy_version: str = "reference", max_tries: int = _MAX_TRIES
) -> Played:
    """Play a task and judge what came of it; what breaks through nobody's fault is tried again.

    Args:
        stage: Lends the environment and the verifier.
        task: What to play.
        turns: Each turn's actions.
        policy_version: Whose actions they are.
        max_tries: How often.

    Raises:
        InfraError: it broke at every try.
    """
    problem = ""
    for attempt in range(max_tries):
        if attempt:
            await asyncio.sleep(backoff_s(min(attempt - 1, 2)))
        try:
            trajectory, tools = await _acted(stage, task, turns, policy_version)
        except InfraError as error:
            problem = str(error)
            continue
        verdict: Verdict = await stage.call(judge, stage.verifiers[task.env], task, trajectory)
        if verdict.outcome != "infra_error":
            return Played(trajectory=trajectory, verdict=verdict, tools=tools)
        problem = verdict.evidence
    raise InfraError(problem)


def actions_of(turn: Turn) -> list[str]:
    """Return a turn's actions as an environment takes them: its tool calls, else its text."""
    calls = [json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False) for call in turn.tool_calls]
    return calls or [turn.text]


def imitation_row(experience: Experience, tools: Sequence[dict[str, Any]], chat: ChatFormat, *, trained_from: int = 0) -> Row:
    """Return an attempt as a cross-entropy row that begins with its task's own prompt; observations have mask 0.

    Ids that a policy sampled, and those of the observations between them, stay as they are; everything else is rendered.

    Args:
        experience: The attempt.
        tools: The environment's.
        chat: The policy's format.
        trained_from: The first turn with mask 1.

    Raises:
        ValueError: an action that no policy sampled can't be said in the policy's syntax.
    """
    prompt = chat.render_task(experience.task.prompt, tools)
    completion: list[int] = []
    mask: list[int] = []
    ids: Sequence[int] = ()
    before: Turn | None = None
    for number, turn in enumerate(experience.trajectory.turns):
        if before is not None:
            said = turn.prompt_ids or chat.render_observation([before.observation or ""], after=ids, as_tool=bool(before.tool_calls))
            completion += said
            mask += [0] * len(said)
        ids = turn.completion_ids or chat.render_action(turn.text, tools, prompt=[*prompt, *completion])
        completion += ids
        mask += [int(number >= trained_from)] * len(ids)
        before = turn
    return Row(
        experience_id=experience.id,
        kind="ce",
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        loss_mask=tuple(mask),
        behavior_logprobs=None,
        advantage=0.0,
    )


async def _acted(stage: Stage, task: Task, turns: Sequence[Sequence[str]], policy_version: str) -> tuple[Trajectory, list[dict[str, Any]]]:
    made: list[Turn] = []
    env_return = 0.0
    ended = ""
    async with stage.environment(task.env) as env:
        await stage.call(env.reset, seed=task.seed % 2**31, options={"task": task})
        for actions in turns:
            if ended:
                break
            observations: list[str] = []
            for action in actions:
                observation, reward, terminated, truncated, _ = await stage.call(env.step, action)
                observations.append(str(observation))
                env_return += float(reward)
                ended = "terminated" if terminated else "truncated" if truncated else ""
                if ended:
                    break
            made.append(_turn(actions[: len(observations)], "\n".join(observations), policy_version))
        trajectory = Trajectory(
            task_id=task.id,
            turns=tuple(made),
            stop_reason="terminated" if ended == "terminated" else "max_turns",
            answer=None,
            env_return=env_return,
            seed=task.seed,
        )
        return dataclasses.replace(trajectory, answer=answer_of(env, trajectory)), list(getattr(env, "tools", []))


def _turn(actions: Sequence[str], observation: str, policy_version: str) -> Turn:
    return Turn(
        prompt_ids=(),
        completion_ids=(),
        behavior_logprobs=None,
        policy_version=policy_version,
        text="\n".join(actions),
        tool_calls=tuple(call for action in actions if (call := _call(action)) is not None),
        observation=observation,
    )


def _call(action: str) -> ToolCall | None:
    try:
        data = json.loads(action)
        return ToolCall(name=data["name"], arguments=data.get("arguments", {}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
