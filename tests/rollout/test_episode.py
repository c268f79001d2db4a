"""Episodes of a scripted policy with the real environments: what the model saw, what trains, and what ends them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from flywheel.contracts import draw_params
from flywheel.envs.chemistry import ChemistryEnv
from flywheel.envs.code.families import FAMILIES
from flywheel.inference.chat import ChatFormat
from flywheel.router import grpo_row
from flywheel.types import Experience, StopReason, Task, Trajectory, to_json
from tests.rollout.rooms import room_task
from tests.scripted import Script, ScriptedPolicy, call, made_up_logprob, make_chat, make_collector, make_recipe

CHAT = make_chat()
ROOM = "tests.rollout.rooms:Room"


def code_task(seed: int = 3) -> Task:
    generator = FAMILIES["lists"]
    return generator.generate(draw_params(generator.knobs, {}, seed), seed)


def attempt(
    task: Task, script: Script, *, environment: str = "code", max_context: int = 4096, chat: ChatFormat = CHAT, **rollout: Any
) -> tuple[Experience, ScriptedPolicy]:
    """Return the first of a group's attempts, and the policy that made them."""
    policy = ScriptedPolicy(chat, script)

    async def collected() -> Experience:
        collector = make_collector(policy, make_recipe(environment, **rollout), max_context=max_context, places=1)
        try:
            (group,) = await collector.collect([task], 2, name="test")
        finally:
            collector.stage.close()
        return group.experiences[0]

    return asyncio.run(collected()), policy


def text(ids: tuple[int, ...]) -> str:
    return str(CHAT.tokenizer.decode(list(ids), skip_special_tokens=False))


def test_then_submit() -> None:
    task = code_task()
    source = task.payload["reference"]
    tested = call("run_tests", code=source)
    found, policy = attempt(task, lambda context: call("submit") if "1/1 passed" in context else tested)
    assert (found.verdict.outcome, found.verdict.reward) == ("solved", 1.0)
    assert found.trajectory.stop_reason == "terminated"
    assert found.trajectory.answer == source
    first, second = found.trajectory.turns
    assert (first.text, first.observation) == (tested, "1/1 passed")
    assert (second.text, second.observation) == (call("submit"), "submitted")
    assert [(c.name, dict(c.arguments)) for c in first.tool_calls] == [("run_tests", {"code": source})]
    # The two requests of this attempt come first: it has the only place.
    assert text(policy.asked[0].prompt_ids) == f"<|im_start|>user\n{task.prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert text(second.prompt_ids) == "\n<|im_start|>tool\n1/1 passed<|im_end|>\n<|im_start|>assistant\n"


def test_the_turns_are_what_the_model_saw_and_the_mask_is_what_it_said() -> None:
    task = code_task()
    wrong = call("run_tests", code="def f(xs):\n    return xs  # ∀ 猫\n")
    sayings = [wrong, "Let me think.", call("run_code", code="print('1/1')"), call("submit", code=task.payload["reference"])]
    found, policy = attempt(task, lambda context: sayings[context.count("<|im_start|>assistant") - 1])
    turns = found.trajectory.turns
    assert [turn.text for turn in turns] == sayings
    seen: tuple[int, ...] = ()
    for turn, asked in zip(turns, policy.asked[:4], strict=True):
        seen += turn.prompt_ids
        assert asked.prompt_ids == seen
        assert turn.completion_ids == asked.completion_ids
        assert turn.behavior_logprobs == tuple(made_up_logprob(token) for token in turn.completion_ids)
        seen += turn.completion_ids
    row = grpo_row(found, 1.0)
    assert row.prompt_ids + row.completion_ids == seen
    assert row.behavior_logprobs is not None
    said = [token for token, trained in zip(row.completion_ids, row.loss_mask, strict=True) if trained]
    assert said == [token for turn in turns for token in turn.completion_ids]
    expected = [made_up_logprob(t) if m else 0.0 for t, m in zip(row.completion_ids, row.loss_mask, strict=True)]
    assert list(row.behavior_logprobs) == expected
    # Text to ids and back: what was read is not tokenised again, and nothing was lost on the way.
    assert text(seen).count("<|im_end|>") == 8
    assert "return xs  # ∀ 猫" in text(seen)


