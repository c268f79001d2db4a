import dataclasses
import itertools
from pathlib import Path
from typing import ClassVar, get_args

import pytest

from flywheel.config import Recipe
from flywheel.contracts import Knob, SplitKey, TaskGenerator, draw_params, level_of
from flywheel.errors import ConfigError
from flywheel.tasks.source import TaskSource
from flywheel.tool_env import ToolEnv
from flywheel.types import Knobs, Split, Task


class Numbers:
    """Tasks that name a number; the key is the number, whatever the seed."""

    family = "numbers"
    knobs: ClassVar = {"size": Knob(low=1, high=9, default=(1, 3), help="digits")}

    def generate(self, params: Knobs, seed: int) -> Task:
        number = seed % 10 ** int(params["size"])
        return Task.create(env="numbers", family="numbers", prompt=f"Say {number}.", payload={"number": number}, params=params, seed=seed)

    def demonstrate(self, task: Task) -> list[str]:
        return [str(task.payload["number"])]

    def key(self, task: Task) -> str:
        return str(task.payload["number"])

    def validate(self, task: Task) -> None:
        pass


class NumbersEnv(ToolEnv):
    """Say the number."""

    name = "numbers"
    solved_threshold = 1.0

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"numbers": Numbers()}


class LastDigits(Numbers):
    """Numbers with the same last digit belong together."""

    def split_keys(self, task: Task) -> tuple[str, ...]:
        return (self.key(task)[-1],)


class LastDigitsEnv(NumbersEnv):
    """Say the number."""

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"numbers": LastDigits()}


class BothDigits(Numbers):
    """Numbers of two digits, each with a say."""

    def split_keys(self, task: Task) -> tuple[SplitKey, ...]:
        return tuple(f"{place}{digit}" for place, digit in enumerate(f"{task.payload['number']:02}"))


class BothDigitsEnv(NumbersEnv):
    """Say the number."""

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"numbers": BothDigits()}


class LateDigits(BothDigits):
    """The same, but the second digit has to be asked for."""

    told: ClassVar[list[SplitKey]] = []

    def split_keys(self, task: Task) -> tuple[SplitKey, ...]:
        first, second = super().split_keys(task)

        def told() -> str:
            self.told.append(second)
            return str(second)

        return first, told


class LateDigitsEnv(NumbersEnv):
    """Say the number."""

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"numbers": LateDigits()}


class Others(Numbers):
    """Numbers of another environment."""

    def generate(self, params: Knobs, seed: int) -> Task:
        return dataclasses.replace(super().generate(params, seed), env="others", prompt=f"Write {seed}.")


class OthersEnv(NumbersEnv):
    """Write the number."""

    name = "others"

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"numbers": Others()}


class DrawnEnv(ToolEnv):
    """Draws its own tasks."""

    name = "drawn"
    solved_threshold = 1.0

    def draw(self, seed: int) -> Task:
        return Task.create(env="drawn", family="drawn", prompt=f"{seed % 50}", payload={}, seed=seed)


def recipe(**sections: object) -> Recipe:
    return Recipe.model_validate({"environments": {"n": {"use": f"{__name__}:NumbersEnv"}}, **sections})


def test_the_same_draw_is_the_same_task_and_another_run_seed_draws_others() -> None:
    one, same, other = TaskSource(recipe()), TaskSource(recipe()), TaskSource(recipe(run={"seed": 1}))
    assert [one.train(i) for i in range(20)] == [same.train(i) for i in range(20)]
    assert [one.train(i) for i in range(20)] != [other.train(i) for i in range(20)]


def test_splits_never_share_a_key_and_heldout_is_the_same_for_every_run_seed() -> None:
    source = TaskSource(recipe(tasks={"heldout_share": 0.5}))
    heldout = source.heldout("numbers", 100)
    keys = {t.prompt for t in heldout}
    assert len(keys) == 100
    assert keys.isdisjoint({source.train(i).prompt for i in range(2000)})
    assert {t.split for t in heldout} == {"heldout"}
    assert heldout == TaskSource(recipe(tasks={"heldout_share": 0.5}, run={"seed": 9})).heldout("numbers", 100)


def test_a_family_may_say_which_tasks_belong_on_one_side() -> None:
    source = TaskSource(recipe(environments={"n": {"use": f"{__name__}:LastDigitsEnv"}}, tasks={"heldout_share": 0.5}))
    heldout, train = source.heldout("numbers", 50), [source.train(i) for i in range(500)]
    last = [{task.prompt[-2] for task in tasks} for tasks in (heldout, train)]
    assert min(map(len, last)) > 1
    assert last[0].isdisjoint(last[1])


