"""Cells of the benchmarks that train a tiny model: recipes beside the quickstart, and the cold-started model that they begin with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from flywheel import sandbox
from flywheel.background import BackgroundLoop
from flywheel.monitor.progress import Progress
from flywheel.prepare import PolicyMaker
from flywheel.recipe import load_recipe, to_toml
from flywheel.rollout.stage import Stage
from flywheel.tasks.source import TaskSource


def write_cell(path: Path, environments: str, settings: Mapping[str, object], overrides: Sequence[str], model: Path | None = None) -> Path:
    """Write a resolved recipe and return its path.

    Args:
        path: The file to write.
        environments: The recipe's environments, as TOML.
        settings: What else differs from the quickstart, by dotted key.
        overrides: The command line's, which go before these.
        model: What the cell begins with, whatever else is said, instead of a cold start of its own.
    """
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    words += [*overrides, *([] if model is None else ["--policy.model", str(model), "--cold_start.steps", "0"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'# A cell.\nextends = "quickstart"\n{environments}', "utf-8")
    path.write_text(f"# A cell.\n{to_toml(load_recipe(str(path), words))}", "utf-8")
    return path


def start_of(cell: Path) -> Path:
    """Return the model that a cell's own cold start makes: one copy beside the cell, whatever becomes of sources and cache meanwhile."""
    kept = cell.resolve().parent / "start"
    if not kept.exists():
        partial = kept.with_suffix(".partial")
        shutil.copytree(_cold_started(cell), partial, dirs_exist_ok=True)
        partial.rename(kept)
    return kept


def _cold_started(cell: Path) -> Path:
    recipe = load_recipe(str(cell))
    background, stage = BackgroundLoop(), Stage(recipe)
    sandbox.configure(recipe.sandbox)
    try:
        with Progress("the cold start of all cells", 1) as progress:
            maker = PolicyMaker(recipe, TaskSource(recipe), stage, background, progress)
            return Path(maker.cold_start(maker.base_policy()))
    finally:
        stage.close()
        sandbox.close_shared()
        background.close()
