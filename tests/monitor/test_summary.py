import io
import json
from pathlib import Path

import pytest
from PIL import Image

from flywheel.config import Recipe
from flywheel.monitor import create_monitor
from flywheel.monitor.jsonl import read_table
from flywheel.monitor.plots import plot_curves
from flywheel.monitor.summary import summarise, write_summary
from flywheel.statistics import TaskScore
from flywheel.store.journal import Journal

RECIPE = Recipe.model_validate({"environments": {"code": {}}, "monitor": {"wandb": "disabled"}})


def scores(env: str, family: str, num_solved: int, num_tasks: int) -> list[TaskScore]:
    return [
        TaskScore(task_id=f"{env}{family}{i}", env=env, family=family, num_samples=1, num_solved=int(i < num_solved))
        for i in range(num_tasks)
    ]


def steps() -> dict[int, dict[str, float]]:
    return {
        1: {"outcomes/solved": 0.2, "groups/mixed": 0.5, "tokens/rollout": 1000, "tokens/train": 600, "solved/code": 0.2},
        2: {"outcomes/solved": 0.4, "groups/mixed": 1.0, "tokens/rollout": 3000, "tokens/train": 600, "solved/code": 0.4},
    }


def test_the_first_evaluation_is_held_against_the_last() -> None:
    before = [*scores("code", "sums", 1, 4), *scores("code", "strings", 1, 4)]
    after = [*scores("code", "sums", 3, 4), *scores("code", "strings", 1, 4)]
    summary = summarise(steps(), {0: before, 1: scores("code", "sums", 4, 4), 2: after})
    means = {row.label: (row.before.mean, row.after.mean, row.ratio.mean) for row in summary.heldout if row.after and row.ratio}
    assert means == {"code": (0.25, 0.5, 2.0), "code/strings": (0.25, 0.25, 1.0), "code/sums": (0.25, 0.75, 3.0)}
    assert summary.steps == 2
    assert summary.shares == pytest.approx({"groups/mixed": 0.75, "outcomes/solved": 0.3})
    assert summary.tokens == {"tokens/rollout": 4000, "tokens/train": 1200}


def test_tasks_are_paired_by_name_and_those_without_a_verdict_are_left_out() -> None:
    before = scores("code", "sums", 2, 4)
    after = [
        *reversed(scores("code", "sums", 4, 4)[:3]),
        TaskScore(task_id="codesums3", env="code", family="sums", num_samples=0, num_solved=0),
    ]
    (_, row) = summarise({}, {0: before, 5: after}).heldout
    assert row.ratio is not None
    assert row.ratio.num_tasks == 3
    assert row.ratio.mean == pytest.approx(1.0 / (2 / 3))


def test_an_end_is_printed_and_lands_in_the_run_folder(tmp_path: Path) -> None:
    monitor = create_monitor(RECIPE, tmp_path, resume=False)
    for step, figures in steps().items():
        monitor.log(step, figures)
    journal = Journal(tmp_path)
    for step, solved in ((0, 0), (2, 3)):
        journal.append("evaluation", [(str(step), {"step": step, "scores": scores("code", "[bold]$x_", solved, 4)})], step=step)
    out = io.StringIO()
    write_summary(tmp_path, monitor, stream=out)  # the journal is open, as it is when a run ends
    monitor.close()
    journal.close()

    text = out.getvalue()
    assert "after 2 steps (95 % intervals over tasks)" in text
    assert "code/[bold]$x_" in text
    assert "0.750 [0.250, 1.000]" in text
    assert "attempts: solved 30.0 %" in text
    assert "groups: mixed 75.0 %" in text
    assert "tokens: 4,000 sampled, 1,200 trained on" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["heldout"][0]["label"] == "code"
    assert summary["heldout"][0]["before"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "num_tasks": 4}
    assert summary["heldout"][0]["ratio"]["high"] is None  # from nothing to something: infinite
    assert read_table(tmp_path, "heldout")[2][1]["after"] == "0.750 [0.250, 1.000]"
    for name in ("heldout.png", "curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10  # something is drawn


def test_a_run_without_evaluations_still_ends(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    monitor = create_monitor(RECIPE, tmp_path, resume=False)
    summary = write_summary(tmp_path, monitor, stream=io.StringIO())
    assert summary.heldout == ()
    assert not (tmp_path / "heldout.png").exists()


def test_one_evaluation_has_no_after(tmp_path: Path) -> None:
    (env, family) = summarise({}, {0: scores("code", "sums", 1, 2)}).heldout
    assert (env.after, env.ratio, family.after) == (None, None, None)


def test_curves_of_nothing_are_drawn(tmp_path: Path) -> None:
    plot_curves(tmp_path / "curves.png", {})
    assert (tmp_path / "curves.png").stat().st_size > 0
