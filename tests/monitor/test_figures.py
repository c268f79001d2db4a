import dataclasses
from collections.abc import Sequence

import pytest

from flywheel.contracts import Knob
from flywheel.monitor.figures import FIGURES, StepClock, Timings, overlap_figures, step_figures
from flywheel.monitor.samples import MAX_CELL, plain_text, sample_table
from flywheel.types import Check, Experience, Group, Outcome, Task, ToolCall, Trajectory, Turn, Verdict

KNOBS = {("code", "sums"): {"size": Knob(low=1, high=11, default=(1, 5), help="terms")}}
CANARY = "CANARY-hidden-test-42"


def attempt(task: Task, outcome: Outcome, reward: float, tools: Sequence[Sequence[str]], num_tokens: int) -> Experience:
    turns = tuple(
        Turn(
            prompt_ids=(1,),
            completion_ids=(2,) * num_tokens,
            behavior_logprobs=(0.0,) * num_tokens,
            policy_version="0.0",
            text=f"I call {names}",
            tool_calls=tuple(ToolCall(name=name, arguments={}) for name in names),
            observation="ok",
        )
        for names in tools
    )
    return Experience(
        id="e",
        group_id="g",
        task=task,
        trajectory=Trajectory(task_id=task.id, turns=turns, stop_reason="terminated", answer="x"),
        verdict=Verdict(
            outcome=outcome,
            reward=reward,
            checks=(Check(name="tests", passed=outcome == "solved", detail=CANARY),),
            evidence=CANARY,
            verifier="v",
            verifier_version="1",
            duration_s=0.25,
        ),
        origin="on_policy",
    )


def group(task: Task, *attempts: tuple[Outcome, float, Sequence[Sequence[str]], int]) -> Group:
    return Group(id="g", task=task, experiences=tuple(attempt(task, *a) for a in attempts))


SUMS_1 = Task.create(env="code", family="sums", prompt="add", payload={"hidden_tests": [CANARY]}, params={"size": 1})
SUMS_11 = Task.create(env="code", family="sums", prompt="add more", payload={"hidden_tests": [CANARY]}, params={"size": 11})
FORMULA = Task.create(env="my/env", family="formula", prompt="C3H8", payload={})

GROUPS = [
    # mixed: 4 + 8 + 2 tokens judged
    group(
        SUMS_1,
        ("solved", 1.0, [["run"], ["submit"]], 2),
        ("failed", 0.2, [["submit"], ["run"]], 4),
        ("truncated", 0.0, [["run"]], 2),
    ),
    # masked: one judged attempt
    group(SUMS_11, ("solved", 1.0, [["run", "submit"]], 6), ("infra_error", 0.0, [[]], 100)),
    group(FORMULA, ("solved", 1.0, [["submit"]], 2), ("solved", 1.0, [["submit"]], 2)),
    group(FORMULA, ("tampered", 0.0, [["submit"]], 2), ("failed", 0.0, [[]], 0)),
]
TIMINGS = Timings(rollout_s=4.0, train_s=2.0, num_train_tokens=30)


def test_every_figure_by_hand() -> None:
    figures = step_figures(GROUPS, KNOBS, TIMINGS, {"entropy": 0.5, "policy/kl": 0.25, "grad_norm": 2, "train_s": 9.0})
    assert figures == pytest.approx(
        {
            "policy/entropy": 0.5,
            "policy/kl": 0.25,
            "trainer/grad_norm": 2.0,
            "reward/mean": (1.0 + 0.2 + 0.0 + 1.0 + 1.0 + 1.0 + 0.0 + 0.0) / 8,
            "solved/code": 2 / 4,
            "solved/code/sums": 2 / 4,
            "solved/code/sums/level_1": 1 / 3,
            "solved/code/sums/level_5": 1.0,
            "solved/my_env": 2 / 4,
            "solved/my_env/formula": 2 / 4,
            "groups/all_solved": 1 / 4,
            "groups/none_solved": 1 / 4,
            "groups/mixed": 1 / 4,
            "groups/masked": 1 / 4,
            "outcomes/solved": 4 / 9,
            "outcomes/failed": 2 / 9,
            "outcomes/truncated": 1 / 9,
            "outcomes/infra_error": 1 / 9,
            "outcomes/tampered": 1 / 9,
            "length/completion_mean": (4 + 8 + 2 + 6 + 2 + 2 + 2 + 0) / 8,
            "length/turns_mean": (2 + 2 + 1 + 1 + 1 + 1 + 1 + 1) / 8,
            "tools/used_before_submit": 2 / 8,
            "tools/used_before_submit/code": 2 / 4,
            "tools/used_before_submit/my_env": 0.0,
            "tokens/rollout": 126,
            "tokens/useful_share": 14 / 126,
            "tokens/train": 30,
            "tokens_per_s/rollout": 126 / 4,
            "tokens_per_s/train": 15.0,
            "time/rollout_s": 4.0,
            "time/verify_s": 9 * 0.25,
            "time/train_s": 2.0,
        }
    )


