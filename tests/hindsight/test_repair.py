"""Error repair: what becomes of a failure and a success at the same task, and what is told between the two."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.envs.chemistry.environment import ChemistryEnv
from flywheel.envs.code.environment import CodeEnv
from flywheel.envs.code.families import FAMILIES
from flywheel.hindsight.harvest import Harvest, Harvester
from flywheel.rollout.stage import Stage
from flywheel.store.journal import Journal
from flywheel.tasks.source import TaskSource
from flywheel.types import Check, Group, Task, Verdict
from tests.hindsight.attempts import CHAT, collected, harvested, recipe_of, said
from tests.hindsight.words import word_task
from tests.rollout.test_canary import ANSWERS, CANARY, HIDDEN, PUBLIC
from tests.scripted import call

CODE = recipe_of("code", section={"families": {"lists": {}}}, hindsight_share=0.0, repair_share=1.0)
WORDS = recipe_of("tests.hindsight.words:Words", hindsight_share=0.0, repair_share=1.0)
SOURCE = TaskSource(CODE)
LISTS = {"num_ops": 3, "num_kinds": 14, "max_constant": 9, "example_size": 3}
TASK = next(task for seed in range(40) if SOURCE.objection(task := FAMILIES["lists"].generate(LISTS, seed)) is None)
RIGHT = str(TASK.payload["reference"])
WRONG = "def f(xs):\n    return []\n"
ASKED = next(task for number in range(40) if TaskSource(WORDS).objection(task := word_task("q", number=number)) is None)


def repaired(recipe: Recipe, group: Group, folder: Path) -> Harvest:
    return harvested(recipe, [group], folder)[0]


def test_a_failure_and_a_siblings_success_make_two_lessons(tmp_path: Path) -> None:
    failed = [call("run_tests", code=WRONG), call("submit")]
    solved = [call("run_tests", code=RIGHT), call("submit")]
    group = collected(CODE, TASK, failed, solved, failed, solved)
    found = repaired(CODE, group, tmp_path)
    going_on, asked = found.lessons
    failure, success = group.experiences[:2]
    for lesson in found.lessons:
        assert (lesson.experience.origin, lesson.experience.verdict.outcome) == ("repair", "solved")
        assert lesson.parent_ids == (failure.id, success.id)
        assert lesson.experience.trajectory.answer == RIGHT
    assert [(r.parent_id, r.relabeller, r.kept) for r in found.relabellings] == [
        (failure.id, "repair:turns", True),
        (failure.id, "repair:task", True),
    ]

    # Gone on with: the failed turns as the policy sampled them, mask 0, then the feedback, then the success, mask 1.
    row, turns = going_on.row, failure.trajectory.turns
    assert going_on.experience.task == TASK
    own = (*turns[0].completion_ids, *turns[1].prompt_ids, *turns[1].completion_ids)
    assert row.prompt_ids == turns[0].prompt_ids
    assert row.completion_ids[: len(own)] == own
    assert not any(row.loss_mask[: len(own)])
    trained = said([token for token, mask in zip(row.completion_ids, row.loss_mask, strict=True) if mask])
    assert trained == f"{call('run_tests', code=RIGHT)}<|im_end|>{call('submit')}<|im_end|>"
    feedback = CodeEnv.feedback(TASK, failure.verdict)
    assert feedback.startswith("f(")
    assert said(row.completion_ids[len(own) :]).count(feedback) == 1

    # Asked for: a task of its own, with the parent's payload and so its verifier.
    child = asked.experience.task
    assert (child.parent_id, child.operator, child.payload, child.params) == (TASK.id, "repair", TASK.payload, TASK.params)
    assert child.prompt == f"{TASK.prompt}\n\nThis was tried:\n{WRONG.strip()}\n\nIt failed:\n{feedback}\n\nMend it."
    assert SOURCE.key(child) == SOURCE.key(TASK)
    assert said(asked.row.prompt_ids).count(child.prompt) == 1
    assert asked.row.loss_mask[0] == 1


@pytest.mark.parametrize(
    ("scripts", "reason"),
    [
        ([[call("submit", word="")], [call("submit", word="queen")]], "empty_failure"),
        ([[call("look")] * 4, [call("submit", word="queen")]], None),
        ([[call("submit", word="red")]], None),
        ([[call("submit", word="queen")]], None),
        ([[call("submit", word="cheat")], [call("submit", word="queen")]], None),
        ([[call("submit", word="kill")], [call("submit", word="queen")]], None),
        ([[call("submit", word="QUEEN")], [call("submit", word="queen")]], "identical"),
    ],
)
def test_pairs_that_teach_nothing_are_dropped(scripts: list[list[str]], reason: str | None, tmp_path: Path) -> None:
    found = repaired(WORDS, collected(WORDS, ASKED, *scripts), tmp_path)
    assert found.lessons == ()
    assert found.dropped == ({} if reason is None else {reason: 1})


def test_programs_that_differ_in_names_alone_are_identical(tmp_path: Path) -> None:
    group = collected(CODE, TASK, [call("submit", code=WRONG)], [call("submit", code=RIGHT)])
    renamed = dataclasses.replace(group.experiences[0].trajectory, answer=RIGHT.replace("xs", "ys"))
    failure = dataclasses.replace(group.experiences[0], trajectory=renamed)
    found = repaired(CODE, dataclasses.replace(group, experiences=(failure, group.experiences[1])), tmp_path)
    assert found.dropped == {"identical": 1}


def test_a_success_that_does_not_hold_is_dropped(tmp_path: Path) -> None:
    group = collected(WORDS, ASKED, [call("submit", word="red")], [call("submit", word="blue")])
    claimed = dataclasses.replace(group.experiences[1].verdict, outcome="solved")
    claims = (group.experiences[0], dataclasses.replace(group.experiences[1], verdict=claimed))
    found = repaired(WORDS, dataclasses.replace(group, experiences=claims), tmp_path)
    assert (found.lessons, found.dropped) == ((), {"not_solved": 1})


@pytest.mark.parametrize("is_dropped", [False, True])
def test_an_own_earlier_success_will_do_while_the_store_has_it(tmp_path: Path, is_dropped: bool) -> None:
    earlier = collected(WORDS, ASKED, [call("submit", word="queen")])
    later = collected(WORDS, ASKED, [call("submit", word="red")])
    later = dataclasses.replace(later, experiences=tuple(dataclasses.replace(e, id="later") for e in later.experiences))

    async def harvest() -> Harvest:
        stage, journal = Stage(WORDS), Journal(tmp_path)
        try:
            journal.append_groups([earlier], step=1)
            journal.compact(up_to_step=1)
            if is_dropped:
                journal.drop_oldest(max_bytes=0, before_step=2)
            return await Harvester(WORDS, stage, CHAT, TaskSource(WORDS), journal).harvest([later], step=2)
        finally:
            stage.close()
            journal.close()

    found = asyncio.run(harvest())
    pair = ("later", earlier.experiences[0].id)
    assert [lesson.parent_ids for lesson in found.lessons] == ([] if is_dropped else [pair, pair])


def test_rows_that_are_too_long_are_dropped(tmp_path: Path) -> None:
    group = collected(WORDS, ASKED, [call("look"), call("submit", word="red")], [call("submit", word="queen")])
    engine = WORDS.engine.model_copy(update={"max_model_len": 40})
    assert repaired(WORDS.model_copy(update={"engine": engine}), group, tmp_path).dropped == {"too_long": 2}


def test_a_failed_answer_can_not_end_a_turn_of_the_prompt(tmp_path: Path) -> None:
    group = collected(WORDS, ASKED, [call("submit", word="red")], [call("submit", word="queen")])
    odd = dataclasses.replace(group.experiences[0].trajectory, answer="red<|im_end|>")
    failure = dataclasses.replace(group.experiences[0], trajectory=odd)
    found = repaired(WORDS, dataclasses.replace(group, experiences=(failure, group.experiences[1])), tmp_path)
    assert ([lesson.maker for lesson in found.lessons], found.dropped) == (["repair:turns"], {"special_tokens": 1})


# ------------------------------------------------------------ what is told


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_canary_stays_out_of_repair_prompts(kind: str, answer: str, tmp_path: Path) -> None:
    entry_point, hidden = HIDDEN[kind]
    payload: dict[str, Any] = {
        "entry_point": entry_point,
        "public_tests": [PUBLIC[kind]],
        "hidden_tests": hidden,
        "limits": {"wall_s": 1, "memory_mb": 256},
        "reference": f"# {CANARY}",
    }
    task = Task.create(env="code", family="canary", prompt="Write f.", payload=payload)
    group = collected(CODE, task, [call("submit", code=ANSWERS[answer])], [call("submit", code="pass")])
    claimed = dataclasses.replace(group.experiences[1].verdict, outcome="solved")
    failure, success = group.experiences[0], dataclasses.replace(group.experiences[1], verdict=claimed)
    feedback = CodeEnv.feedback(task, failure.verdict)
    assert failure.verdict.outcome == "failed"
    assert feedback
    assert CANARY not in feedback
    found = repaired(CODE, dataclasses.replace(group, experiences=(failure, success)), tmp_path)
    assert CANARY not in repr([lesson.row for lesson in found.lessons])


def test_chemistry_tells_what_the_answer_is_and_not_what_was_expected() -> None:
    checks = (
        Check(name="valid", passed=True),
        Check(name="formula", passed=False, detail=f"formula is C3H8O, expected {CANARY}"),
        Check(name="smiles", passed=False, detail="it is another molecule than the one asked for"),
    )
    verdict = Verdict(outcome="failed", reward=0.0, checks=checks, evidence=CANARY, verifier="chemistry", verifier_version="2")
    told = "formula: formula is C3H8O; smiles: it is another molecule than the one asked for"
    assert ChemistryEnv.feedback(TASK, verdict) == told


def test_an_environment_that_says_nothing_of_it_tells_the_names_of_checks(tmp_path: Path) -> None:
    found = repaired(WORDS, collected(WORDS, ASKED, [call("submit", word="red")], [call("submit", word="queen")]), tmp_path)
    text = "\n".join(said((*lesson.row.prompt_ids, *lesson.row.completion_ids)) for lesson in found.lessons)
    assert text.count("failed checks: letter") == 2
    assert "canary" not in text
