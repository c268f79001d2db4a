"""The report of `sample_efficiency.py`: curves read back, the target, who reached it for how much, and whether (b) matches (a)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from flywheel.statistics import bootstrap_interval

LEVEL_EVALUATIONS = 5
IN_A_ROW = 3
MATCH = 0.03
NAMES = {
    "a": "TRL's GRPOTrainer",
    "b": "flywheel, plain",
    "c": "+ curriculum",
    "d": "+ hindsight, repair, retries",
    "e": "all",
    "f": "supervised on references",
    "g": "plain + anchors",
}
AXES = ("sampled", "trained", "seconds", "verdicts")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation of a run: its pass rate, and what the run had spent when it was made."""

    step: int
    sampled: float
    trained: float
    seconds: float
    verdicts: float
    rate: float


Curves = Mapping[str, Mapping[int, Sequence[Point]]]  # by arm and seed


@dataclass(frozen=True, kw_only=True)
class ArmReport:
    """What an arm took to reach the target.

    Attributes:
        seeds: How many.
        start: Mean pass rate at the start.
        level: Mean level.
        level_error: Its standard error over the seeds; None of one seed.
        reached: How many seeds reached the target.
        spent: By axis, the mean over all seeds of what was spent until then. A seed that did not reach it counts with all that it
            spent: where there is one, the mean is a lower bound.
    """

    arm: str
    name: str
    seeds: int
    start: float
    level: float
    level_error: float | None
    reached: int
    spent: Mapping[str, float]

    @property
    def bound(self) -> str:
        """``≥`` where not all seeds reached the target."""
        return "" if self.reached == self.seeds else "≥"


def read_curve(path: Path) -> list[Point]:
    """Return a cell's curve."""
    points = json.loads(path.read_text("utf-8"))
    return [Point(step=int(p["step"]), rate=p["pass"], **{name: p[name] for name in AXES}) for p in points]


def level(curve: Sequence[Point]) -> float:
    """Return the mean pass rate of the last evaluations; the one before training is none of them."""
    return fmean(point.rate for point in curve[1:][-LEVEL_EVALUATIONS:])


def when_reached(curve: Sequence[Point], target: float) -> Point | None:
    """Return the first of three evaluations in a row that are at or above the target."""
    for at in range(len(curve) - IN_A_ROW + 1):
        if all(point.rate >= target for point in curve[at : at + IN_A_ROW]):
            return curve[at]
    return None


def arm_report(arm: str, of_arm: Mapping[int, Sequence[Point]], target: float) -> ArmReport:
    """Return what an arm took."""
    levels = [level(curve) for curve in of_arm.values()]
    reached = [when_reached(curve, target) for curve in of_arm.values()]
    spent = [point or curve[-1] for point, curve in zip(reached, of_arm.values(), strict=True)]
    return ArmReport(
        arm=arm,
        name=NAMES[arm],
        seeds=len(levels),
        start=fmean(curve[0].rate for curve in of_arm.values()),
        level=fmean(levels),
        level_error=stdev(levels) / math.sqrt(len(levels)) if len(levels) > 1 else None,
        reached=sum(point is not None for point in reached),
        spent={name: fmean(getattr(point, name) for point in spent) for name in AXES},
    )


def match(curves: Curves) -> dict[str, Any]:
    """Return how (b) compares with (a), seed by seed; an interval needs two seeds."""
    gaps = [level(curve) - level(curves["a"][seed]) for seed, curve in curves["b"].items() if seed in curves["a"]]
    if len(gaps) < 2:
        return {"gaps": gaps}
    found = bootstrap_interval(gaps, confidence=0.9)
    within = -MATCH <= found.low <= found.high <= MATCH
    return {"gaps": gaps, "mean": found.mean, "low": found.low, "high": found.high, "within": MATCH, "matches": within}


