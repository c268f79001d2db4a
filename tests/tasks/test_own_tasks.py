"""Tasks that a user brings: records beside generators, plain environments' own, and generators that break their contract."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import pytest

from flywheel.config import Recipe
from flywheel.contracts import Knob, Operator
from flywheel.errors import ConfigError
from flywheel.recipe_names import check_names
from flywheel.tasks.family import family_of
from flywheel.tasks.outcomes import Outcome
from flywheel.tasks.source import TaskSource
from flywheel.tool_env import ToolEnv, UnicodeText
from flywheel.types import Knobs, Task, Verdict

HERE = "tests.tasks.test_own_tasks"


class Places:
    """Tasks with one knob. `mood` is a way to go wrong."""

    family = "places"
    knobs: Mapping[str, Knob] = {"far": Knob(low=0, high=9, default=(0, 9), help="")}

    def __init__(self, mood: str = "") -> None:
        self.mood = mood

    def generate(self, params: Knobs, seed: int) -> Task:
        if self.mood == "picky" and int(params["far"]) < 8:
            raise ValueError("too near")
        number = random.random() if self.mood == "unseeded" else seed
        told = {} if self.mood == "mute" else dict(params)
        return Task.create(env="mine", family="places", prompt=f"{dict(params)} {number}", payload={}, params=told, seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        return []

    def key(self, task: Task) -> str:
        if self.mood == "no key":
            raise LookupError("no key today")
        return task.prompt

    def validate(self, task: Task) -> None:
        pass


class Bred(Places):
    """Has an operator, and forgets whose child it makes."""

    operators: ClassVar[Mapping[str, Operator]] = {"nearer": Operator(direction="easier", help="")}

    def mutate(self, task: Task, failure: Verdict | None, *, operator: str, seed: int) -> Task:
        if self.mood == "raises":
            raise KeyError("no such place")
        return self.generate({"far": 0}, seed)


class Mine(ToolEnv):
    """Go there."""

    name = "mine"
    solved_threshold: ClassVar[float | None] = 1.0

    @classmethod
    def generators(cls) -> Any:
        return {"places": Places()}


def with_generators(made: Any) -> type[Mine]:
    class Other(Mine):
        """Go there."""

        @classmethod
        def generators(cls) -> Any:
            return made

    return Other


UNSEEDED, MUTE, KEYLESS, PICKY = (with_generators({"places": Places(mood)}) for mood in ("unseeded", "mute", "no key", "picky"))
LISTED, HALF = with_generators([Places()]), with_generators({"places": object()})
FORGETFUL, BROKEN = (with_generators({"places": Bred(mood)}) for mood in ("", "raises"))


class Guess(gymnasium.Env[str, str]):
    """A plain environment that always says the same; the seed alone says which number it has in mind."""

    def __init__(self, mood: str = "") -> None:
        self.observation_space, self.action_space = UnicodeText(), UnicodeText()
        self.mood = mood

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"Guess my number. {random.random() if self.mood == 'unseeded' else ''}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "no", 0.0, True, False, {}


class SeededGuess(Guess):
    """The same, and says that its tasks are told apart by their seeds."""

    @staticmethod
    def task_key(task: Task) -> str:
        return str(task.seed % 1000)


def recipe(sections: Mapping[str, Any], **rest: Any) -> Recipe:
    return Recipe.model_validate({"environments": sections, **rest})


def source(cls: str, **rest: Any) -> TaskSource:
    return TaskSource(
        recipe({"x": {"use": f"{HERE}:{cls}", **({} if issubclass(globals()[cls], ToolEnv) else {"solved_threshold": 1})}}, **rest)
    )


def records(path: Path, count: int, **fields: Any) -> Path:
    lines = (json.dumps({"prompt": f"{path.stem} {at}", "payload": {"at": at}, **fields}) for at in range(count))
    path.write_text("\n".join(lines))
    return path


# ---------------------------------------------------------------- records


def test_a_record_that_says_that_it_is_held_out_never_trains(tmp_path: Path) -> None:
    file = records(tmp_path / "mine.jsonl", 40)
    marked = records(tmp_path / "marked.jsonl", 10, split="heldout").read_text()
    copy = json.dumps({"prompt": "marked 3", "payload": {"at": 3}, "seed": 7})  # the same task once more, without the word
    file.write_text(f"{file.read_text()}\n{marked}\n{copy}\n")
    tasks = TaskSource(recipe({"x": {"use": f"{HERE}:Mine", "tasks_file": str(file)}}, tasks={"heldout_share": 0.1}))
    drawn = [tasks.train(at) for at in range(400)]
    assert not [task for task in drawn if task.prompt.startswith("marked")]
    assert {task.split for task in drawn} == {"train"}
    held = tasks.heldout("mine", 11)
    assert {task.prompt for task in held} >= {f"marked {at}" for at in range(10)}
    assert not {task.prompt for task in drawn} & {task.prompt for task in held}
    assert tasks.barred(dataclasses.replace(held[0], split="train")) == "heldout"


def test_what_one_file_holds_out_no_other_file_of_the_environment_trains(tmp_path: Path) -> None:
    first, second = records(tmp_path / "first.jsonl", 20), tmp_path / "second.jsonl"
    mine = records(tmp_path / "mine.jsonl", 20).read_text()
    second.write_text(mine + "\n" + "\n".join(json.dumps({**json.loads(line), "split": "heldout"}) for line in first.open()))
    sections = {file.stem: {"use": f"{HERE}:Mine", "tasks_file": str(file), "weight": 0.5} for file in (first, second)}
    with pytest.raises(ConfigError, match="family 'first': no train task"):
        [TaskSource(recipe(sections)).train(at) for at in range(20)]
    first.write_text(f"{first.read_text()}\n{mine}")
    tasks = TaskSource(recipe(sections))
    assert {tasks.train(at).prompt.split()[0] for at in range(100)} == {"mine"}


def test_records_beside_the_generators_of_their_environment_are_known(tmp_path: Path) -> None:
    file = records(tmp_path / "extra.jsonl", 30)
    sections = {"gen": {"use": f"{HERE}:Mine"}, "own": {"use": f"{HERE}:Mine", "tasks_file": str(file)}}
    tasks = TaskSource(recipe(sections, tasks={"heldout_share": 0.3, "avoid_repeats": True}))
    own = next(task for task in (tasks.train(at) for at in range(50)) if task.family == "mine")
    made = next(task for task in (tasks.train(at) for at in range(50)) if task.family == "places")
    named = {task.family: family_of(tasks.families, task) for task in (own, made)}
    assert {family.name for family in named.values() if family is not None} == {"mine/extra", "mine/places"}
    tasks.recall(own)
    assert tasks.admission.is_repeat(str(tasks.key(own)))
    before = tasks.predicted(own)
    tasks.curriculum.update([Outcome(task=own, num_solved=8, num_judged=8)])
    after = tasks.predicted(own)
    assert before is not None
    assert after is not None
    assert after > before
    child = dataclasses.replace(own, id="a child's", parent_id=own.id)  # of a record's family, and in no file
    assert family_of(tasks.families, child) == named["mine"]
    held = next(task for at in range(30) if (task := dataclasses.replace(own, payload={"at": 100 + at})) and tasks.barred(task))
    assert tasks.objection(held) == "heldout"


@pytest.mark.parametrize("second", [{"families": {"places": {"knobs": {"far": [8, 9]}}}}, {"tasks_file": "b/extra.jsonl"}])
def test_a_family_of_two_sections_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        records(tmp_path / folder / "extra.jsonl", 3)
    first = {"tasks_file": "a/extra.jsonl"} if "tasks_file" in second else {"families": {"places": {"knobs": {"far": [0, 1]}}}}
    two = recipe({name: {"use": f"{HERE}:Mine", **config} for name, config in (("one", first), ("two", second))})
    with pytest.raises(ConfigError, match=r"mine/(places|extra) is the family of two sections"):
        TaskSource(two)
    (problem,) = check_names(two).problems
    assert problem.startswith("environments.two: mine/")


# ---------------------------------------------------------------- environments that draw, and generators


def test_an_environment_may_say_which_of_its_tasks_are_the_same() -> None:
    with pytest.raises(ConfigError, match=r"too few different ones \(those with the same prompt and payload are the same, unless task_key"):
        [*source("Guess").heldout("x", 5), source("Guess").train(0)]
    tasks = source("SeededGuess")
    seeds = [{task.seed % 1000 for task in drawn} for drawn in (tasks.heldout("x", 20), [tasks.train(at) for at in range(200)])]
    assert seeds[0].isdisjoint(seeds[1])


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        ("UNSEEDED", "the same seed made two different tasks"),
        ("MUTE", r"do not say their knobs.*got params = {}.*give Task.create params=params"),
        ("KEYLESS", "asking for a task's key raised LookupError: no key today"),
    ],
)
def test_a_generator_is_held_to_its_contract(cls: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        TaskSource(recipe({"x": {"use": f"{HERE}:{cls}"}}, curriculum={"rule": "frontier"})).train(0)


def test_a_task_that_does_not_say_its_knobs_will_do_where_nobody_reads_them() -> None:
    assert source("MUTE").train(0).params == {}


def test_a_plain_environment_that_does_not_heed_its_seed_is_told() -> None:
    tasks = TaskSource(recipe({"x": {"use": f"{HERE}:Guess", "solved_threshold": 1, "kwargs": {"mood": "unseeded"}}}))
    with pytest.raises(ConfigError, match=r"the same seed made two different tasks.*self\.np_random"):
        tasks.train(0)


@pytest.mark.parametrize(
    ("cls", "why"), [("LISTED", "expected a mapping of family names to generators"), ("HALF", "has no family, knobs,")]
)
def test_generators_that_are_none_are_said_before_anything_starts(cls: str, why: str) -> None:
    (problem,) = check_names(recipe({"x": {"use": f"{HERE}:{cls}"}})).problems
    assert problem.startswith("environments.x: generators() raised TypeError: ")
    assert why in problem


@pytest.mark.parametrize(
    ("cls", "why"),
    [("FORGETFUL", r"nearer raised TypeError: it made Task\(.*expected what child\.derived"), ("BROKEN", "nearer raised KeyError")],
)
def test_what_an_operator_raises_is_said(cls: str, why: str) -> None:
    knobs = {"x": {"use": f"{HERE}:{cls}", "families": {"places": {"knobs": {"far": 3}}}}}
    tasks = TaskSource(recipe(knobs, curriculum={"mutate_share": 1.0}))
    tasks.curriculum.update([Outcome(task=tasks.train(at), num_solved=0, num_judged=8) for at in range(3)])
    with pytest.raises(ConfigError, match=why):
        [tasks.train(10 + at) for at in range(40)]


def test_a_default_task_is_drawn_again_where_the_knobs_have_none() -> None:
    env = PICKY()
    prompts = {env.reset(seed=seed)[0] for seed in range(20)}
    assert len(prompts) == 20
    assert all("'far': 8" in prompt or "'far': 9" in prompt for prompt in prompts)
    assert Mine().draw(5) == Mine().draw(5)

    class Nothing(ToolEnv):
        """Makes no tasks."""

        name = "nothing"

    with pytest.raises(NotImplementedError, match=r"Nothing makes no tasks: define draw\(seed\), or generators\(\)"):
        Nothing().reset(seed=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"low": 3, "high": 1, "default": (3, 1)},
        {"low": 0, "high": 5, "default": (2, 6)},
        {"low": 0, "high": 5, "default": (3, 2)},
        {"low": 0, "high": 5, "default": (0,)},
        {"low": 0, "high": 5.0, "default": (0, 1)},
        {"low": 0, "high": 2**63, "default": (0, 1)},
    ],
)
def test_a_knob_is_a_range_of_whole_numbers(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a knob is Knob"):
        Knob(**fields, help="")
    with pytest.raises(ValueError, match="direction is 'hard', expected one of harder, easier, same"):
        Operator(direction="hard", help="")  # type: ignore[arg-type]
