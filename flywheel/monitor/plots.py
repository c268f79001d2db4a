"""The pictures of a run: held-out pass rates before and after and solved rates over steps. Files only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flywheel.statistics import Estimate

_BEFORE, _AFTER = "#9aa5b1", "#1f77b4"
_MAX_NAME = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldoutRow:
    """Held-out pass@1 of an environment (``ENV``) or a family (``ENV/FAMILY``); `after` is None where there was one evaluation."""

    label: str
    before: Estimate
    after: Estimate | None
    ratio: Estimate | None


def plot_heldout(path: Path, rows: Sequence[HeldoutRow], confidence: float) -> None:
    """Draw a pair of bars for each row, with its confidence interval."""
    figure = Figure(figsize=(max(5.0, 1.5 + 1.3 * len(rows)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    befores: list[Estimate | None] = [row.before for row in rows]
    series = (("before", _BEFORE, -0.2, befores), ("after", _AFTER, 0.2, [row.after for row in rows]))
    for name, colour, shift, estimates in series:
        bars = [(i, e) for i, e in enumerate(estimates) if e is not None]
        if bars:
            axes.bar(
                [i + shift for i, _ in bars],
                [e.mean for _, e in bars],
                width=0.38,
                color=colour,
                label=name,
                yerr=[[e.mean - e.low for _, e in bars], [e.high - e.mean for _, e in bars]],
                capsize=3,
            )
    axes.set_xticks(range(len(rows)), [f"{_name(r.label)}\n(n={r.before.num_tasks})" for r in rows], rotation=20, ha="right")
    axes.set_ylim(0, 1)
    axes.set_ylabel("pass@1")
    axes.set_title(f"held-out tasks, {100 * confidence:g} % intervals", fontsize=10)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_curves(path: Path, metrics: Mapping[int, Mapping[str, float]]) -> None:
    """Draw the solved rates of environments (bold) and families over steps, and held-out pass@1 as points."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = sorted({name for figures in metrics.values() for name in figures if _is_curve(name)})
    for name in names:
        points = [(step, figures[name]) for step, figures in sorted(metrics.items()) if name in figures]
        kind, _, label = name.partition("/")
        style = {"marker": "o", "linestyle": ":"} if kind == "heldout" else {"linewidth": 1.0 if "/" in label else 2.2}
        axes.plot(*zip(*points, strict=True), label=_name(f"{label} (held-out)" if kind == "heldout" else label), **style)
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("share solved")
    if names:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    _save(figure, path)


def _is_curve(name: str) -> bool:
    return (name.startswith("solved/") and name.count("/") <= 2) or (name.startswith("heldout/") and name.count("/") == 1)


def _name(label: str) -> str:
    # A dollar sign would begin a formula, and an underscore in front would leave the label out of the legend.
    shown = "".join(c if c.isprintable() else "?" for c in label[:_MAX_NAME]).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, format="png")