def test_where_several_keys_decide_no_one_of_them_is_on_both_sides() -> None:
    section = {"use": f"{__name__}:BothDigitsEnv", "families": {"numbers": {"knobs": {"size": 2}}}}
    source = TaskSource(recipe(environments={"n": section}, tasks={"heldout_share": 0.2}))
    heldout, train = source.heldout("numbers", 12), [source.train(i) for i in range(500)]
    for place in (0, 1):
        digits = [{f"{task.payload['number']:02}"[place] for task in tasks} for tasks in (heldout, train)]
        assert min(map(len, digits)) > 1
        assert digits[0].isdisjoint(digits[1])
    torn = dataclasses.replace(heldout[0], payload={"number": 10 * (heldout[0].payload["number"] // 10) + train[0].payload["number"] % 10})
    assert source.barred(dataclasses.replace(torn, split="train")) == "heldout"


def test_a_split_key_that_takes_long_is_asked_for_only_where_the_others_do_not_settle_it() -> None:
    plain, late = (
        TaskSource(recipe(environments={"n": {"use": f"{__name__}:{name}"}}, tasks={"heldout_share": 0.2}))
        for name in ("BothDigitsEnv", "LateDigitsEnv")
    )
    tasks = [dataclasses.replace(plain.train(0), payload={"number": number}) for number in range(100)]
    for split in get_args(Split):
        sides = [[source._is_of(split, source.families[0], task) for task in tasks] for source in (plain, late)]
        assert sides[0] == sides[1]
        assert 0 < sum(sides[0]) < 100
    assert len(LateDigits.told) == 100  # a first digit is on one of the two sides, and only there the second one counts


def test_demonstrations_may_have_shares_of_their_own() -> None:
    sections = {"n": {"use": f"{__name__}:NumbersEnv", "weight": 0.9, "demonstration_weight": 0.25}, "o": {"use": f"{__name__}:OthersEnv"}}
    source = TaskSource(recipe(environments=sections))
    shown = [task.prompt[:3] for task, _ in itertools.islice(source.demonstrations(0), 500)]
    drawn = [source.train(i).prompt[:3] for i in range(500)]
    assert shown.count("Say") / 500 == pytest.approx(0.25 / 1.25, abs=0.05)
    assert drawn.count("Say") / 500 == pytest.approx(0.9 / 1.9, abs=0.06)


def test_too_small_a_heldout_set_is_said() -> None:
    environments = {"n": {"use": f"{__name__}:NumbersEnv", "families": {"numbers": {"knobs": {"size": 1}}}}}
    with pytest.raises(ConfigError, match="different held-out tasks"):
        TaskSource(recipe(environments=environments)).heldout("numbers", 100)


def test_an_unknown_family_names_the_closest() -> None:
    environments = {"n": {"use": f"{__name__}:NumbersEnv", "families": {"number": {}}}}
    with pytest.raises(ConfigError, match="did you mean 'numbers'"):
        TaskSource(recipe(environments=environments))


def test_an_environment_may_draw_its_own_tasks() -> None:
    source = TaskSource(recipe(environments={"d": {"use": f"{__name__}:DrawnEnv"}}, tasks={"heldout_share": 0.4}))
    assert {source.train(i).env for i in range(10)} == {"drawn"}
    assert {source.train(i).prompt for i in range(300)}.isdisjoint({t.prompt for t in source.heldout("drawn", 10)})


def test_tasks_come_from_a_file_of_records(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = [f'{{"id": "mine-{i}", "prompt": "Say {i}.", "payload": {{"number": {i}}}}}' for i in range(40)]
    file.write_text("\n".join(lines), "utf-8")
    source = TaskSource(
        recipe(environments={"n": {"use": f"{__name__}:NumbersEnv", "tasks_file": str(file)}}, tasks={"heldout_share": 0.5})
    )
    drawn = [source.train(i) for i in range(200)]
    assert {str(t.source_id).split("-")[0] for t in drawn} == {"mine"}
    assert {t.prompt for t in drawn}.isdisjoint({t.prompt for t in source.heldout("numbers", 5)})
    file.write_text(lines[0] + '\n{"prompt": 3}\n', "utf-8")
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:2"):
        TaskSource(recipe(environments={"n": {"use": f"{__name__}:NumbersEnv", "tasks_file": str(file)}}))


def test_levels_are_the_mean_knob_position_in_fifths() -> None:
    knobs = {"a": Knob(low=0, high=4, default=(0, 4), help=""), "b": Knob(low=1, high=3, default=(1, 3), help="")}
    # a at 1/4 of its range, b at 1/2: mean 3/8, the second fifth
    assert level_of(knobs, {"a": 1, "b": 2}) == 2
    assert level_of(knobs, {"a": 4, "b": 3}) == 5
    assert level_of({}, {}) == 1
    assert draw_params(knobs, {"a": (2, 2)}, seed=1)["a"] == 2


def test_objections_to_tasks_that_were_made_of_attempts() -> None:
    recipe = Recipe.model_validate({"environments": {"code": {"families": {"lists": {}}}}, "evaluation": {"tasks_per_environment": 3}})
    source = TaskSource(recipe)
    held, own = source.heldout("code", 3)[0], source.train(0)
    assert source.objection(own) is None
    assert source.objection(held) == "heldout"
    assert source.objection(dataclasses.replace(own, payload={})) == "no_key"
    assert source.objection(dataclasses.replace(own, env="elsewhere")) == "no_key"
    reference = str(held.payload["reference"])
    assert source.objection(own, "def f(xs):\n    return []\n") is None
    assert source.objection(own, reference) == "heldout_answer"
    assert source.objection(own, reference.replace("    # ", "    # so: ").replace("xs", "items")) == "heldout_answer"
