"""Attempts by script, and what a harvest makes of them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from flywheel.config import Recipe
from flywheel.contracts import Engine
from flywheel.hindsight.harvest import Harvest, Harvester
from flywheel.hindsight.instructions import Instructor
from flywheel.rollout.stage import Stage
from flywheel.store.journal import Journal
from flywheel.tasks.chat_model import ChatModel
from flywheel.tasks.source import TaskSource
from flywheel.types import Experience, Group, Task, content_id
from tests.scripted import ScriptedPolicy, make_chat, make_collector

CHAT = make_chat()


def recipe_of(environment: str, *, section: Mapping[str, object] | None = None, **learning: float) -> Recipe:
    """Return a recipe with one environment (a name, or ``module:Class``), hindsight and repair on."""
    name = environment.rpartition(":")[2].lower()
    shares = {"hindsight_share": 1.0, "repair_share": 0.0, "trivial_above": 0.95, **learning}
    return Recipe.model_validate(
        {
            "environments": {name: {"use": environment, **(section or {})}},
            "rollout": {"env_threads": 2, "max_turns": 4},
            "learning": shares,
            "evaluation": {"tasks_per_environment": 4},
        }
    )


def collected(recipe: Recipe, task: Task, *scripts: Sequence[str]) -> Group:
    """Return a group with an attempt a script: what the policy says turn by turn."""
    return asyncio.run(_collected(recipe, task, scripts))


async def _collected(recipe: Recipe, task: Task, scripts: Sequence[Sequence[str]]) -> Group:
    group_id = content_id("group", task.id)
    experiences: list[Experience] = []
    for number, said in enumerate(scripts):
        policy = ScriptedPolicy(CHAT, lambda context, said=said: said[context.count("<|im_start|>assistant") - 1])  # type: ignore[misc]
        collector = make_collector(policy, recipe)
        (group,) = await collector.collect([task], 1, name=f"{number}")
        collector.stage.close()
        experiences.append(dataclasses.replace(group.experiences[0], group_id=group_id))
    return Group(id=group_id, task=task, experiences=tuple(experiences))


def harvested(
    recipe: Recipe,
    groups: Sequence[Group],
    folder: Path,
    *,
    steps: int = 1,
    model: ChatModel | None = None,
    engine: Engine | None = None,
) -> list[Harvest]:
    """Return the harvests of the same groups, step by step; a model words the tasks, and a policy can be asked, where one is given."""
    return asyncio.run(_harvested(recipe, groups, folder, steps, model, engine))


async def _harvested(
    recipe: Recipe, groups: Sequence[Group], folder: Path, steps: int, model: ChatModel | None, engine: Engine | None
) -> list[Harvest]:
    stage, journal = Stage(recipe), Journal(folder)
    try:
        journal.append_groups(groups, step=1)
        source = TaskSource(recipe)
        instructor = None if model is None else Instructor(model, CHAT, source, seed=0)
        harvester = Harvester(recipe, stage, CHAT, source, journal, instructor, engine)
        found = []
        for step in range(1, steps + 1):
            found.append(await harvester.harvest(groups, step=step))
            journal.append_experiences([lesson.experience for lesson in found[-1].lessons], step=step)
        return found
    finally:
        stage.close()
        journal.close()


def said(ids: Sequence[int]) -> str:
    """Return ids as text."""
    return str(CHAT.tokenizer.decode(list(ids), skip_special_tokens=False))
