import json
import random
from statistics import fmean
from typing import Any

import pytest

from flywheel.config import Recipe
from flywheel.contracts import Knob, TaskGenerator, draw_params
from flywheel.tasks.curriculum import Curriculum
from flywheel.tasks.family import Family
from flywheel.tasks.outcomes import Outcome
from flywheel.tasks.source import TaskSource
from flywheel.types import Knobs, Task, derive_seed
from tests.tasks.levels import Levels, LevelsEnv, chance, difficulty, draw, make, play


def learn(curriculum: Curriculum, skill: float, steps: int) -> None:
    for _ in range(steps):
        curriculum.update(play(curriculum, curriculum.step, skill))


def signal(curriculum: Curriculum, skill: float) -> float:
    rates = [chance(draw(curriculum, 10**6 + i), skill) for i in range(200)]
    return fmean(p * (1 - p) for p in rates)


def test_uniform_draws_are_what_they_were_before_there_was_a_curriculum() -> None:
    source = TaskSource(Recipe.model_validate({"environments": {"n": {"use": "tests.tasks.test_source:NumbersEnv"}}}))
    (family,) = source.families
    for index in range(50):
        for attempt in range(100):
            seed = derive_seed("train", 0, "numbers", "numbers", index, attempt)
            task = family.generator.generate(draw_params(family.generator.knobs, {}, seed), seed)
            if source.train(index) == task:
                break
        else:
            raise AssertionError(f"draw {index} is another task")
    shares = [Family(env="toy", generator=Levels(name), share=share, ranges={}) for name, share in (("a", 0.3), ("b", 0.7))]
    plans = [make("uniform", shares).plan(i).family.generator.family for i in range(100)]
    assert plans == [random.Random(derive_seed(0, "family", i)).choices("ab", [0.3, 0.7])[0] for i in range(100)]


def test_a_draw_depends_on_the_index_and_the_state_alone() -> None:
    one, same = make(), make()
    for curriculum in (one, same):
        learn(curriculum, 8.0, 5)
    assert [draw(one, i) for i in range(30)] == [draw(same, i) for i in reversed(range(30))][::-1]
    learn(same, 8.0, 1)
    assert [draw(one, i) for i in range(30)] != [draw(same, i) for i in range(30)]


@pytest.mark.parametrize("skill", [3.0, 9.0, 15.0])
def test_the_frontier_finds_what_is_solved_half_of_the_time(skill: float) -> None:
    frontier, uniform = make(), make("uniform")
    learn(frontier, skill, 20)
    assert signal(frontier, skill) > 2 * signal(uniform, skill)
    assert signal(frontier, skill) > 0.6 * 0.25


def test_the_frontier_follows_the_policy_up_and_down() -> None:
    curriculum = make()
    centres = []
    for skill in (4.0, 14.0, 4.0):
        learn(curriculum, skill, 25)
        centres.append(fmean(difficulty(draw(curriculum, 10**6 + i)) for i in range(200)))
    assert centres[1] > centres[0] + 5
    assert centres[2] < centres[1] - 5


def test_another_target_is_easier() -> None:
    easier, half = make(target=0.8), make()
    for curriculum in (easier, half):
        learn(curriculum, 9.0, 20)
    rates = [fmean(chance(draw(c, 10**6 + i), 9.0) for i in range(200)) for c in (easier, half)]
    assert rates[0] > rates[1] + 0.1


def test_progress_prefers_the_family_that_changes() -> None:
    families = [Family(env="toy", generator=Levels(name), share=0.5, ranges={}) for name in ("still", "moving")]
    curriculum = make("progress", families)
    for step in range(15):
        tasks = [draw(curriculum, step * 1000 + i) for i in range(16)]
        curriculum.update([play_as(task, 4 if task.family == "still" else min(8, step)) for task in tasks])
    drawn = [draw(curriculum, 10**6 + i).family for i in range(300)]
    assert drawn.count("moving") > 0.6 * len(drawn)


def play_as(task: Task, num_solved: int) -> Outcome:
    return Outcome(task=task, num_solved=num_solved, num_judged=8)