def write_report(env: str, curves: Curves, learning_rates: Mapping[str, float], out: Path) -> None:
    """Print the table, and write it, the report as JSON and the picture of the curves; nothing where there are no curves."""
    if not curves:
        return
    target = fmean(level(curve) for curve in (curves.get("a") or next(iter(curves.values()))).values())
    reports = [arm_report(arm, of_arm, target) for arm, of_arm in curves.items()]
    matched = match(curves) if {"a", "b"} <= curves.keys() else None
    table = _table(env, target, reports)
    with (out / "table.txt").open("w", encoding="utf-8") as file:
        for console in (Console(width=150), Console(width=150, file=file)):
            console.print(table)
            if matched is not None:
                console.print(_said(matched))
    written = {
        "environment": env,
        "target": target,
        "learning_rates": learning_rates,
        "arms": [dataclasses.asdict(report) for report in reports],
        "b_less_a": matched,
        "curves": {arm: {str(seed): [dataclasses.asdict(p) for p in curve] for seed, curve in of.items()} for arm, of in curves.items()},
    }
    (out / "report.json").write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    _draw(env, curves, target, out / "curves.png")


def _table(env: str, target: float, reports: Sequence[ArmReport]) -> Table:
    columns = ("arm", "seeds", "start", "level", "reached", "M tokens sampled", "of (a)'s", "M trained", "seconds", "verdicts")
    title = f"{env}: target {target:.3f}, (a)'s level; what it took to reach it, mean over seeds (≥: with seeds that never did)"
    table = Table(*columns, title=title)
    base = next((report for report in reports if report.arm == "a"), None)
    for report in reports:
        error = "" if report.level_error is None else f" ± {report.level_error:.3f}"
        ratio = "-"
        if base is not None and base.spent["sampled"]:
            bound = {("", ""): "", ("≥", ""): "≥", ("", "≥"): "≤", ("≥", "≥"): "~"}[report.bound, base.bound]
            ratio = f"{bound}{report.spent['sampled'] / base.spent['sampled']:.2f}"
        table.add_row(
            f"{report.arm} {report.name}",
            str(report.seeds),
            f"{report.start:.3f}",
            f"{report.level:.3f}{error}",
            f"{report.reached}/{report.seeds}",
            f"{report.bound}{report.spent['sampled'] / 1e6:.3g}",
            ratio,
            f"{report.bound}{report.spent['trained'] / 1e6:.3g}",
            f"{report.bound}{report.spent['seconds']:.0f}",
            f"{report.bound}{report.spent['verdicts']:.0f}",
        )
    return table


def _said(matched: Mapping[str, Any]) -> str:
    if "mean" not in matched:
        return f"(b) less (a): {matched['gaps']}; an interval needs two seeds"
    verdict = "matches" if matched["matches"] else "does not match, to this precision"
    interval = f"[{matched['low']:+.3f}, {matched['high']:+.3f}]"
    return f"(b) less (a): {matched['mean']:+.3f}, paired 90 % interval {interval}: {verdict} within ±{MATCH}"


def _draw(env: str, curves: Curves, target: float, path: Path) -> None:
    """Draw every arm's mean curve over sampled tokens, its seeds thinly behind it."""
    figure, axes = plt.subplots(figsize=(8, 5))
    for arm, of_arm in curves.items():
        length = min(map(len, of_arm.values()))
        means = [(fmean(c[at].sampled for c in of_arm.values()), fmean(c[at].rate for c in of_arm.values())) for at in range(length)]
        (line,) = axes.plot(*zip(*means, strict=True), label=f"{arm} {NAMES[arm]}", marker=".")
        for curve in of_arm.values():
            axes.plot([p.sampled for p in curve], [p.rate for p in curve], color=line.get_color(), alpha=0.25, linewidth=0.8)
    axes.axhline(target, color="grey", linestyle=":", label="(a)'s level")
    axes.set(xlabel="tokens sampled", ylabel="held-out pass@1", title=env)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
