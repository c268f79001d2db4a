"""A whole run that is kept offline for Weights & Biases: its file holds the figures, tables and pictures that the run folder has."""

from __future__ import annotations

import math
from pathlib import Path

from flywheel.monitor.jsonl import read_metrics, read_table
from tests.command_line import pick_words, succeeded
from tests.monitor.test_wandb_monitor import history


def test_what_an_offline_run_wrote_is_what_the_run_folder_has(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeeded("train", *pick_words(home), "--run.steps", "2", "--monitor.wandb", "offline", "--run-dir", str(run), cwd=home)
    (written,) = run.glob("wandb/offline-run-*/*.wandb")
    rows = history(written)
    steps: dict[int, dict[str, object]] = {}
    for row in rows:
        if "step" in row:
            steps.setdefault(int(str(row["step"])), {}).update(row)
    for step, figures in read_metrics(run).items():
        for name, value in figures.items():
            assert math.isclose(float(str(steps[step][name])), value), name
    table = read_table(run, "samples")[1]
    assert {"task", "text", "advantage", "group", "outcome"} <= set(table[0])
    assert steps[1]["tables/samples/nrows"] == len(table) == 16
    assert any(row["advantage"] is not None for row in table)
    assert steps[2]["tables/heldout/nrows"] == 2
    pictures = {name.split("/")[1] for row in rows for name in row if name.startswith("plots/")}
    assert pictures == {"curriculum", "curves", "heldout"}