def test_a_hopeless_family_keeps_its_floor_and_is_lowered_and_a_saturated_one_is_raised() -> None:
    hard, easy = Levels("hard", default=(8, 9)), Levels("easy", default=(0, 1))
    families = [Family(env="toy", generator=g, share=0.5, ranges={}) for g in (hard, easy)]
    curriculum = make(families=families)
    reports = [curriculum.update(play(curriculum, step, 8.0)) for step in range(40)]
    moves = {(m.family, m.direction) for r in reports for m in r.moves}
    assert moves == {("toy/hard", "lowered"), ("toy/easy", "raised")}
    assert curriculum.ranges("toy/hard")["x"][0] < 8
    assert curriculum.ranges("toy/easy")["x"][1] > 1
    assert reports[-1].num_raised >= 1
    assert reports[-1].num_lowered >= 1
    drawn = [draw(curriculum, 10**6 + i).family for i in range(400)]
    assert min(drawn.count("hard"), drawn.count("easy")) > 0.08 * len(drawn)


def test_knobs_that_the_recipe_pins_stay_and_a_family_without_room_is_reported() -> None:
    pinned = [Family(env="toy", generator=Levels(), share=1.0, ranges={"x": (0, 0), "y": (9, 9)})]
    curriculum = make(families=pinned)
    report = [curriculum.update(play(curriculum, step, 40.0)) for step in range(30)][-1]
    assert curriculum.ranges("toy/levels") == {"x": (0, 0), "y": (9, 9)}
    assert [(m.direction, m.moved) for m in report.moves] == [("raised", False)]
    assert report.num_raised == 0


def test_fixed_and_easy_to_hard_levels() -> None:
    fixed, ramp = make("fixed", level=0.0), make("easy_to_hard", ramp_steps=10)
    assert fmean(difficulty(draw(fixed, i)) for i in range(100)) < 2
    assert fmean(difficulty(draw(ramp, i)) for i in range(100)) < 2
    learn(ramp, 9.0, 10)
    assert fmean(difficulty(draw(ramp, i)) for i in range(100)) > 16


def test_a_family_whose_knobs_were_others_keeps_what_it_has() -> None:
    old, now = make(), make()
    learn(old, 4.0, 2)
    state = old.state()
    for kept in state["families"].values():
        kept["mean"].append(0.0)
    before = now.state()["families"]
    now.restore(state)
    assert now.step == 2
    assert now.state()["families"] == before


def test_the_order_of_outcomes_does_not_count_and_the_state_survives_json_bit_for_bit() -> None:
    one, other, restored = make(), make(), make()
    for step in range(5):
        outcomes = play(one, step, 9.0)
        one.update(outcomes)
        other.update(outcomes[::-1])
    assert one.state() == other.state()
    restored.restore(json.loads(json.dumps(one.state())))
    assert restored.state() == one.state()
    assert [draw(restored, i) for i in range(50)] == [draw(one, i) for i in range(50)]


def test_the_brier_score_is_that_of_the_prediction_before_the_step() -> None:
    curriculum = make("uniform")
    task = draw(curriculum, 0)
    p = curriculum.predicted(task)
    assert p is not None
    # 2 of 8 solved: (2 (1 - p)² + 6 p²) / 8
    report = curriculum.update([play_as(task, 2)])
    assert report.brier == pytest.approx((2 * (1 - p) ** 2 + 6 * p**2) / 8, abs=1e-12)
    assert sum(cell.share for cell in report.cells) == 1.0
    assert [cell.solve_rate for cell in report.cells if cell.share] == [0.25]


def test_tasks_that_are_predicted_dead_are_skipped_before_any_rollout_but_not_all_of_them() -> None:
    environments = {"n": {"use": "tests.tasks.levels:LevelsEnv"}}
    recipe = Recipe.model_validate({"environments": environments, "curriculum": {"skip_dead": 0.3, "explore": 0.2}})
    source = TaskSource(recipe)

    def share_dead(first: int) -> float:
        drawn = [source.train(first + i) for i in range(200)]
        return fmean(chance(task, 6.0) < 0.02 for task in drawn)

    before = share_dead(0)
    assert source.num_skipped == 0
    for step in range(12):
        source.curriculum.update(play(source.curriculum, step, 6.0))
    after = share_dead(1000)
    assert source.num_skipped > 50
    assert 0.2 * before < after < 0.6 * before  # a share of draws explores whatever is predicted


