import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from flywheel.config import Recipe, TasksConfig
from flywheel.envs.chemistry import ChemistryEnv
from flywheel.envs.code import CodeEnv
from flywheel.errors import ConfigError
from flywheel.store.journal import Journal
from flywheel.tasks.admission import Admission
from flywheel.tasks.history import CurriculumHistory
from flywheel.tasks.outcomes import Outcome
from flywheel.tasks.similar import SimilarTexts
from flywheel.tasks.source import TaskSource
from flywheel.types import Task, to_json
from tests.tasks.test_history import group, write

STORY = (
    "A baker has {n} loaves of bread on the shelf in the morning and sells some of them before noon to the people who live near the "
    "harbour, then bakes a dozen more in the afternoon because the ferry brings hungry guests. How many loaves of {kind} are left when "
    "the shop is closed and the shelf has been swept?"
)


NUMBER = 4


def story(n: int, kind: str = "rye") -> str:
    return STORY.format(n=n, kind=kind)


def records(path: Path, prompts: list[str]) -> Path:
    lines = (json.dumps({"prompt": prompt, "payload": {"number": at}}) for at, prompt in enumerate(prompts))
    path.write_text("\n".join(lines), "utf-8")
    return path


def source(file: Path, **tasks: object) -> TaskSource:
    environments = {"n": {"use": "tests.tasks.test_source:NumbersEnv", "tasks_file": str(file)}}
    return TaskSource(Recipe.model_validate({"environments": environments, "tasks": {"heldout_share": 0.3, **tasks}}))


def unlike(count: int) -> list[str]:
    """Prompts of which no two are alike."""
    return [
        " ".join(f"{word}{at}" for word in ("say", "the", "number", "of", "stars", "in", "cluster", "now", "please")) for at in range(count)
    ]


def test_evaluation_items_never_train_whole_or_in_part(tmp_path: Path) -> None:
    prompts = [*unlike(30), story(7), f"Here is a riddle. {story(8)} Think."]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": story(7).upper(), "answer": "9"}) + "\n" + json.dumps({"problem": story(8)}) + "\n")
    contaminated = set(prompts[30:])
    plain = source(records(tmp_path / "t.jsonl", prompts))
    assert contaminated & {plain.train(i).prompt for i in range(400)}
    clean = source(tmp_path / "t.jsonl", decontaminate=[str(evaluation)])
    drawn = {clean.train(i).prompt for i in range(400)}
    assert not contaminated & drawn
    assert len(drawn) > 10
    assert clean.figures()["admission/contaminated"] > 0


def test_an_evaluation_record_is_found_by_its_canonical_key(tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"env": "numbers", "prompt": "Quite other words.", "payload": {"number": NUMBER}}))
    environments = {"n": {"use": "tests.tasks.test_source:NumbersEnv", "families": {"numbers": {"knobs": {"size": 1}}}}}
    drawn = []
    for decontaminate in ([], [str(evaluation)]):
        tasks = TaskSource(Recipe.model_validate({"environments": environments, "tasks": {"decontaminate": decontaminate}}))
        drawn.append({tasks.train(i).payload["number"] for i in range(200)})
    assert drawn[0] - drawn[1] == {NUMBER}


def test_near_duplicates_of_held_out_tasks_and_of_each_other_never_train(tmp_path: Path) -> None:
    stories = [story(n) for n in range(100, 140)]
    whole = source(records(tmp_path / "t.jsonl", [*unlike(20), *stories]))
    assert len({whole.train(i).prompt for i in range(600)} & set(stories)) > 10
    # About a third of the forty alike stories is held out, so the others are too much like them.
    deduplicated = source(tmp_path / "t.jsonl", near_duplicate=0.6)
    drawn = {deduplicated.train(i).prompt for i in range(600)}
    assert not drawn & set(stories)
    assert deduplicated.figures()["admission/near_heldout"] > 0
    alone = Admission(TasksConfig(near_duplicate=0.8), lambda task: None)
    first, second = (Task.create(env="n", family="n", prompt=story(n), payload={"number": n}) for n in (1, 2))
    assert alone.refusal(first, "first", is_prose=True) is None
    alone.remember(first, "first", is_prose=True)
    assert alone.refusal(second, "second", is_prose=True) == "near_duplicate"
    assert alone.refusal(first, "first", is_prose=True) is None  # the same task again is no duplicate but a repeat
    assert alone.refusal(second, "second", is_prose=False) is None  # a template's tasks are all alike


def test_repeats_are_avoided_where_the_recipe_says_so_and_a_resumed_run_knows_them(tmp_path: Path) -> None:
    file = records(tmp_path / "t.jsonl", unlike(60))
    repeats = source(file)
    assert len({repeats.train(i).id for i in range(100)}) < 60
    fresh = source(file, avoid_repeats=True)
    draw = fresh.drawer(1)
    before = [draw(i) for i in range(20)]
    assert len({task.id for task in before}) > len({repeats.train(i).id for i in range(20)})
    probed = source(file, avoid_repeats=True)
    assert [probed.train(i) for i in range(30)]  # a look at the tasks, for a probe say, is not a draw
    assert list(map(probed.drawer(1), range(20))) == before
    journal = Journal(tmp_path / "run")
    write(journal, [group(Outcome(task=task, num_solved=0, num_judged=1), 1) for task in before], 1)
    resumed = source(file, avoid_repeats=True)
    CurriculumHistory(fresh.curriculum, journal).learn(1, journal.groups(1))
    CurriculumHistory(resumed.curriculum, journal, resumed.recall).rewind(1)
    assert [resumed.drawer(1)(i) for i in range(20, 30)] == [draw(i) for i in range(20, 30)]
    journal.close()
    rest = [draw(i).id for i in range(100, 200)]  # when nearly all have been drawn, they come again
    assert len({*rest, *(task.id for task in before)}) >= 0.8 * len({repeats.train(i).id for i in range(1000)})
    assert len(set(rest)) < len(rest)