def test_without_a_call_the_error_comes_as_a_user_turn() -> None:
    found, _ = attempt(room_task(), lambda context: "red" if "Error" not in context else call("submit", word="red"), environment=ROOM)
    first, second = found.trajectory.turns
    assert first.tool_calls == ()
    assert first.observation == "Error: no tool call. Call one of: look, submit."
    assert text(second.prompt_ids) == f"\n<|im_start|>user\n{first.observation}<|im_end|>\n<|im_start|>assistant\n"
    assert found.verdict.outcome == "solved"


def test_reasoning_stays_in_the_context_and_is_no_part_of_the_action() -> None:
    """A call that is only thought of is not played; one that follows the reasoning is."""
    task = code_task()
    solution = call("submit", code=task.payload["reference"])
    sayings = [f"<think>\n{call('submit', code='def f(xs): pass')}</think>", f"<think>hm</think>\n\n{solution}"]
    found, policy = attempt(task, lambda context: sayings[context.count("<|im_start|>assistant") - 1])
    first, second = found.trajectory.turns
    assert (first.text, first.tool_calls) == (sayings[0], ())
    assert "no tool call" in str(first.observation)
    assert (second.text, len(second.tool_calls), found.verdict.outcome) == (sayings[1], 1, "solved")
    assert sayings[0] in text(policy.asked[1].prompt_ids)


def test_a_malformed_call_is_a_turn_with_an_error_message() -> None:
    sayings = [call("fly"), call("submit", colour="red"), "<tool_call><function=submit>", call("submit", word="red")]
    found, _ = attempt(room_task(), lambda context: sayings[context.count("<|im_start|>assistant") - 1], environment=ROOM)
    observations = [turn.observation for turn in found.trajectory.turns]
    assert observations[0] == "Error: no tool 'fly'. Call one of: look, submit."
    assert str(observations[1]).startswith("Error: submit: argument")
    assert observations[2] == "Error: no tool call. Call one of: look, submit."
    assert (found.trajectory.answer, found.verdict.outcome) == ("red", "solved")


def test_several_calls_in_a_turn_stop_at_the_one_that_ends_the_episode() -> None:
    said = call("look") + call("submit", word="blue") + call("submit", word="red") + call("look")
    found, _ = attempt(room_task(), lambda context: said, environment=ROOM)
    (turn,) = found.trajectory.turns
    assert [(c.name, dict(c.arguments)) for c in turn.tool_calls] == [("look", {}), ("submit", {"word": "blue"})]
    assert turn.observation == "four walls\nsaid"
    assert (found.trajectory.answer, found.verdict.outcome) == ("blue", "failed")


def test_the_results_of_several_calls_come_as_a_tool_message_each() -> None:
    said = call("look") + call("look")
    found, _ = attempt(room_task(), lambda context: call("submit", word="red") if "walls" in context else said, environment=ROOM)
    message = "<|im_start|>tool\nfour walls<|im_end|>\n"
    assert text(found.trajectory.turns[1].prompt_ids) == f"\n{message}{message}<|im_start|>assistant\n"


