"""The curriculum's picture: family × level over steps, as solve rate, share of the groups and uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

PANELS = (("solved/", "solve rate"), ("curriculum/share/", "share of the step's groups"), ("curriculum/uncertainty/", "uncertainty"))
_LEVEL = "/level_"


def heat_map(metrics: Mapping[int, Mapping[str, float]], prefix: str) -> tuple[list[str], list[int], NDArray[np.float64]]:
    """Return the rows (``ENV/FAMILY/level_L``), the steps, and a figure's values by row and step; NaN where there is none."""
    named = {name.removeprefix(prefix) for found in metrics.values() for name in found if name.startswith(prefix) and _LEVEL in name}
    rows = sorted(named)
    steps = sorted(step for step, found in metrics.items() if any(name.startswith("curriculum/") for name in found))
    values = np.array([[metrics[step].get(prefix + row, np.nan) for step in steps] for row in rows], dtype=float)
    return rows, steps, values.reshape(len(rows), len(steps))


def plot_heat_map(path: Path, metrics: Mapping[int, Mapping[str, float]]) -> bool:
    """Draw the panels and return whether there was anything to draw."""
    maps = [(title, *heat_map(metrics, prefix)) for prefix, title in PANELS]
    maps = [found for found in maps if found[1] and found[2]]
    if not maps:
        return False
    height = max(2.5, 0.16 * max(len(rows) for _, rows, _, _ in maps) + 1)
    figure = Figure(figsize=(9, height * len(maps)), layout="constrained")
    for number, (title, rows, steps, values) in enumerate(maps, start=1):
        axes = figure.add_subplot(len(maps), 1, number)
        highest = 1.0 if number == 1 else max(1e-9, float(np.nanmax(values)))
        extent = (steps[0] - 0.5, steps[-1] + 0.5, len(rows) - 0.5, -0.5)
        shown = axes.imshow(values, aspect="auto", interpolation="nearest", vmin=0, vmax=highest, cmap="viridis", extent=extent)
        axes.set_yticks(range(len(rows)), [row.replace("$", r"\$") for row in rows], fontsize=6)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        figure.colorbar(shown, ax=axes)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, format="png")
    return True
