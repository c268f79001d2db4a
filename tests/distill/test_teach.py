"""What a collect stage kept, as rows for a student of the same tongue and of another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.distill.teach import collected_rows
from flywheel.inference.chat import ChatFormat
from flywheel.store.journal import Journal
from flywheel.trainer.tiny import make_tokenizer
from flywheel.types import Experience, Task, ToolCall, Trajectory, Turn
from tests.scripted import call, make_chat
from tests.store.attempts import make_experience, make_task

SUBMIT = ToolCall(name="submit", arguments={"letter": "b"})


def say(chat: ChatFormat, text: str) -> tuple[int, ...]:
    return (*chat.tokenizer.encode(text, add_special_tokens=False), chat.end_id)


@pytest.fixture(scope="module")
def teacher() -> ChatFormat:
    return make_chat()


@pytest.fixture
def collected(teacher: ChatFormat, tmp_path: Path) -> Path:
    """A collect stage's folder that kept one attempt of two turns, and one that says two things at once; a third was not kept."""
    journal = Journal(tmp_path)
    task = Task.create(env="pick", family="pick", prompt="Pick 7.", payload={"letter": "b"})
    first, second = say(teacher, "hm " + call("submit")), say(teacher, call("submit", letter="b"))
    told = teacher.render_observation(["Error"], after=first)

    def turn(prompt: tuple[int, ...], said: tuple[int, ...], *calls: ToolCall, observation: str) -> Turn:
        return Turn(
            prompt_ids=prompt,
            completion_ids=said,
            behavior_logprobs=None,
            policy_version="initial",
            text=teacher.parse(said).text,
            tool_calls=calls,
            observation=observation,
        )

    opening = teacher.render_task("Pick 7.", [])
    turns = {
        0: (turn(opening, first, ToolCall(name="submit", arguments={}), observation="Error"), turn(told, second, SUBMIT, observation="ok")),
        1: (turn(opening, second, SUBMIT, SUBMIT, observation="ok\nok"),),
        2: (turn(opening, second, SUBMIT, observation="ok"),),
    }
    attempts: list[Experience] = []
    for sibling, played in turns.items():
        trajectory = Trajectory(task_id=task.id, turns=played, stop_reason="terminated", answer=f"b{sibling}")
        attempts.append(replace(make_experience(make_task(1), sibling, outcome="solved"), task=task, trajectory=trajectory))
    journal.append_experiences(attempts, step=1)
    routes = [(e.id, {"experience_id": e.id, "destination": "distill", "reason": "kept"}) for e in attempts[:2]]
    journal.append("route", routes, step=1)
    journal.close()
    (tmp_path / "recipe.toml").write_text('[environments.pick]\nuse = "tests.pick_env:Pick"\n')
    teacher.tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path


def test_a_student_of_the_same_tongue_learns_the_teachers_own_tokens(collected: Path, teacher: ChatFormat) -> None:
    row, other = collected_rows(collected, make_chat())
    assert row is not None
    assert other is not None
    first, second = say(teacher, "hm " + call("submit")), say(teacher, call("submit", letter="b"))
    told = teacher.render_observation(["Error"], after=first)
    assert row.prompt_ids == teacher.render_task("Pick 7.", [])
    assert row.completion_ids == (*first, *told, *second)
    assert row.loss_mask == (1,) * len(first) + (0,) * len(told) + (1,) * len(second)
    assert (row.kind, row.weight, row.behavior_logprobs) == ("ce", 1.0, None)
    assert other.completion_ids == second


def test_a_student_of_another_tongue_learns_the_calls_in_its_own(collected: Path) -> None:
    student = ChatFormat(make_tokenizer(["other words entirely, <tool_call> and </tool_call> among them"] * 4, 320, 512))
    row, unsayable = collected_rows(collected, student)
    assert row is not None
    said = student.tokenizer.decode([i for i, kept in zip(row.completion_ids, row.loss_mask, strict=True) if kept])
    assert said == f"{call('submit')}<|im_end|>{call('submit', letter='b')}<|im_end|>"  # what it said beside its call stays behind
    assert "Error" in student.tokenizer.decode([i for i, kept in zip(row.completion_ids, row.loss_mask, strict=True) if not kept])
    assert student.tokenizer.decode(row.prompt_ids).startswith("<|im_start|>user\nPick 7.")
    assert unsayable is None  # two calls in one turn
