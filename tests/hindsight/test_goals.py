"""HER's strategies on a walk on a grid, from the attempt to the row."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

from flywheel.errors import NotRelabelledError
from flywheel.hindsight.goals import GoalRelabeller, Strategy
from flywheel.testing.environment import EnvironmentContract
from flywheel.types import Task, Trajectory, Turn, Verdict
from tests.hindsight.attempts import collected, harvested, recipe_of, said
from tests.hindsight.grid import Grid
from tests.scripted import call

FAILED = Verdict(outcome="failed", reward=0.0, checks=(), evidence="", verifier="env_reward", verifier_version="1")
TASK = Grid.task_of((1, 1), (8, 7))
WALK = [call("walk", way=way) for way in ("east", "east", "north", "north")]


class TestGrid(EnvironmentContract):
    target = "tests.hindsight.grid:Grid"


def walked(*places: str | None) -> Trajectory:
    """Return an attempt that was at these places."""
    turns = [
        Turn(prompt_ids=(), completion_ids=(1,), behavior_logprobs=None, policy_version="", text="", observation=place) for place in places
    ]
    return Trajectory(task_id=TASK.id, turns=tuple(turns), stop_reason="max_turns", answer=None)


def goals(strategy: Strategy, attempt: Trajectory, k: int = 4) -> dict[tuple[int, ...], int]:
    """Return the relabelled goals and the numbers of turns that lead to them."""
    pairs = GoalRelabeller(Grid, strategy=strategy, k=k).relabel(TASK, attempt, FAILED)
    assert all(task.parent_id == TASK.id and task.operator == "hindsight:goals" for task, _ in pairs)
    assert all(path.task_id == task.id for task, path in pairs)
    return {tuple(task.payload["desired_goal"]): len(path.turns) for task, path in pairs}


def test_gymnasium_accepts_the_example() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(Grid(), skip_render_check=True)


def test_final_asks_for_the_last_place_and_cuts_where_it_was_first_reached() -> None:
    assert goals("final", walked("at (2, 1)", "at (3, 1)", "at (3, 2)")) == {(3, 2): 3}
    assert goals("final", walked("at (2, 1)", "at (3, 1)", "at (2, 1)")) == {(2, 1): 1}
    assert goals("final", walked("at (2, 1)", "there is no such way")) == {(2, 1): 1}


@pytest.mark.parametrize("strategy", ["future", "episode"])
def test_future_and_episode_ask_for_places_on_the_way(strategy: Strategy) -> None:
    places = {(2, 1): 1, (3, 1): 2, (3, 2): 3, (4, 2): 4}
    attempt = walked(*(f"at {place}" for place in places))
    found = goals(strategy, attempt, k=200)
    assert found == places
    assert goals(strategy, attempt, k=200) == found
    assert len(goals(strategy, attempt, k=1)) == 1


def test_future_leans_to_later_places() -> None:
    """With two turns the second follows both starts: P(first) = 1/4, P(second) = 3/4; ``episode`` draws each with 1/2."""
    counts = dict.fromkeys(("future", "episode"), 0)
    for seed in range(400):
        attempt = dataclasses.replace(walked("at (2, 1)", "at (3, 1)"), seed=seed)
        for strategy in ("future", "episode"):
            counts[strategy] += (3, 1) in goals(strategy, attempt, k=1)
    assert 270 <= counts["future"] <= 330
    assert 170 <= counts["episode"] <= 230


def test_what_held_at_the_start_is_no_goal() -> None:
    for strategy in ("final", "future", "episode"):
        with pytest.raises(NotRelabelledError, match="nothing_achieved"):
            goals(strategy, walked("at (1, 1)", None))
        with pytest.raises(NotRelabelledError, match="nothing_achieved"):
            goals(strategy, walked())


def test_a_wrong_number_of_goals_is_an_error() -> None:
    class Forgetful(Grid):
        @classmethod
        def achieved_goals(cls, task: Task, trajectory: Trajectory) -> list[object]:
            return [[1, 1]]

    with pytest.raises(ValueError, match="gave 1 goals for 2 turns"):
        GoalRelabeller(Forgetful).relabel(TASK, walked("at (2, 1)", "at (3, 1)"), FAILED)


def test_a_walk_that_missed_becomes_a_walk_to_where_it_got(tmp_path: Path) -> None:
    recipe = recipe_of("tests.hindsight.grid:Grid")
    group = collected(recipe, TASK, WALK)
    assert group.experiences[0].verdict.outcome == "truncated"
    (found,) = harvested(recipe, [group], tmp_path)
    assert found.shortened == {}
    (lesson,) = found.lessons
    turns = group.experiences[0].trajectory.turns
    assert said(lesson.row.prompt_ids).count("You are at (1, 1). Walk to (3, 3).") == 1
    assert sum(lesson.row.loss_mask) == sum(len(turn.completion_ids) for turn in turns)
    ids = [token for number, turn in enumerate(turns) for token in ((*turn.prompt_ids,) if number else ()) + turn.completion_ids]
    assert list(lesson.row.completion_ids) == ids
    assert lesson.experience.verdict.outcome == "solved"
    assert lesson.experience.trajectory.env_return == 1.0


def test_a_walk_that_speaks_of_the_dropped_goal_teaches_nothing(tmp_path: Path) -> None:
    recipe = recipe_of("tests.hindsight.grid:Grid")
    (found,) = harvested(recipe, [collected(recipe, TASK, [f"To (8, 7)!{WALK[0]}", *WALK[1:]])], tmp_path)
    assert (found.lessons, found.dropped) == ((), {"not_solved": 1})


def test_observations_that_tell_of_the_goal_are_not_spliced(tmp_path: Path) -> None:
    recipe = recipe_of("tests.hindsight.grid:DizzyGrid")
    (found,) = harvested(recipe, [collected(recipe, TASK, WALK)], tmp_path)
    assert (found.lessons, found.dropped) == ((), {"not_solved": 1})
