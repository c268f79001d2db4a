"""A whole pipeline in small: made, killed in the middle of a specialist, gone on with, and looked into."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import datasets
from safetensors.torch import load_file

from flywheel.export.selection import Selection, select
from flywheel.pipeline.marker import read_note
from flywheel.store.reader import Reader
from tests.command_line import PICK, overrides, records
from tests.forked_runs import Runs

RECIPE = """# Two specialists and a generalist.
[run]
name = "school"
steps = 2

[environments.pick]
use = "tests.pipeline.school:Held"

[environments.guess]
use = "tests.pipeline.school:Guess"

[distill]
num_tasks = 12
attempts = 8
keep = 2
anchor_share = 0.5
sets = ["sft-messages.parquet", "sft-tokens", "dpo-messages.jsonl"]

[[stages]]
name = "cold"
kind = "distill"

[[stages]]
name = "picker"
kind = "train"
only = ["pick"]
policy.model = "stage:cold"

[[stages]]
name = "guesser"
kind = "train"
only = ["guess"]
policy.model = "stage:cold"

[[stages]]
name = "picks"
kind = "collect"
only = ["pick"]
policy.model = "stage:picker"

[[stages]]
name = "guesses"
kind = "collect"
only = ["guess"]
policy.model = "stage:guesser"

[[stages]]
name = "student"
kind = "distill"
sources = ["picks", "guesses"]
policy.model = "stage:cold"
cold_start.steps = 8

[[stages]]
name = "generalist"
kind = "train"
policy.model = "stage:student"
"""
STAGES = ["cold", "picker", "guesser", "picks", "guesses", "student", "generalist"]


def test_a_pipeline_is_killed_and_goes_on_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "school.toml").write_text(RECIPE, "utf-8")
    quick = {name: value for name, value in PICK.items() if name != "run.steps"}
    words = ["school.toml", *overrides(quick, {"run.cache_dir": str(tmp_path / "cache"), "run.checkpoint_every": 1})]
    root = tmp_path / "runs" / "school"

    with Runs(tmp_path, SCHOOL_HOLD=str(root / "picker")) as runs:
        # The first specialist's second step waits for as long as the test wants, so the kill comes in its middle.
        (root / "picker").mkdir(parents=True)
        (root / "picker" / "hold").touch()
        started = runs.start(words)
        while not any(report["step"] == 1 for report in records(root / "picker", "step")):
            assert started.is_running(), runs.log.read_text(errors="replace")[-4000:]
            time.sleep(0.05)
        started.kill()
        started.wait()
        (root / "picker" / "hold").unlink()
        assert [name for name in STAGES if read_note(root / name)] == ["cold"]
        made = (root / "cold" / "model" / "model.safetensors").stat().st_mtime_ns
        runs.succeeded([*words, "--resume"])
        said = runs.log.read_text(errors="replace")
    assert "stage 1/7 cold (distill): finished before" in said
    assert "the last model: " in said
    assert (root / "cold" / "model" / "model.safetensors").stat().st_mtime_ns == made
    notes = {name: note for name in STAGES if (note := read_note(root / name))}
    assert list(notes) == STAGES
    assert [report["step"] for report in records(root / "picker", "step")][-2:] == [1, 2]

    # Every kept attempt is solved, no task has more than two, and no answer comes twice for one task.
    kept = 0
    for name in ("picks", "guesses"):
        with Reader.open(root / name) as store:
            found = select(store, Selection(routes=("distill",), duplicates=True)).found
            chosen = [store.experience(one.experience_id) for one in found]
            assert len(store.query("SELECT id FROM experiences")) == 96
        assert {e.verdict.outcome for e in chosen} == {"solved"}
        assert max(Counter(e.task.id for e in chosen).values()) <= 2
        assert len({(e.task.id, e.trajectory.answer) for e in chosen}) == len(chosen) == notes[name].figures["kept"]
        assert {turn.policy_version for e in chosen for turn in e.trajectory.turns} == {"initial"}
        kept += len(chosen)
    rows = datasets.load_from_disk(str(root / "picks" / "sets" / "sft-tokens"))
    assert len(rows) == notes["picks"].figures["kept"] == notes["picks"].figures["rows of sft-tokens"]
    assert set(rows["run"]) == {"picks"}

    figures = notes["student"].figures
    assert (figures["rows"], figures["anchors"], figures["steps"]) == (kept, kept, 8)
    cold, student = (load_file(root / name / "model" / "model.safetensors") for name in ("cold", "student"))
    assert not (cold["lm_head.weight"] == student["lm_head.weight"]).all()
    assert set(notes["generalist"].figures) == {f"{env} {when}" for env in ("pick", "guess") for when in ("before", "after")}
    assert notes["generalist"].model == "checkpoints/step-2"
