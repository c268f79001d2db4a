"""Relabelled programs in a model's words: what the model is asked, what it may say, and that everything else falls back to the template."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flywheel.canonical import words
from flywheel.config import Recipe
from flywheel.envs.code.relabel import ProgramRelabeller
from flywheel.errors import InferenceError
from flywheel.hindsight.instructions import Instruction, Instructor
from flywheel.learning_config import LearningConfig
from flywheel.tasks.chat_model import EngineModel, Reply
from flywheel.tasks.source import TaskSource
from flywheel.types import Task
from tests.hindsight.attempts import CHAT, collected, harvested, recipe_of, said
from tests.hindsight.test_programs import FREE, STEPPED, TASK, relabelled
from tests.scripted import ScriptedPolicy, call

STATEMENT = "Write f(xs). Keep a running sum of the list. Whenever it is above three, note twice that sum less one; return what was noted."
EVALUATED = "Nobody knows why, but whenever it is above three, note twice that sum less one; return what was noted."
RECIPE = recipe_of("code", section={"families": {"lists": {}}})


class Model:
    """Replies with one text, or does not reply."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.asked: list[str] = []

    async def reply(self, message: str, *, seed: int) -> Reply:
        self.asked.append(message)
        if self.text is None:
            raise InferenceError("nobody is there")
        return Reply(text=self.text, num_tokens=10)


def stated(statement: object) -> str:
    return f"Here it is:\n```json\n{json.dumps({'statement': statement})}\n```"


@pytest.fixture(scope="module")
def program() -> str:
    """A program that is no steps of the family, and whose task may train."""
    source = TaskSource(RECIPE)
    texts = (f"# {STATEMENT}\n{FREE.replace('total * 2 - 1', f'total * 2 - {number}')}" for number in range(1, 9))
    return next(text for text in texts if source.objection(relabelled(text)[0]) is None)


@pytest.fixture(scope="module")
def told(program: str) -> Task:
    """Its task in the template's words."""
    return relabelled(program)[0]


def instructed(model: Model, task: Task, answer: str, tasks: dict[str, Any] | None = None, lines: list[str] | None = None) -> Instruction:
    recipe = Recipe.model_validate({**RECIPE.model_dump(mode="json"), "tasks": tasks or {}})
    instructor = Instructor(model, CHAT, TaskSource(recipe), seed=0, say=(lines if lines is not None else []).append)
    return asyncio.run(instructor.instruct(ProgramRelabeller(), TASK, task, answer))


def test_the_models_words_stand_before_the_examples(program: str, told: Task, tmp_path: Path) -> None:
    policy = ScriptedPolicy(CHAT, lambda context: stated(STATEMENT))
    group = collected(RECIPE, TASK, [call("submit", code=program)])
    (found,) = harvested(RECIPE, [group], tmp_path, model=EngineModel(policy, CHAT, max_tokens=512))
    (lesson,) = found.lessons
    task = lesson.experience.task
    header, *examples = task.prompt.splitlines()
    assert header == STATEMENT
    assert examples == told.prompt.splitlines()[1:]
    assert (task.operator, task.parent_id, task.split) == ("hindsight:program:written", TASK.id, "train")
    assert task.payload == told.payload
    assert said(lesson.row.prompt_ids).count(STATEMENT) == 1
    assert lesson.experience.verdict.outcome == "solved"
    (asked,) = policy.asked
    assert found.instructions == {"written": 1, "tokens": len(asked.completion_ids)}
    assert found.figures()["learning/instructions/written"] == 1.0
    assert [(r.child_id, r.kept) for r in found.relabellings] == [(lesson.experience.id, True)]


def test_a_refused_statement_costs_the_lesson_nothing(program: str, told: Task, tmp_path: Path) -> None:
    group = collected(RECIPE, TASK, [call("submit", code=program)])
    (found,) = harvested(RECIPE, [group], tmp_path, model=Model("I would rather not."))
    assert [(lesson.experience.task.prompt, lesson.experience.task.operator) for lesson in found.lessons] == [
        (told.prompt, "hindsight:program")
    ]
    assert found.instructions == {"no_statement": 1, "tokens": 10}


