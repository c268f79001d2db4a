"""The arithmetic of the comparison's report, on curves worked by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.sample_efficiency_report import Point, arm_report, level, match, read_curve, when_reached, write_report


def curve(rates: Sequence[float], tokens: int = 10) -> list[Point]:
    return [
        Point(step=6 * at, sampled=tokens * at, trained=tokens * at / 2, seconds=float(at), verdicts=float(at), rate=rate)
        for at, rate in enumerate(rates)
    ]


def test_the_level_is_of_the_last_five_evaluations() -> None:
    assert level(curve([0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(0.3)
    assert level(curve([0.9, 0.3])) == pytest.approx(0.3)  # (f) has one after its training


def test_the_target_is_reached_by_three_evaluations_in_a_row() -> None:
    point = when_reached(curve([0.5, 0.5, 0.1, 0.5, 0.6, 0.5, 0.0]), 0.5)
    assert point is not None
    assert (point.step, point.sampled) == (18, 30)
    assert when_reached(curve([0.1, 0.5, 0.5]), 0.5) is None


def test_a_seed_that_never_got_there_counts_with_all_that_it_spent() -> None:
    report = arm_report("e", {0: curve([0.5] * 5), 1: curve([0.7, 0.0, 0.1, 0.3, 0.4])}, 0.5)
    assert (report.reached, report.seeds, report.bound) == (1, 2, "≥")
    assert dict(report.spent) == {"sampled": 20.0, "trained": 10.0, "seconds": 2.0, "verdicts": 2.0}  # of 0 and of all 40
    assert report.level == pytest.approx(0.35)
    assert report.level_error == pytest.approx(0.15)  # stdev of 0.5 and 0.2, over the root of two


def test_arms_match_where_the_whole_interval_is_near_nought() -> None:
    flat = {seed: curve([0.4] * 5) for seed in range(5)}
    near = match({"a": flat, "b": {seed: curve([0.4 + shift] * 5) for seed, shift in enumerate((0.01, -0.01, 0.02, 0.0, -0.02))}})
    assert near["mean"] == pytest.approx(0.0)
    assert near["matches"]
    far = match({"a": flat, "b": {seed: curve([0.4 + shift] * 5) for seed, shift in enumerate((0.1, -0.1, 0.1, -0.1, 0.0))}})
    assert far["mean"] == pytest.approx(0.0)
    assert not far["matches"]
    assert match({"a": flat, "b": {0: curve([0.5] * 5)}}) == {"gaps": [pytest.approx(0.1)]}


def test_the_report_is_written_as_a_table_and_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = {seed: curve([0.1, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4], tokens=30) for seed in (0, 1)}
    quick = {seed: curve([0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], tokens=20) for seed in (0, 1)}
    write_report("chemistry", {"a": base, "b": base, "e": quick}, {"a": 1e-3, "b": 1e-3}, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["target"] == pytest.approx(0.4)
    assert report["b_less_a"]["matches"]
    assert {arm["arm"]: (arm["reached"], arm["spent"]["sampled"]) for arm in report["arms"]} == {"a": (2, 60), "b": (2, 60), "e": (2, 20)}
    assert "0.33" in capsys.readouterr().out  # of (a)'s
    assert (tmp_path / "table.txt").read_text().count("2/2") == 3
    assert (tmp_path / "curves.png").stat().st_size > 0
    written = [{"step": 0, "sampled": 1, "trained": 1, "seconds": 1, "verdicts": 1, "pass": 0.5}]
    (tmp_path / "curve.json").write_text(json.dumps(written))
    assert read_curve(tmp_path / "curve.json") == [Point(step=0, sampled=1, trained=1, seconds=1, verdicts=1, rate=0.5)]
