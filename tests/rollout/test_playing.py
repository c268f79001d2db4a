"""Given actions, played: where the episode ends, what is retried, and rows of turns that are partly the policy's."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest

from flywheel.errors import InfraError
from flywheel.rollout.playing import Played, actions_of, imitation_row, play
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Task, ToolCall, Turn
from tests.rollout.rooms import room_task
from tests.scripted import make_chat, make_recipe

CHAT = make_chat()
LOOK = json.dumps({"name": "look", "arguments": {}})
SAY = json.dumps({"name": "submit", "arguments": {"word": "red"}})


def played(turns: list[list[str]], task: Task | None = None, *, max_tries: int = 2) -> Played:
    async def run() -> Played:
        stage = Stage(make_recipe("tests.rollout.rooms:Room"))
        try:
            return await play(stage, task or room_task(), turns, max_tries=max_tries)
        finally:
            stage.close()

    return asyncio.run(run())


def test_turns_may_have_several_actions_and_end_with_the_episode() -> None:
    found = played([[LOOK, LOOK], [SAY, LOOK], [LOOK]])
    assert [turn.observation for turn in found.trajectory.turns] == ["four walls\nfour walls", "said"]
    assert [len(turn.tool_calls) for turn in found.trajectory.turns] == [2, 1]
    assert (found.trajectory.stop_reason, found.trajectory.answer, found.verdict.outcome) == ("terminated", "red", "solved")


def test_actions_that_end_nothing_leave_it_open() -> None:
    assert played([[LOOK]]).trajectory.stop_reason == "max_turns"


def test_what_breaks_at_every_try_is_nobodys_fault() -> None:
    with pytest.raises(InfraError, match="the room's sandbox died"):
        played([[LOOK]], room_task(mood="dead"), max_tries=1)
    with pytest.raises(InfraError, match="no verdict"):
        played([[SAY]], room_task(mood="dead judge"), max_tries=1)


def test_actions_of_a_turn_are_its_calls_or_its_text() -> None:
    turn = Turn(prompt_ids=(), completion_ids=(), behavior_logprobs=None, policy_version="", text="hello")
    assert actions_of(turn) == ["hello"]
    call = ToolCall(name="submit", arguments={"word": "red"})
    assert actions_of(dataclasses.replace(turn, tool_calls=(call,))) == [SAY]


def test_sampled_ids_stay_and_the_rest_is_rendered() -> None:
    found = played([[LOOK], [SAY]])
    look, say = found.trajectory.turns
    own = dataclasses.replace(look, completion_ids=(7, 8, CHAT.end_id))
    trajectory = dataclasses.replace(found.trajectory, turns=(own, say))
    experience = Experience(id="e", group_id="g", task=room_task(), trajectory=trajectory, verdict=found.verdict, origin="repair")
    row = imitation_row(experience, found.tools, CHAT, trained_from=1)
    between = CHAT.render_observation(["four walls"], after=own.completion_ids)
    said = CHAT.render_action(SAY, found.tools)
    assert row.prompt_ids == CHAT.render_task(room_task().prompt, found.tools)
    assert row.completion_ids == (7, 8, CHAT.end_id, *between, *said)
    assert row.loss_mask == (0,) * (3 + len(between)) + (1,) * len(said)
    assert imitation_row(experience, found.tools, CHAT).loss_mask[:3] == (1, 1, 1)
