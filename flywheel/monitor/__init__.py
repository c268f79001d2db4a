"""Where a run's figures go: the run folder (always) and Weights & Biases (where it works).

The names of the figures and what they mean are in `flywheel.monitor.figures`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flywheel.config import Recipe
from flywheel.contracts import Monitor
from flywheel.monitor.jsonl import JsonlMonitor, save_picture
from flywheel.monitor.wandb_monitor import WandbMonitor, resolve_mode

__all__ = ["RunMonitor", "create_monitor"]

# What may hold a password or a token stays in the run folder.
_PRIVATE: Any = {"engine": {"url", "extra_args"}, "environments": {"__all__": {"kwargs"}}}


class RunMonitor:
    """Hands every record to all monitors of a run."""

    def __init__(self, run_dir: Path, jsonl: JsonlMonitor, wandb: WandbMonitor | None) -> None:
        self._run_dir = run_dir
        self._monitors: tuple[Monitor, ...] = (jsonl,) if wandb is None else (jsonl, wandb)
        self._wandb = wandb

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record scalar figures of one step."""
        for monitor in self._monitors:
            monitor.log(step, metrics)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table of one step. Pictures (cells of bytes) become files in the run folder, and their cells the paths in it."""
        filed = [[self._filed(f"{name}-{step}-{number}", cell) for cell in row] for number, row in enumerate(rows)]
        for monitor in self._monitors:
            monitor.table(step, name, columns, filed)

    def image(self, name: str, path: Path) -> None:
        """Show a picture that lies in the run folder."""
        if self._wandb is not None:
            self._wandb.image(name, path)

    def _filed(self, name: str, cell: Any) -> Any:
        return save_picture(self._run_dir, name, cell) if isinstance(cell, bytes) else cell

    def close(self) -> None:
        """Flush and end; waits a limited time for W&B."""
        for monitor in self._monitors:
            monitor.close()


def create_monitor(recipe: Recipe, run_dir: Path, *, resume: bool) -> RunMonitor:
    """Return the monitor of a run, which fits `flywheel.contracts.Monitor`.

    Raises:
        StoreError: the run folder can't be written.
    """
    jsonl = JsonlMonitor(run_dir, resume=resume)
    if resolve_mode(recipe.monitor.wandb, os.environ) == "disabled":
        return RunMonitor(run_dir, jsonl, None)
    config = recipe.model_dump(mode="json", exclude=_PRIVATE)
    return RunMonitor(run_dir, jsonl, WandbMonitor(recipe.monitor, run_dir, run_name=recipe.run.name, config=config, resume=resume))
