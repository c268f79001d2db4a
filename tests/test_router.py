import math

import pytest

from flywheel.router import TAMPER_REWARD, advantages, group_state, grpo_row, route, training_reward
from flywheel.types import Check, Experience, Group, Outcome, Task, Trajectory, Turn, Verdict

TASK = Task.create(env="toy", family="toy", prompt="?", payload={})


def turn(prompt: tuple[int, ...], completion: tuple[int, ...], logprobs: tuple[float, ...] | None) -> Turn:
    return Turn(prompt_ids=prompt, completion_ids=completion, behavior_logprobs=logprobs, policy_version="1.0", text="")


def experience(name: str, outcome: Outcome, *, checks: tuple[Check, ...] = ()) -> Experience:
    turns = (turn((1, 2), (3, 4), (-0.5, -0.25)), turn((9, 9, 9), (5,), (-1.0,)))
    return Experience(
        id=name,
        group_id="g",
        task=TASK,
        trajectory=Trajectory(task_id=TASK.id, turns=turns, stop_reason="terminated", answer="a"),
        verdict=Verdict(outcome=outcome, reward=float(outcome == "solved"), checks=checks, evidence="", verifier="v", verifier_version="1"),
        origin="on_policy",
    )


def group(*outcomes: Outcome) -> Group:
    return Group(id="g", task=TASK, experiences=tuple(experience(f"e{i}", o) for i, o in enumerate(outcomes)))


def test_two_attempts_one_solved_have_advantages_plus_and_minus_one_over_root_two() -> None:
    # rewards 1, 0: mean 1/2, std (n - 1) = sqrt(1/2), so A = ±(1/2) / (0.70711 + 0.0001)
    expected = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert advantages([1.0, 0.0], "group") == pytest.approx([expected, -expected], abs=1e-12)


def test_unscaled_advantages_are_the_centred_rewards() -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0], "none") == [0.75, -0.25, -0.25, -0.25]


def test_infra_errors_leave_the_group_and_the_mean_is_over_the_rest() -> None:
    routed = route([group("solved", "infra_error", "failed")], scale="none")
    assert [(r.experience_id, r.advantage) for r in routed.rows] == [("e0", 0.5), ("e2", -0.5)]
    assert {r.experience_id: r.destination for r in routed.routes} == {"e1": "quarantine", "e0": "grpo", "e2": "grpo"}


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (("solved", "failed"), "mixed"),
        (("solved", "solved"), "all_solved"),
        (("failed", "truncated"), "none_solved"),
        (("solved", "infra_error"), "masked"),
    ],
)
def test_group_states(outcomes: tuple[Outcome, ...], state: str) -> None:
    assert group_state(group(*outcomes)) == state


@pytest.mark.parametrize("outcomes", [("solved", "solved"), ("failed", "failed"), ("solved", "infra_error")])
def test_groups_without_contrast_train_nothing_and_say_why(outcomes: tuple[Outcome, ...]) -> None:
    routed = route([group(*outcomes)], scale="group")
    assert routed.rows == ()
    assert "no_signal" in {r.destination for r in routed.routes}


def test_a_grader_attack_is_worth_less_than_a_plain_failure() -> None:
    attacks = [
        experience("tampered", "tampered"),
        experience("killer", "failed", checks=(Check(name="kills_grader", passed=False),)),
    ]
    for attack in attacks:
        assert training_reward(attack.verdict) == TAMPER_REWARD
        routed = route([Group(id="g", task=TASK, experiences=(experience("plain", "failed"), attack))], scale="group")
        by_id = {r.experience_id: r.advantage for r in routed.rows}
        assert by_id[attack.id] < 0 < by_id["plain"]


def test_only_sampled_tokens_are_trained_and_observations_are_masked() -> None:
    row = grpo_row(experience("e", "solved"), 0.5)
    assert row.prompt_ids == (1, 2)
    assert row.completion_ids == (3, 4, 9, 9, 9, 5)
    assert row.loss_mask == (1, 1, 0, 0, 0, 1)
    assert row.behavior_logprobs == (-0.5, -0.25, 0.0, 0.0, 0.0, -1.0)


def test_shuffling_permutes_advantages_within_the_group() -> None:
    whole = group("solved", "failed", "failed", "failed", "failed", "failed", "failed", "failed")
    plain = route([whole], scale="none").rows
    shuffled = [route([whole], scale="none", shuffle_seed=seed).rows for seed in range(8)]
    assert all(sorted(r.advantage for r in rows) == sorted(r.advantage for r in plain) for rows in shuffled)
    assert any([r.advantage for r in rows] != [r.advantage for r in plain] for rows in shuffled)