def test_memory_is_bounded() -> None:
    admission = Admission(TasksConfig(avoid_repeats=True, near_duplicate=0.8, max_known=50), lambda task: None)
    tasks = [Task.create(env="n", family="n", prompt=prompt, payload={}) for prompt in unlike(120)]
    for at, task in enumerate(tasks):
        admission.remember(task, str(at), is_prose=True)
    assert admission.refusal(tasks[119], "119", is_prose=True) == "repeat"
    assert admission.refusal(tasks[0], "0", is_prose=True) is None  # forgotten
    texts = SimilarTexts(threshold=0.8, max_texts=50)
    for at in range(120):
        texts.add(str(at), unlike(120)[at])
    assert len(texts) == 50
    assert texts.nearest(unlike(120)[119]) == "119"
    assert texts.nearest(unlike(120)[0]) is None


@pytest.mark.parametrize(
    ("content", "message"), [("{", r"e\.jsonl:1"), ('{"answer": "4"}', "expected an object with one of"), (None, "can't be read")]
)
def test_a_bad_evaluation_file_is_said(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "e.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        Admission(TasksConfig(decontaminate=[path]), lambda task: None)


def test_records_of_one_task_in_other_clothes_share_their_key() -> None:
    def code(prompt: str, **payload: object) -> str:
        return CodeEnv.task_key(Task.create(env="code", family="code", prompt=prompt, payload=payload))

    reference = "def f(xs):\n    return sorted(xs)\n"
    assert code("Sort.", reference=reference) == code("Put in order.", reference="def f(a):  # quick\n    return sorted(a)")
    assert code("Sort.", reference=reference) != code("Sort.", reference=reference.replace("sorted", "list"))
    tests = [{"kind": "call", "args": [[2, 1]], "expected": [1, 2]}, {"kind": "call", "args": [[]], "expected": []}]
    assert code("Sort.", entry_point="f", hidden_tests=tests) == code("Order.", entry_point="f", hidden_tests=tests[::-1])

    def molecule(*constraints: object) -> str:
        task = Task.create(env="chemistry", family="chemistry", prompt="?", payload={"constraints": list(constraints)})
        return ChemistryEnv.task_key(task)

    plausible = {"kind": "plausible"}
    ethanol = {"kind": "smiles", "value": "CCO"}
    assert molecule(ethanol, plausible) == molecule(plausible, {"kind": "smiles", "value": "OCC"})
    assert molecule(ethanol) != molecule({"kind": "smiles", "value": "COC"})


def test_the_key_is_no_tool() -> None:
    assert "task_key" not in {tool["function"]["name"] for tool in CodeEnv().tools}


def test_what_may_not_train_is_said_of_a_task_that_is_there_already(tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": story(7)}) + "\n")
    clean = source(records(tmp_path / "t.jsonl", unlike(40)), decontaminate=[str(evaluation)])
    held = clean.heldout("numbers", 1)[0]
    plain = clean.train(0)
    assert clean.barred(plain) is None
    assert clean.barred(held) == "heldout"
    assert clean.barred(dataclasses.replace(held, split="train")) == "heldout"
    copies = [Task.create(env="numbers", family="t", prompt=f"{n} {story(7)}", payload={"number": n}) for n in range(50)]
    assert {clean.barred(copy) for copy in copies} == {"heldout", "contaminated"}  # the split comes first
    assert clean.barred(dataclasses.replace(plain, env="another")) is None
    assert not clean.admission.refused


def test_what_is_held_out_is_not_forgotten_over_what_was_drawn() -> None:
    admission = Admission(TasksConfig(near_duplicate=0.8, max_known=10), lambda task: None)
    admission.bar((str(at), text) for at, text in enumerate(unlike(40)))
    refused = [admission.refusal(Task.create(env="n", family="n", prompt=text, payload={}), text, is_prose=True) for text in unlike(40)]
    assert refused == ["near_heldout"] * 40


def test_evaluation_items_of_a_template_bar_themselves_and_prose_but_not_the_template(tmp_path: Path) -> None:
    families: dict[str, Any] = {"code": {"families": {"programs": {}}}}
    held = TaskSource(Recipe.model_validate({"environments": families})).heldout("code", 20)
    train = [TaskSource(Recipe.model_validate({"environments": families})).train(at) for at in range(12)]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text("\n".join(to_json(task) for task in [*held, train[0]]))
    tasks = TaskSource(Recipe.model_validate({"environments": families, "tasks": {"decontaminate": [str(evaluation)]}}))
    assert [tasks.train(at) for at in range(1, 12)] == train[1:]
    assert tasks.barred(train[0]) == "contaminated"
    prose = Task.create(env="code", family="programs", prompt=f"Read this. {train[0].prompt} Now.", payload={})
    assert tasks.admission.is_contaminated(prose, "another key", is_prose=True)
    assert not tasks.admission.is_contaminated(prose, "another key", is_prose=False)


def test_what_an_environment_draws_is_no_prose() -> None:
    tasks = TaskSource(
        Recipe.model_validate({"environments": {"p": {"use": "tests.tasks.test_source:DrawnEnv"}}, "tasks": {"near_duplicate": 0.1}})
    )
    assert [family.is_prose for family in tasks.families] == [False]