def test_every_figure_is_documented() -> None:
    names = step_figures(GROUPS, KNOBS, Timings(rollout_s=1, train_s=1, sync_s=1, num_train_tokens=1))
    for name in names:
        pattern = name.replace("my_env", "ENV").replace("code", "ENV").replace("sums", "FAMILY").replace("formula", "FAMILY")
        assert pattern.replace("level_1", "level_L").replace("level_5", "level_L") in FIGURES


def test_what_can_not_be_computed_is_absent() -> None:
    assert step_figures([], {}, Timings()) == {"tokens/rollout": 0.0, "time/verify_s": 0.0}
    broken = group(FORMULA, ("infra_error", 0.0, [[]], 3))
    figures = step_figures([broken], {}, Timings(rollout_s=0.0))
    assert "reward/mean" not in figures
    assert "tokens_per_s/rollout" not in figures
    assert figures["groups/masked"] == 1.0


def test_the_sample_table_takes_turns_through_the_groups() -> None:
    first = GROUPS[0].experiences[0]
    table = sample_table(GROUPS, 6, advantages={first.id: 0.25})
    assert table.columns == ("task", "text", "checks", "outcome", "reward", "advantage", "tokens", "group", "origin")
    assert table.rows[0][5:8] == (0.25, first.trajectory.num_completion_tokens, first.group_id)
    assert [row[3] for row in table.rows] == ["solved", "solved", "solved", "tampered", "failed", "infra_error"]
    assert table.rows[0][2] == "✓ tests"
    assert table.rows[0][0] == f"code/sums {SUMS_1.id}\nadd"
    assert "I call ['run']" in str(table.rows[0][1])
    assert sample_table(GROUPS, 0).rows == ()
    assert sample_table([], 5).rows == ()


def test_the_sample_table_shows_the_pictures_that_there_are() -> None:
    assert "picture" not in sample_table(GROUPS, 6, {}).columns
    first, second = (dataclasses.replace(e, id=name) for e, name in zip(GROUPS[0].experiences, ("a", "b"), strict=False))
    table = sample_table([Group(id="g", task=SUMS_1, experiences=(first, second))], 2, {"b": b"png"})
    assert table.columns[-1] == "picture"
    assert [row[-1] for row in table.rows] == [None, b"png"]


def test_the_sample_table_shows_nothing_that_the_policy_may_not_see() -> None:
    assert CANARY not in repr(sample_table(GROUPS, 100))


def test_hostile_text_is_plain_and_short() -> None:
    assert plain_text("\x1b]0;owned\x07\ud800\u202e a\tb\n⊢") == "\ufffd]0;owned\ufffd\ufffd\ufffd a\tb\n⊢"
    assert len(plain_text("x" * 10_000_000)) < MAX_CELL + 100


def test_idle_shares_are_of_the_wall_time_since_the_step_began() -> None:
    now = 100.0
    clock = StepClock(clock=lambda: now)
    assert clock.shares(0.0) == {}
    clock.begin_step(engine_busy_s=7.0)
    with clock.waiting():
        now += 2.0
    now += 6.0
    assert clock.shares(engine_busy_s=10.0) == {"idle/trainer": 0.25, "idle/engine": 0.625}


def test_staleness_is_counted_in_steps_and_weighed_by_tokens() -> None:
    def sampled_under(versions: list[str]) -> Experience:
        base = GROUPS[0].experiences[0]
        turn = base.trajectory.turns[0]
        turns = tuple(
            dataclasses.replace(turn, policy_version=version, completion_ids=(1,) * (at + 1)) for at, version in enumerate(versions)
        )
        return dataclasses.replace(base, trajectory=dataclasses.replace(base.trajectory, turns=turns))

    group = dataclasses.replace(GROUPS[0], experiences=(sampled_under(["1.5", "2.4"]), sampled_under(["1.5"])))
    # Step 6 trains on version 5: one token is 0 steps behind, two are 1 behind, one is 0 behind.
    figures = overlap_figures(6, [group], {"idle/trainer": 0.5})
    assert figures == {"idle/trainer": 0.5, "staleness/mean": 0.5, "staleness/max": 1.0}