def test_progress_without_a_floor_begins_somewhere() -> None:
    families = [Family(env="toy", generator=Levels(name), share=share, ranges={}) for name, share in (("a", 1.0), ("b", 0.0))]
    curriculum = make("progress", families, family_floor=0.0, explore=0.0)
    assert {draw(curriculum, at).family for at in range(20)} == {"a"}


@pytest.mark.parametrize("rule", ["uniform", "fixed", "easy_to_hard", "frontier", "progress"])
def test_knobs_of_any_shape_can_be_drawn(rule: str) -> None:
    wide, none = Levels("wide"), Levels("none")
    wide.knobs = {
        "x": Knob(low=-(2**53), high=2**53, default=(-(2**53), 2**53), help=""),
        "y": Knob(low=4, high=4, default=(4, 4), help=""),
    }
    none.knobs = {}
    families = [Family(env="toy", generator=generator, share=0.5, ranges={}) for generator in (wide, none)]
    curriculum = make(rule, families, explore=0.0)
    for step in range(3):
        tasks = [draw(curriculum, step * 100 + at) for at in range(16)]
        assert {tuple(task.params) for task in tasks} == {(), ("x", "y")}
        assert {task.params["y"] for task in tasks if task.params} == {4}
        curriculum.update([play_as(task, at % 9) for at, task in enumerate(tasks)])
        assert all(isinstance(value, int) for task in tasks for value in task.params.values())


def test_ranges_that_the_recipe_sets_otherwise_hold_after_a_resume() -> None:
    old, wider, same = (
        make(families=[Family(env="toy", generator=Levels(), share=1.0, ranges=ranges)]) for ranges in ({}, {"x": (3, 4)}, {})
    )
    learn(old, 40.0, 30)
    state = json.loads(json.dumps(old.state()))
    for now in (wider, same):
        now.restore(state)
        assert now.state()["families"]["toy/levels"]["mean"] == state["families"]["toy/levels"]["mean"]
    assert same.ranges("toy/levels") == old.ranges("toy/levels")
    assert wider.ranges("toy/levels") == {"x": (3, 4), "y": (0, 9)}
    assert {draw(wider, at).params["x"] for at in range(30)} == {3, 4}


@pytest.mark.parametrize(("rule", "far"), [("fixed", 1.0), ("easy_to_hard", 0.0), ("frontier", 0.0), ("progress", 0.0)])
def test_a_rule_that_asks_for_what_has_no_task_takes_what_is_near(rule: str, far: float) -> None:
    environments = {"n": {"use": f"{__name__}:NarrowEnv"}}
    source = TaskSource(Recipe.model_validate({"environments": environments, "curriculum": {"rule": rule, "level": far, "explore": 0.0}}))
    for step in range(3):
        drawn = [source.train(step * 10 + at) for at in range(8)]
        assert {task.params["x"] for task in drawn} <= {4, 5}
        # All of them are solved, so that what promises most is where there are none.
        source.curriculum.update([play_as(task, 8) for task in drawn])


class NarrowLevels(Levels):
    """Has tasks in the middle of one of its knobs alone."""

    def generate(self, params: Knobs, seed: int) -> Task:
        if params["x"] not in (4, 5):
            raise ValueError("no task")
        return super().generate(params, seed)


class NarrowEnv(LevelsEnv):
    """Its tasks are those of `NarrowLevels`."""

    @classmethod
    def generators(cls) -> dict[str, TaskGenerator]:
        return {"levels": NarrowLevels()}


def test_the_easiest_formulas_can_be_asked_for() -> None:
    families: dict[str, Any] = {"chemistry": {"families": {"formula": {}}}}
    source = TaskSource(Recipe.model_validate({"environments": families, "curriculum": {"rule": "easy_to_hard"}}))
    assert source.train(0).family == "formula"
