import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.statistics import (
    Estimate,
    TaskScore,
    bootstrap_interval,
    bootstrap_ratio_interval,
    by_family,
    estimate_pass_at,
    pass_at_k,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        (5, 2, 3, 9 / 10),  # 1 - C(3,3)/C(5,3) = 1 - 1/10
        (5, 3, 3, 1.0),  # any three of five hold a solved one
        (10, 4, 2, 2 / 3),  # 1 - C(6,2)/C(10,2) = 1 - 15/45
    ],
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_binomial_formula(nck: tuple[int, int, int]) -> None:
    n, c, k = nck
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-9)


def test_pass_at_k_does_not_overflow() -> None:
    assert pass_at_k(20_000, 1, 10_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_rejects_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_bootstrap_of_two_tasks_by_hand() -> None:
    # Resamples of {0, 1}: mean 0 with probability 1/4, 1/2 with 1/2, 1 with 1/4. The 30 % and 70 % percentiles are both 1/2,
    # the 10 % and 90 % ones 0 and 1.
    assert bootstrap_interval([0, 1], confidence=0.4) == Estimate(mean=0.5, low=0.5, high=0.5, num_tasks=2)
    assert bootstrap_interval([0, 1], confidence=0.8) == Estimate(mean=0.5, low=0.0, high=1.0, num_tasks=2)


def test_bootstrap_is_near_the_normal_interval() -> None:
    values = [1.0] * 90 + [0.0] * 210
    estimate = bootstrap_interval(values)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 300)
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.005)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.005)


def test_bootstrap_is_deterministic_and_chunking_does_not_lose_resamples() -> None:
    values = list(np.random.default_rng(5).random(3000))
    assert bootstrap_interval(values, num_resamples=1500) == bootstrap_interval(values, num_resamples=1500)
    assert bootstrap_interval(values, num_resamples=1500) != bootstrap_interval(values, num_resamples=1500, seed=1)


def test_equal_values_have_no_width() -> None:
    assert bootstrap_interval([0.25] * 7) == Estimate(mean=0.25, low=0.25, high=0.25, num_tasks=7)


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_bootstrap_rejects_what_is_no_sample(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected at least one finite number a task"):
        bootstrap_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_bootstrap_rejects_confidence_outside_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=confidence)


def test_pairing_cancels_what_the_tasks_share() -> None:
    before = [0.1, 0.2, 0.4, 0.8]
    after = [2 * value for value in before]
    paired = bootstrap_ratio_interval(before, after)
    apart = bootstrap_ratio_interval(before, after, paired=False)
    assert (paired.mean, paired.low, paired.high) == pytest.approx((2.0, 2.0, 2.0))
    assert apart.mean == pytest.approx(2.0)
    assert apart.low < 1.2
    assert apart.high > 3.0


def test_ratio_of_two_tasks_by_hand() -> None:
    # Paired resamples of (1, 1) and (1, 3): the ratio is 1 with probability 1/4, 2 with 1/2, 3 with 1/4.
    assert bootstrap_ratio_interval([1, 1], [1, 3], confidence=0.4) == Estimate(mean=2.0, low=2.0, high=2.0, num_tasks=2)
    assert bootstrap_ratio_interval([1, 1], [1, 3], confidence=0.8) == Estimate(mean=2.0, low=1.0, high=3.0, num_tasks=2)


def test_ratio_from_nothing_is_infinite_above_and_no_change_at_rest() -> None:
    estimate = bootstrap_ratio_interval([0, 0, 0, 1], [1, 1, 1, 1], confidence=0.8)
    assert estimate.mean == 4.0
    assert estimate.high == math.inf
    assert bootstrap_ratio_interval([0, 0], [0, 0]) == Estimate(mean=1.0, low=1.0, high=1.0, num_tasks=2)


def test_paired_values_must_be_of_the_same_tasks() -> None:
    with pytest.raises(ValueError, match="2 before, 1 after"):
        bootstrap_ratio_interval([1, 1], [1])


def test_scores_are_estimated_by_environment_and_family() -> None:
    scores = [
        TaskScore(task_id=str(number), env=env, family=family, num_samples=num_samples, num_solved=num_solved)
        for number, (env, family, num_samples, num_solved) in enumerate(
            [("code", "strings", 4, 1), ("code", "sums", 4, 4), ("chem", "formula", 2, 0), ("chem", "formula", 0, 0)]
        )
    ]
    assert {label: len(group) for label, group in by_family(scores).items()} == {
        "chem": 2,
        "chem/formula": 2,
        "code": 2,
        "code/strings": 1,
        "code/sums": 1,
    }
    one, two = estimate_pass_at(scores, 1), estimate_pass_at(scores, 2)
    assert one["code"].mean == pytest.approx((0.25 + 1) / 2)
    assert two["code"].mean == pytest.approx((0.5 + 1) / 2)
    assert one["chem"] == Estimate(mean=0.0, low=0.0, high=0.0, num_tasks=1)
