"""The curriculum's figures: scalars by family and level at every step, and the same as a heat-map table every so often.

Names: ``curriculum/brier`` (of the predictions made before the step), ``curriculum/raised`` and ``curriculum/lowered`` (moves so
far), and for every ENV/FAMILY and level_L of 1 to 5 ``curriculum/predicted/…``, ``curriculum/uncertainty/…`` (mean and standard
deviation of the belief about P(solved) in the level's middle) and ``curriculum/share/…`` (of the step's groups). What was solved is
``solved/ENV/FAMILY/level_L``. The table ``curriculum`` has a row a cell, for a heat map family × level over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flywheel.contracts import Monitor
from flywheel.monitor.progress import Progress

COLUMNS = ("family", "level", "predicted", "uncertainty", "share", "solve_rate")


class Move(NamedTuple):
    """A family whose ranges were raised or lowered, or which has no room left to (`moved` is False then)."""

    family: str
    direction: Literal["raised", "lowered"]
    moved: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One level of a family after a step: the belief in its middle, and what this step's groups were. Rates are None without any."""

    family: str
    level: int
    predicted: float
    uncertainty: float
    share: float
    solve_rate: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumReport:
    """What a step told the curriculum. `brier` is that of the predictions made before it, over attempts; None without any."""

    cells: tuple[Cell, ...]
    moves: tuple[Move, ...]
    brier: float | None
    num_raised: int
    num_lowered: int


def curriculum_figures(report: CurriculumReport) -> dict[str, float]:
    """Return the scalars of a step."""
    found = {"curriculum/raised": float(report.num_raised), "curriculum/lowered": float(report.num_lowered)}
    if report.brier is not None:
        found["curriculum/brier"] = report.brier
    for cell in report.cells:
        for name in ("predicted", "uncertainty", "share"):
            found[f"curriculum/{name}/{cell.family}/level_{cell.level}"] = getattr(cell, name)
    return found


def heat_map_rows(report: CurriculumReport) -> list[list[Any]]:
    """Return the table's rows, in the order of `COLUMNS`."""
    return [[getattr(cell, name) for name in COLUMNS] for cell in report.cells]


class CurriculumDisplay:
    """Logs what the curriculum says.

    Args:
        monitor: Takes figures and tables.
        progress: Told when a family's ranges move, or can't move any further.
        every: Steps between tables.
    """

    def __init__(self, monitor: Monitor, progress: Progress, *, every: int) -> None:
        self._monitor = monitor
        self._progress = progress
        self._every = every
        self._stuck: set[tuple[str, str]] = set()

    def show(self, step: int, report: CurriculumReport) -> None:
        """Log a step."""
        self._monitor.log(step, curriculum_figures(report))
        if step == 1 or step % self._every == 0:
            self._monitor.table(step, "curriculum", COLUMNS, heat_map_rows(report))
        for family, direction, moved in report.moves:
            if moved:
                self._progress.line(f"curriculum: {family} is {direction}")
            elif (family, direction) not in self._stuck:  # said once: it would be true at every step from now on
                self._stuck.add((family, direction))
                state = "solved everywhere" if direction == "raised" else "solved nowhere"
                self._progress.line(f"curriculum: {family} is {state}, and its knobs can't be {direction} any further")
