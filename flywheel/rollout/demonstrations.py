"""Demonstrations: the generators' reference actions, played through the real environment and verified, then made into rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.errors import ConfigError, FlywheelError, InfraError, described
from flywheel.inference.chat import ChatFormat
from flywheel.rollout.playing import imitation_row, play
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Row, Task, content_id


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
    waiting = enumerate(references)
    played: dict[int, Demonstration] = {}

    async def play_on() -> None:
        for number, (task, actions) in waiting:  # all take from the one iterator, so tasks are drawn as places become free
            played[number] = await _play(stage, task, actions)
            progress(len(played))

    try:
        await asyncio.gather(*(play_on() for _ in range(concurrency)))
    except NotImplementedError as error:
        raise ConfigError(f'demonstrations are needed (policy.model = "tiny", or cold_start.steps above 0), but {error}') from None
    except FlywheelError:
        raise
    except Exception as error:  # plug-in code
        raise ConfigError(f"demonstrate() raised {described(error)}; mend the environment") from error
    return [played[number] for number in sorted(played)]


def demonstration_row(demonstration: Demonstration, chat: ChatFormat) -> Row:
    """Return a demonstration as a cross-entropy row in the policy's own chat template; observations have mask 0.

    Raises:
        ConfigError: the policy's syntax can't say one of its actions.
    """
    try:
        return imitation_row(demonstration.experience, demonstration.tools, chat)
    except ValueError as error:
        task = demonstration.experience.task
        raise ConfigError(f"a demonstration of {task.env}/{task.family} can't be made a row: {error}") from error


async def _play(stage: Stage, task: Task, actions: Sequence[str]) -> Demonstration:
    """Play and judge one demonstration.

    Raises:
        ConfigError: it broke at every try, or the reference does not solve its task.
    """
    try:
        played = await play(stage, task, [[action] for action in actions])
    except InfraError as error:
        raise ConfigError(f"a demonstration of {task.env}/{task.family} could not be played: {error}") from None
    except Exception as error:  # plug-in code
        said = described(error)
        raise ConfigError(f"a demonstration of {task.env}/{task.family} could not be played: the environment raised {said}") from error
    verdict = played.verdict
    if verdict.outcome != "solved":
        raise ConfigError(
            f"the reference solution of a {task.env}/{task.family} task does not solve it ({verdict.outcome}): {verdict.evidence}\n"
            f"task: {task.prompt}\nactions: {list(actions)}"
        )
    identity = content_id("experience", "demonstration", task.id)
    experience = Experience(
        id=identity, group_id=identity, task=task, trajectory=played.trajectory, verdict=verdict, origin="demonstration"
    )
    return Demonstration(experience=experience, tools=played.tools)