NUM_LOOK = len(CHAT.tokenizer.encode(call("look"))) + 1
PROMPT = len(CHAT.render_task(room_task().prompt))
LIMITS: dict[str, tuple[dict[str, Any], StopReason, list[int]]] = {
    # the limits, the stop reason, and the tokens of each turn
    "turns": ({"max_turns": 3}, "max_turns", [NUM_LOOK] * 3),
    "a turn's tokens": ({"max_tokens_per_turn": NUM_LOOK - 1}, "max_tokens", [NUM_LOOK - 1]),
    "exactly a turn's tokens": ({"max_tokens_per_turn": NUM_LOOK, "max_turns": 2}, "max_turns", [NUM_LOOK] * 2),
    "an episode's tokens": (
        {"max_tokens_per_turn": NUM_LOOK + 5, "max_tokens_per_episode": 2 * NUM_LOOK + 3},
        "max_tokens",
        [NUM_LOOK, NUM_LOOK, 3],
    ),
    "no tokens left": ({"max_tokens_per_turn": NUM_LOOK, "max_tokens_per_episode": 2 * NUM_LOOK}, "max_tokens", [NUM_LOOK] * 2),
    "the context": ({"max_context": PROMPT + NUM_LOOK - 2}, "max_context", [NUM_LOOK - 2]),
    "the context after an observation": ({"max_context": PROMPT + NUM_LOOK + 1}, "max_context", [NUM_LOOK]),
    "a prompt that fills the context": ({"max_context": PROMPT}, "max_context", []),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_truncate(name: str) -> None:
    limits, reason, lengths = LIMITS[name]
    found, policy = attempt(room_task(), lambda context: call("look"), environment=ROOM, **limits)
    assert found.trajectory.stop_reason == reason
    assert [len(turn.completion_ids) for turn in found.trajectory.turns] == lengths
    assert (found.verdict.outcome, found.verdict.reward) == ("truncated", 0.0)
    assert reason in found.verdict.evidence
    assert policy.num_requests == 2 * len(lengths)
    most = limits.get("max_context", 4096)
    assert all(len(asked.prompt_ids) + asked.sampling.max_tokens <= most for asked in policy.asked)


def test_a_cut_off_turn_plays_nothing() -> None:
    said = call("submit", word="red")
    room = len(CHAT.tokenizer.encode(said))  # the call is whole, its end of turn is cut off
    found, _ = attempt(room_task(), lambda context: said, environment=ROOM, max_tokens_per_turn=room)
    (turn,) = found.trajectory.turns
    assert (turn.text, turn.tool_calls, turn.observation) == (said, (), None)
    assert (found.trajectory.stop_reason, found.trajectory.answer) == ("max_tokens", None)
    assert found.verdict.outcome == "truncated"


def test_the_last_turn_may_submit() -> None:
    found, _ = attempt(room_task(), lambda c: call("submit", word="red") if "walls" in c else call("look"), environment=ROOM, max_turns=2)
    assert (found.trajectory.stop_reason, found.verdict.outcome) == ("terminated", "solved")


def test_odd_characters_break_nothing() -> None:
    found, _ = attempt(room_task(), lambda context: call("submit", word="\x00⊢\ufffd"), environment=ROOM)
    assert (found.trajectory.answer, found.verdict.outcome) == ("\x00⊢\ufffd", "failed")


def test_a_chemistry_episode() -> None:
    generator = ChemistryEnv.generators()["formula"]
    task = generator.generate(draw_params(generator.knobs, {}, 5), 5)
    smiles = json.loads(generator.demonstrate(task)[0])["arguments"]["smiles"]

    def script(context: str) -> str:
        return call("submit", smiles=smiles) if "<|im_start|>tool" in context else call("describe", smiles="CCO")

    found, _ = attempt(task, script, environment="chemistry")
    assert (found.verdict.outcome, found.trajectory.answer, len(found.trajectory.turns)) == ("solved", smiles, 2)
    assert "C2H6O" in str(found.trajectory.turns[0].observation)
    (failed, _) = attempt(task, lambda context: call("submit", smiles="C"), environment="chemistry")
    assert failed.verdict.outcome == "failed"


def test_an_episode_survives_json() -> None:
    found, _ = attempt(room_task(), lambda context: call("look") + call("submit", word="red"), environment=ROOM)
    assert Trajectory.from_json(json.loads(to_json(found.trajectory))) == found.trajectory
