"""Demonstrations: played through the real environments and verified, then rows that read as the policy's own attempts would."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.envs.lean.environment import LeanEnv
from flywheel.errors import ConfigError
from flywheel.rollout.demonstrations import Demonstration, demonstration_row, play_demonstrations
from flywheel.rollout.stage import Stage
from flywheel.router import grpo_row
from flywheel.tasks.source import TaskSource
from flywheel.types import Task
from tests.rollout.rooms import room_task
from tests.scripted import ScriptedPolicy, make_chat, make_collector, make_recipe

CHAT = make_chat()
ROOM = "tests.rollout.rooms:Room"
BOTH = Recipe.model_validate({"environments": {"code": {}, "chemistry": {}}, "rollout": {"env_threads": 4}})


def action(name: str, **arguments: str) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def played(references: Any, recipe: Recipe) -> tuple[list[Demonstration], list[int]]:
    counts: list[int] = []

    async def play() -> list[Demonstration]:
        stage = Stage(recipe)
        try:
            return await play_demonstrations(references, stage, concurrency=4, progress=counts.append)
        finally:
            stage.close()

    return asyncio.run(play()), counts


@pytest.fixture(scope="module")
def demonstrations() -> list[Demonstration]:
    references = list(islice(TaskSource(BOTH).demonstrations(0), 12))
    found, counts = played(references, BOTH)
    assert counts == list(range(1, 13))
    assert [d.experience.task for d in found] == [task for task, _ in references]
    return found


def test_the_sources_references_are_played_and_verified(demonstrations: list[Demonstration]) -> None:
    assert {d.experience.task.env for d in demonstrations} == {"code", "chemistry"}
    for demonstration in demonstrations:
        experience = demonstration.experience
        assert (experience.origin, experience.verdict.outcome) == ("demonstration", "solved")
        assert experience.trajectory.stop_reason == "terminated"
        assert experience.task.split == "train"
        assert all(turn.behavior_logprobs is None and turn.observation for turn in experience.trajectory.turns)


def test_a_row_is_what_the_policys_own_attempt_would_be(demonstrations: list[Demonstration]) -> None:
    """The cold start trains the very ids that a rollout of the same actions gives, with the same mask."""
    for name in ("code", "chemistry"):
        demonstration = next(
            d
            for d in demonstrations
            if d.experience.task.env == name and not any('"imitate"' in t.text for t in d.experience.trajectory.turns)
        )
        said = [
            CHAT.tokenizer.decode(CHAT.render_action(t.text, demonstration.tools)[:-1]) for t in demonstration.experience.trajectory.turns
        ]
        policy = ScriptedPolicy(CHAT, lambda context, said=said: said[context.count("<|im_start|>assistant") - 1])  # type: ignore[misc]

        async def attempt(policy: ScriptedPolicy = policy, name: str = name, task: Task = demonstration.experience.task) -> Any:
            collector = make_collector(policy, make_recipe(name), places=1)
            (group,) = await collector.collect([task], 2, name="test")
            collector.stage.close()
            return group.experiences[0]

        own = grpo_row(asyncio.run(attempt()), 0.0)
        row = demonstration_row(demonstration, CHAT)
        assert (row.kind, row.behavior_logprobs) == ("ce", None)
        assert (row.prompt_ids, row.completion_ids, row.loss_mask) == (own.prompt_ids, own.completion_ids, own.loss_mask)
        assert 0 in row.loss_mask if name == "code" else set(row.loss_mask) == {1}


def test_observations_are_not_trained() -> None:
    (demonstration,), _ = played([(room_task(), [action("look"), action("submit", word="red")])], make_recipe(ROOM))
    row = demonstration_row(demonstration, CHAT)
    trained = [token for token, mask in zip(row.completion_ids, row.loss_mask, strict=True) if mask]
    masked = [token for token, mask in zip(row.completion_ids, row.loss_mask, strict=True) if not mask]
    assert CHAT.tokenizer.decode(masked) == "\n<|im_start|>tool\nfour walls<|im_end|>\n<|im_start|>assistant\n"
    assert CHAT.tokenizer.decode(trained) == (
        "<tool_call><function=look></function></tool_call><|im_end|>"
        "<tool_call><function=submit><parameter=word>red</parameter></function></tool_call><|im_end|>"
    )


@pytest.mark.parametrize(
    ("actions", "why"),
    [
        ([action("submit", word="blue")], "does not solve it (failed): blue"),
        ([action("look")], "does not solve it"),
        (["nonsense"], "does not solve it"),
    ],
)
def test_a_reference_that_does_not_solve_its_task_is_an_error(actions: list[str], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        played([(room_task(), actions)], make_recipe(ROOM))
    assert why in str(caught.value)
    assert "Say it." in str(caught.value)


def test_an_environment_without_demonstrations_is_an_error_that_says_so() -> None:
    source = TaskSource(make_recipe(ROOM))
    with pytest.raises(ConfigError, match=r"demonstrations are needed .*, but Room has no demonstrations"):
        played(islice(source.demonstrations(0), 2), make_recipe(ROOM))


ADDITION: dict[str, Any] = {
    "prompt": "Write f(a, b), their sum.",
    "payload": {
        "entry_point": "f",
        "hidden_tests": [{"kind": "call", "args": [1, 2], "expected": 3}],
        "reference": "def f(a, b):\n    return a + b\n",
    },
}
PROPANE: dict[str, Any] = {
    "prompt": "Give the SMILES of propane.",
    "payload": {"constraints": [{"kind": "formula", "value": "C3H8"}], "reference": "CCC"},
}


def of_records(folder: Path, **records: list[dict[str, Any]]) -> Recipe:
    """Return a recipe of task records by environment."""
    sections = {}
    for env, found in records.items():
        file = folder / f"{env}.jsonl"
        file.write_text("".join(f"{json.dumps(record)}\n" for record in found))
        sections[env] = {"tasks_file": str(file)}
    return Recipe.model_validate({"environments": sections, "tasks": {"heldout_share": 0.01}})


def test_task_records_are_demonstrated_by_the_references_that_they_have(tmp_path: Path) -> None:
    recipe = of_records(tmp_path, code=[ADDITION], chemistry=[PROPANE])
    found, _ = played(islice(TaskSource(recipe).demonstrations(0), 6), recipe)
    answers = {d.experience.task.env: (d.experience.verdict.outcome, d.experience.trajectory.answer) for d in found}
    assert answers == {"code": ("solved", ADDITION["payload"]["reference"]), "chemistry": ("solved", "CCC")}


def test_lean_records_are_demonstrated_by_their_proofs_whole() -> None:
    env = LeanEnv()
    task = Task.create(env="lean", family="x", prompt="Prove it.", payload={"statement": "theorem t : True", "reference": "by\n  trivial"})
    assert env.demonstrate(task) == [action("submit", proof="by\n  trivial")]
    with pytest.raises(NotImplementedError):
        env.demonstrate(replace(task, payload={"statement": "theorem t : True"}))


def test_records_of_which_some_have_no_reference_are_not_demonstrated(tmp_path: Path) -> None:
    bare = {**ADDITION, "payload": {**ADDITION["payload"], "reference": None}, "prompt": "Add."}
    source = TaskSource(of_records(tmp_path, code=[ADDITION, bare]))
    with pytest.raises(NotImplementedError, match=r"1 of 2 task records carry none \(the one with id \w+, say: it has no reference\)"):
        next(source.demonstrations(0))


def test_an_environment_that_breaks_is_an_error_and_not_a_demonstration() -> None:
    with pytest.raises(ConfigError, match="could not be played: the room's sandbox died"):
        played([(room_task(mood="dead"), [action("look")])], make_recipe(ROOM))
