"""The end of a run: a table of what changed on held-out tasks, ``summary.json``, ``heldout.png``, ``curves.png`` and ``curriculum.png``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flywheel.monitor import RunMonitor
from flywheel.monitor.heat_map import plot_heat_map
from flywheel.monitor.jsonl import read_metrics, strict_json
from flywheel.monitor.plots import HeldoutRow, plot_curves, plot_heldout
from flywheel.statistics import TaskScore, bootstrap_ratio_interval, by_family, estimate_pass_at
from flywheel.store.journal import read_records

_COLUMNS = ("held-out pass@1", "tasks", "before", "after", "after / before")
_WIDTH = 110


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a run came to: held-out rows, the mean of each outcome and group share over the steps, and sums of tokens."""

    steps: int
    heldout: tuple[HeldoutRow, ...]
    shares: Mapping[str, float]
    tokens: Mapping[str, float]
    confidence: float


def write_summary(run_dir: Path, monitor: RunMonitor, *, confidence: float = 0.95, stream: TextIO | None = None) -> Summary:
    """Print the summary of the run in `run_dir`, write its files there and hand them to the monitor.

    Args:
        run_dir: The run folder, its journal and metrics.jsonl in it.
        monitor: Takes the table and the pictures.
        confidence: Of the intervals.
        stream: Where to print; standard output by default.

    Raises:
        StoreError: the journal can't be read.
    """
    metrics = read_metrics(run_dir)
    evaluations = {record["step"]: [TaskScore(**s) for s in record["scores"]] for record in read_records(run_dir, "evaluation")}
    summary = summarise(metrics, evaluations, confidence)
    (run_dir / "summary.json").write_bytes(strict_json(dataclasses.asdict(summary)))
    plot_curves(run_dir / "curves.png", metrics)
    monitor.image("curves", run_dir / "curves.png")
    if plot_heat_map(run_dir / "curriculum.png", metrics):
        monitor.image("curriculum", run_dir / "curriculum.png")
    if summary.heldout:
        plot_heldout(run_dir / "heldout.png", summary.heldout, confidence)
        monitor.image("heldout", run_dir / "heldout.png")
        monitor.table(summary.steps, "heldout", _COLUMNS, [_cells(row) for row in summary.heldout])
    show(summary, stream)
    return summary


def summarise(
    metrics: Mapping[int, Mapping[str, float]], evaluations: Mapping[int, Sequence[TaskScore]], confidence: float = 0.95
) -> Summary:
    """Return the summary of a run: the first evaluation against the last."""
    shares = sorted({name for figures in metrics.values() for name in figures if name.startswith(("outcomes/", "groups/"))})
    return Summary(
        steps=max([*metrics, *evaluations], default=0),
        heldout=_heldout_rows(evaluations, confidence),
        shares={name: fmean(figures[name] for figures in metrics.values() if name in figures) for name in shares},
        tokens={name: sum(figures.get(name, 0.0) for figures in metrics.values()) for name in ("tokens/rollout", "tokens/train")},
        confidence=confidence,
    )


def show(summary: Summary, stream: TextIO | None = None) -> None:
    """Print a summary."""
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH
    table = Table(title=f"after {summary.steps} steps ({100 * summary.confidence:g} % intervals over tasks)", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == _COLUMNS[0] else "right")
    for row in summary.heldout:
        table.add_row(*(Text(str(cell)) for cell in _cells(row)), style=None if "/" in row.label else "bold")
    if summary.heldout:
        console.print(table)
    for title, prefix in (("attempts", "outcomes/"), ("groups", "groups/")):
        named = {name.removeprefix(prefix): share for name, share in summary.shares.items() if name.startswith(prefix)}
        if named:
            console.print(f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f} %" for name, share in named.items()))
    sampled, trained = summary.tokens["tokens/rollout"], summary.tokens["tokens/train"]
    console.print(f"tokens: {sampled:,.0f} sampled, {trained:,.0f} trained on")


def _heldout_rows(evaluations: Mapping[int, Sequence[TaskScore]], confidence: float) -> tuple[HeldoutRow, ...]:
    if not evaluations:
        return ()
    first, last = evaluations[min(evaluations)], evaluations[max(evaluations)]
    before, after = estimate_pass_at(first, confidence=confidence), estimate_pass_at(last, confidence=confidence)
    groups = by_family(first), by_family(last if len(evaluations) > 1 else [])
    rows = []
    for label, estimate in before.items():
        pairs = _paired(groups[0][label], groups[1].get(label, []))
        rows.append(
            HeldoutRow(
                label=label,
                before=estimate,
                after=after.get(label) if label in groups[1] else None,
                ratio=bootstrap_ratio_interval(*pairs, confidence=confidence) if pairs[0] else None,
            )
        )
    return tuple(rows)


def _paired(first: Sequence[TaskScore], last: Sequence[TaskScore]) -> tuple[list[float], list[float]]:
    """Return pass@1 of the tasks that both evaluations judged, in the same order."""
    others = {score.task_id: score for score in last if score.num_samples}
    both = [(score, others[score.task_id]) for score in first if score.num_samples and score.task_id in others]
    return [a.pass_at(1) for a, _ in both], [b.pass_at(1) for _, b in both]


def _cells(row: HeldoutRow) -> tuple[str | int, ...]:
    estimates = (row.before, row.after, row.ratio)
    return (row.label, row.before.num_tasks, *("-" if estimate is None else str(estimate) for estimate in estimates))
