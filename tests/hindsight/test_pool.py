"""The pool: shares, uses, age, size, and the same draw from the same state."""

from __future__ import annotations

import json

import pytest

from flywheel.config import LearningConfig
from flywheel.hindsight.pool import Entry, Pool, Shares, num_tokens
from flywheel.types import Tier, to_json
from tests.hindsight.lessons import make_lesson


def entry(number: int, origin: str = "on_policy", *, size: int = 10, predicted: float | None = None, tier: Tier = "L2") -> Entry:
    return Entry.of(make_lesson(number, origin, size=size, predicted=predicted), tier)  # type: ignore[arg-type]


def config(**changes: object) -> LearningConfig:
    return LearningConfig.model_validate({"distill_share": 0.5, "hindsight_share": 0.25, "repair_share": 0.25, **changes})


def drawn(pool: Pool, step: int, **budgets: int) -> list[str]:
    return [found.row.experience_id for found in pool.draw(step, budgets)]  # type: ignore[arg-type]


def test_budgets_are_shares_of_the_sampled_tokens_and_anchors_have_their_part_of_all() -> None:
    shares = Shares.by(config(anchor_floor=0.2))
    assert shares.budgets(1000) == {"hindsight": 200, "repair": 200, "distill": 400, "anchor": 200}
    assert Shares.by(config()).budgets(1000) == {"hindsight": 250, "repair": 250, "distill": 500, "anchor": 0}
    assert Shares.by(config(anchor_floor=1.0)).budgets(1000) == {"hindsight": 0, "repair": 0, "distill": 0, "anchor": 1000}


def test_a_collapsing_policy_imitates_itself_half_as_much_and_anchors_twice() -> None:
    shares = Shares.by(config(anchor_floor=0.2), collapsing=True)
    assert dict(shares.of) == {"hindsight": 0.125, "repair": 0.25, "distill": 0.25}
    assert shares.anchor_floor == 0.4
    assert Shares.by(config(anchor_floor=0.7), collapsing=True).anchor_floor == 1.0


def test_a_draw_keeps_within_the_budget_of_each_source() -> None:
    pool = Pool(config(), seed=0)
    pool.add(1, [*(entry(n) for n in range(8)), *(entry(n, "hindsight", size=7) for n in range(10, 18)), entry(20, "repair", size=30)])
    found = pool.draw(1, {"distill": 25, "hindsight": 21, "repair": 29})
    sizes = {source: sum(num_tokens(e.row) for e in found if e.source == source) for source in ("hindsight", "repair", "distill")}
    assert sizes == {"hindsight": 21, "repair": 0, "distill": 20}
    assert [e.source for e in found] == ["hindsight"] * 3 + ["distill"] * 2


def test_the_same_state_gives_the_same_draw_and_another_step_or_seed_another() -> None:
    entries = [entry(n) for n in range(40)]
    first, second, other = (Pool(config(), seed=seed) for seed in (0, 0, 1))
    first.add(1, entries)
    second.add(1, reversed(entries))
    other.add(1, entries)
    assert drawn(first, 3, distill=100) == drawn(second, 3, distill=100)
    assert drawn(first, 3, distill=100) != drawn(first, 4, distill=100)
    assert drawn(first, 3, distill=100) != drawn(other, 3, distill=100)


def test_better_evidence_is_drawn_more_often_and_what_is_solved_anyway_less() -> None:
    """Of two rows that compete for one place the one of weight w wins in w / (w + v) of the draws."""
    for rivals, share in (((entry(1, tier="L3"), entry(2)), 2 / 3), ((entry(1), entry(2, predicted=0.75)), 4 / 5)):
        pool = Pool(config(), seed=0)
        pool.add(1, rivals)
        wins = sum(drawn(pool, step, distill=10) == [rivals[0].row.experience_id] for step in range(1, 51))
        assert wins / 50 == pytest.approx(share, abs=0.2)


def test_a_lesson_is_used_so_often_and_no_more() -> None:
    pool = Pool(config(max_uses=2), seed=0)
    pool.add(1, [entry(1)])
    for step in (1, 2):
        assert len(drawn(pool, step, distill=100)) == 1
        pool.settle(step, drawn(pool, step, distill=100))
    assert drawn(pool, 3, distill=100) == []


def test_a_lesson_grows_too_old() -> None:
    pool = Pool(config(max_age=3), seed=0)
    pool.add(1, [entry(1)])
    for step in (1, 2, 3):
        assert len(drawn(pool, step, distill=100)) == 1
        pool.settle(step, [])
    assert drawn(pool, 4, distill=100) == []


def test_beyond_its_size_the_oldest_go() -> None:
    pool = Pool(config(pool_size=3), seed=0)
    pool.add(1, [entry(n) for n in range(2)])
    pool.settle(1, [])
    pool.add(2, [entry(n) for n in range(2, 4)])
    pool.settle(2, [])
    assert sorted(drawn(pool, 3, distill=100)) == sorted(entry(n).row.experience_id for n in (1, 2, 3))
    assert pool.figures() == {"learning/waiting/hindsight": 0, "learning/waiting/repair": 0, "learning/waiting/distill": 3}


def test_its_state_survives_json() -> None:
    entries = {e.row.experience_id: e for e in (entry(n) for n in range(5))}
    pool, again = Pool(config(), seed=0), Pool(config(), seed=0)
    pool.add(1, entries.values())
    pool.settle(1, list(entries)[:2])
    again.restore(json.loads(to_json(pool.state())), lambda i: Entry.from_json(json.loads(to_json(entries[i]))))
    for both in (pool, again):
        both.settle(2, list(entries)[:2])
    assert drawn(pool, 3, distill=100) == drawn(again, 3, distill=100)
    assert len(pool) == len(again) == 3