def test_the_model_sees_the_program_and_what_is_public_of_it(program: str, told: Task) -> None:
    model = Model(stated(STATEMENT))
    assert instructed(model, told, program).outcome == "written"
    (asked,) = model.asked
    assert "total = total + x" in asked
    assert STATEMENT not in asked  # a comment, which might tell the model what to say
    assert all(repr(test["args"][0]) in asked for test in told.payload["public_tests"])
    hidden = [repr(test["args"][0]) for test in told.payload["hidden_tests"] if len(repr(test["args"][0])) > 8]
    assert hidden
    assert not [args for args in hidden if args in asked]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I would rather not.", "no_statement"),
        (stated(7), "no_statement"),
        (json.dumps({"task": STATEMENT}), "no_statement"),
        (stated("Write f(xs)."), "statement_length"),
        (stated("Write f(xs). " + "Mind the edge cases. " * 300), "statement_length"),
        (stated("Write a function that keeps a running sum of its list."), "function_unnamed"),
        (stated(f"{STATEMENT} So for every x set total = total+x."), "holds_answer"),
        (stated(f"{STATEMENT}<|im_end|>"), "special_tokens"),
    ],
)
def test_a_statement_that_will_not_do_leaves_the_templates_words(reply: str, reason: str, program: str, told: Task) -> None:
    assert instructed(Model(reply), told, program) == Instruction(task=told, outcome=reason, num_tokens=10)


def test_a_model_that_does_not_answer_is_told_of_once(program: str, told: Task) -> None:
    lines: list[str] = []
    assert instructed(Model(None), told, program, lines=lines) == Instruction(task=told, outcome="no_answer")
    assert lines == ["instructions: the model does not answer, so relabelled tasks have the template's words: nobody is there"]


def test_an_evaluations_passage_leaves_the_templates_words(program: str, told: Task, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": EVALUATED}))
    assert instructed(Model(stated(STATEMENT)), told, program, {"decontaminate": [str(evaluation)]}).outcome == "contaminated"


def test_what_is_nearly_an_evaluations_text_leaves_the_templates_words(program: str, told: Task, tmp_path: Path) -> None:
    """No thirteen words in a row are the same: only a comparison as prose finds it, which the family's own tasks don't have."""
    evaluation = tmp_path / "evaluation.jsonl"
    _, _, examples = told.prompt.partition("\n")
    changed = ["zz" if number % 12 == 11 else word for number, word in enumerate(words(f"{STATEMENT}\n{examples}"))]
    evaluation.write_text(json.dumps({"question": " ".join(changed)}))
    tasks = {"decontaminate": [str(evaluation)], "near_duplicate": 0.3}  # seven of twelve shingles are the same: about 0.41
    assert instructed(Model(stated(STATEMENT)), told, program, tasks).outcome == "near_heldout"


def test_steps_that_the_family_can_say_itself_need_no_model() -> None:
    model = Model(stated(STATEMENT))
    assert instructed(model, relabelled(STEPPED)[0], STEPPED).outcome == ""
    assert model.asked == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"hindsight_share": 0.2, "instructions": {"by": "endpoint"}}, "needs learning.instructions.url and"),
        ({"hindsight_share": 0.2, "instructions": {"by": "endpoint", "url": "http://127.0.0.1:1/v1"}}, "and learning.instructions.model"),
        ({"distill_share": 0.2, "instructions": {"by": "policy"}}, "raise learning.hindsight_share"),
    ],
)
def test_settings_that_can_do_nothing_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        LearningConfig.model_validate(settings)
    LearningConfig.model_validate({"hindsight_share": 0.2, "instructions": {"by": "policy"}})
