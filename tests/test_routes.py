"""The rules of routing, one by one and together."""

from __future__ import annotations

import dataclasses

import pytest

from flywheel.config import LearningConfig
from flywheel.router import TAMPER_REWARD, Knowledge, route, self_imitation_row, unlikely_rewards
from flywheel.routes import RULES, Destination, Facts, Route, destinations
from flywheel.types import Check, Experience, Group, Outcome, Trajectory, Turn
from tests.test_router import TASK, experience, group

ALL = LearningConfig(distill_share=0.2, hindsight_share=0.2, repair_share=0.2, retry_size=8)
OFF = LearningConfig()
FAILED = Facts(outcome="failed", num_counted=4)
SOLVED = Facts(outcome="solved", num_counted=4, solved_elsewhere=True)

TABLE: dict[str, tuple[Facts, list[Destination]]] = {
    "broke": (Facts(outcome="infra_error", has_contrast=True, solved_elsewhere=True), ["quarantine"]),
    "contaminated": (dataclasses.replace(SOLVED, has_contrast=True, barred="contaminated"), ["quarantine"]),
    "heldout": (dataclasses.replace(FAILED, barred="heldout"), ["quarantine"]),
    "contrast, solved": (dataclasses.replace(SOLVED, has_contrast=True), ["grpo", "distill"]),
    "all solved": (SOLVED, ["distill"]),
    "contrast, failed": (dataclasses.replace(FAILED, has_contrast=True, solved_elsewhere=True), ["grpo", "repair", "hindsight"]),
    "contrast, failed, no answer": (
        dataclasses.replace(FAILED, has_contrast=True, solved_elsewhere=True, has_answer=False),
        ["grpo", "repair"],
    ),
    "truncated with an answer": (dataclasses.replace(FAILED, outcome="truncated"), ["hindsight"]),
    "truncated without": (dataclasses.replace(FAILED, outcome="truncated", has_answer=False), []),
    "all failed, hopeful": (dataclasses.replace(FAILED, all_failed=True, predicted=0.06), ["hindsight", "retry"]),
    "all failed, at the limit": (dataclasses.replace(FAILED, all_failed=True, predicted=0.05), ["hindsight"]),
    "all failed, no prediction": (dataclasses.replace(FAILED, all_failed=True), ["hindsight"]),
    "all failed, solved earlier": (
        dataclasses.replace(FAILED, all_failed=True, predicted=0.5, solved_elsewhere=True),
        ["repair", "hindsight", "retry"],
    ),
    "tampered in contrast": (
        dataclasses.replace(FAILED, outcome="tampered", attack="tampered", has_contrast=True, solved_elsewhere=True, predicted=0.5),
        ["grpo", "quarantine"],
    ),
    "tampered, all failed": (
        dataclasses.replace(FAILED, outcome="tampered", attack="tampered", all_failed=True, predicted=0.5),
        ["quarantine"],
    ),
    "killed its grader": (dataclasses.replace(FAILED, attack="kills_grader", has_contrast=True), ["grpo", "quarantine"]),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    facts, expected = TABLE[name]
    assert [destination for destination, _ in destinations(facts, ALL)] == expected


def test_every_rule_is_tried() -> None:
    tried = {(rule.destination, rule.bars) for rule in RULES for facts, _ in TABLE.values() if rule.when(facts, ALL)}
    assert tried == {(rule.destination, rule.bars) for rule in RULES}


@pytest.mark.parametrize("name", TABLE)
def test_what_the_recipe_leaves_off_is_no_destination(name: str) -> None:
    assert {destination for destination, _ in destinations(TABLE[name][0], OFF)} <= {"grpo", "quarantine"}


def test_a_route_says_where_an_attempt_goes_besides_and_why() -> None:
    routed = route([group("solved", "failed")], scale="none", learning=ALL)
    assert routed.routes == (
        Route(experience_id="e0", destination="grpo", reason="group with contrast; solved", also=("distill",)),
        Route(
            experience_id="e1",
            destination="grpo",
            reason="group with contrast; failed what was solved elsewhere; failed with an answer",
            also=("repair", "hindsight"),
        ),
    )


def test_what_tampered_trains_with_the_least_reward_and_is_barred_from_everything_else() -> None:
    routed = route([group("solved", "tampered", "failed")], scale="none", learning=ALL)
    mean = (1 + TAMPER_REWARD + 0) / 3
    assert [row.advantage for row in routed.rows] == pytest.approx([1 - mean, TAMPER_REWARD - mean, -mean])
    assert routed.routes[1] == Route(experience_id="e1", destination="grpo", reason="group with contrast; tampered", also=("quarantine",))


def test_a_group_of_a_barred_task_trains_nothing() -> None:
    routed = route([group("solved", "failed")], scale="none", learning=ALL, knowledge=Knowledge(barred=lambda task: "contaminated"))
    assert routed.rows == ()
    assert {(r.destination, r.reason, r.also) for r in routed.routes} == {("quarantine", "contaminated", ())}


def test_what_nothing_takes_says_why() -> None:
    routes = route([group("failed", "failed"), group("solved", "infra_error")], scale="none").routes
    assert [(r.destination, r.reason) for r in routes] == [
        *[("no_signal", "every attempt has the same reward")] * 2,
        ("no_signal", "too few attempts that count"),
        ("quarantine", "infra_error"),
    ]


def likely(name: str, outcome: Outcome, *logprobs: float) -> Experience:
    made = experience(name, outcome)
    turn = Turn(prompt_ids=(1,), completion_ids=(3,) * len(logprobs), behavior_logprobs=logprobs or None, policy_version="1.0", text="")
    trajectory = Trajectory(task_id=TASK.id, turns=(turn,), stop_reason="terminated", answer=name)
    return dataclasses.replace(made, trajectory=trajectory)


def test_unlikely_solved_attempts_count_more() -> None:
    """Of four, ranks by likelihood: b (-1) 0, a (-2) 1, d (-3) 2, c (-4) 3; 1 - 0.4·(4 - rank)/4 for the solved ones."""
    attempts = [likely("a", "solved", -1.0, -1.0), likely("b", "failed", -1.0), likely("c", "solved", -4.0), likely("d", "solved", -3.0)]
    assert unlikely_rewards(attempts, 0.4) == pytest.approx([1 - 0.4 * 3 / 4, 0.0, 1 - 0.4 * 1 / 4, 1 - 0.4 * 2 / 4])
    assert unlikely_rewards(attempts, 0.0) == [1.0, 0.0, 1.0, 1.0]
    assert unlikely_rewards([*attempts, likely("e", "solved")], 0.4) == [1.0, 0.0, 1.0, 1.0, 1.0]


def test_unlikeliness_gives_no_contrast_to_a_group_without() -> None:
    made = Group(id="g", task=TASK, experiences=(likely("a", "solved", -1.0), likely("b", "solved", -2.0)))
    assert route([made], scale="none", unlikeliness=0.25).rows == ()


def test_an_self_imitation_row_has_the_sampled_ids_as_they_were() -> None:
    row = self_imitation_row(experience("e", "solved"))
    assert (row.kind, row.advantage, row.behavior_logprobs) == ("ce", 0.0, None)
    assert (row.prompt_ids, row.completion_ids, row.loss_mask) == ((1, 2), (3, 4, 9, 9, 9, 5), (1, 1, 0, 0, 0, 1))


def test_a_failed_check_of_another_name_is_no_attack() -> None:
    plain = dataclasses.replace(
        experience("e0", "failed", checks=(Check(name="test 1", passed=False), Check(name="kills_grader", passed=True))), id="e0"
    )
    made = Group(id="g", task=TASK, experiences=(plain, experience("e1", "solved")))
    assert route([made], scale="none").routes[0].also == ()
