"""Demonstrations: the generators' reference actions, played through the real environment and verified, then made into rows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.errors import ConfigError, FlywheelError, InfraError, described
from flywheel.inference.chat import ChatFormat
from flywheel.rollout.playing import imitation_row, play
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Row, Task, content_id

DRAWN_AT_ONCE = 500  # drawing keeps everything else waiting, and nothing drawn shows no progress


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
    num_played = 0

    async def play_one(task: Task, actions: list[str]) -> Demonstration:
        nonlocal num_played
        async with places:
            demonstration = await _play(stage, task, actions)
        num_played += 1
        progress(num_played)
        return demonstration

    waiting, played = iter(references), list[Demonstration]()
    while chosen := _drawn(waiting):
        played += await asyncio.gather(*(play_one(task, actions) for task, actions in chosen))
    return played


def _drawn(references: Iterator[tuple[Task, list[str]]]) -> list[tuple[Task, list[str]]]:
    """Return the next few tasks and their reference actions."""
    try:
        return list(itertools.islice(references, DRAWN_AT_ONCE))
    except NotImplementedError as error:
        raise ConfigError(f'demonstrations are needed (policy.model = "tiny", or cold_start.steps above 0), but {error}') from None
    except FlywheelError:
        raise
    except Exception as error:  # plug-in code
        raise ConfigError(f"demonstrate() raised {described(error)}; mend the environment") from error


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
