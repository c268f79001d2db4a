"""How rows are split into micro-batches: tokens, padding, and equally many a rank."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from flywheel.trainer.collate import padding_share, plan

MAX_TOKENS = 16384


def lengths(kind: str, seed: int) -> list[int]:
    """Token counts of 256 rows, from a few dozen to 16,384: what real rollouts of one step look like, or worse."""
    rng = random.Random(seed)
    draw: dict[str, Callable[[], int]] = {
        "uniform": lambda: rng.randint(40, MAX_TOKENS),
        "log-normal": lambda: int(rng.lognormvariate(6.5, 1.0)),
        "two kinds": lambda: rng.choice((rng.randint(90, 110), rng.randint(7000, 8000))),
        "exponential": lambda: 40 + int(rng.expovariate(1 / 2000)),
        "all alike": lambda: 512,
    }
    return [min(MAX_TOKENS, max(2, draw[kind]())) for _ in range(256)]


@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("kind", ["uniform", "log-normal", "two kinds", "exponential", "all alike"])
def test_padding_is_under_a_tenth_at_mixed_lengths(kind: str, world_size: int) -> None:
    for seed in range(5):
        rows = lengths(kind, seed)
        planned = plan(rows, 64, world_size, MAX_TOKENS)
        chunks = [chunk for rank in planned for chunk in rank]
        assert sorted(at for chunk in chunks for at in chunk) == list(range(256))
        assert len({len(rank) for rank in planned}) == 1
        assert all(len(chunk) <= 64 and len(chunk) * max(rows[at] for at in chunk) <= MAX_TOKENS for chunk in chunks if chunk)
        assert padding_share(rows, planned) < 0.1
        # No more forward passes than the padding and the limits ask for: full ones hold at least half of what they may.
        assert len(chunks) <= world_size + 64 + 2 * math.ceil(sum(rows) / MAX_TOKENS)


def test_by_hand() -> None:
    """Limit 100: 60 alone (2 * 60 is over), 50 + 48 (2 of 100 padding), 20 alone (2 * 48 fits, but 28 of 96 would be padding)."""
    rows = [20, 60, 48, 50]
    assert plan(rows, 8, 1, 100) == [[[0], [2, 3], [1]]]
    assert padding_share(rows, [[[0], [2, 3], [1]]]) == pytest.approx(2 / 180)
    assert plan(rows, 8, 2, 100) == [[[0], [3]], [[2], [1]]]  # the fullest in two, so that each rank has as many
    assert plan([7], 8, 2, 100) == [[[]], [[0]]]
    assert plan([500], 8, 1, 100) == [[[0]]]  # a row that is longer than the limit goes alone
    assert plan([], 8, 2, 100) == [[], []]


def test_without_a_limit_micro_batches_have_equally_many_rows() -> None:
    assert plan([3, 9, 1, 7, 5], 2, 1) == [[[2], [0, 4], [3, 1]]]
