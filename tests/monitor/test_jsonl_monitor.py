import json
from pathlib import Path

import numpy as np
import pytest

from flywheel.errors import StoreError
from flywheel.monitor.jsonl import JsonlMonitor, read_metrics, read_table, table_path


def write(run_dir: Path, *steps: int, resume: bool = False, value: float = 1.0) -> None:
    monitor = JsonlMonitor(run_dir, resume=resume)
    for step in steps:
        monitor.log(step, {"reward/mean": value})
        monitor.table(step, "samples", ["task"], [[f"step {step}, {value}"]])
    monitor.close()


def test_figures_come_back_by_step(tmp_path: Path) -> None:
    monitor = JsonlMonitor(tmp_path, resume=False)
    monitor.log(0, {"heldout/code": 0.25})
    monitor.log(1, {"reward/mean": float(np.float32(0.5)), "time/train_s": 2})
    monitor.log(1, {"policy/kl": 0.125})
    assert read_metrics(tmp_path) == {0: {"heldout/code": 0.25}, 1: {"reward/mean": 0.5, "time/train_s": 2.0, "policy/kl": 0.125}}
    monitor.close()


def test_every_line_is_on_disk_at_once_and_is_strict_json(tmp_path: Path) -> None:
    monitor = JsonlMonitor(tmp_path, resume=False)
    monitor.log(1, {"policy/kl": float("nan"), "reward/mean": float("inf")})
    monitor.table(1, "samples", ["text", "reward"], [["\ud800\x1b[31m\u2028\n", float("nan")]])
    for path in (tmp_path / "metrics.jsonl", tmp_path / "tables/samples.jsonl"):
        (line,) = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        json.loads(line, parse_constant=pytest.fail)
    assert read_metrics(tmp_path) == {1: {}}
    assert read_table(tmp_path, "samples") == {1: [{"text": "\ud800\x1b[31m\u2028\n", "reward": None}]}
    monitor.close()


def test_a_resume_supersedes_later_steps_and_keeps_their_lines(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, value=0.1)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    write(tmp_path, 3, resume=True, value=0.9)
    assert read_metrics(tmp_path) == {1: {"reward/mean": 0.1}, 2: {"reward/mean": 0.1}, 3: {"reward/mean": 0.9}}
    assert [rows[0]["task"] for rows in read_table(tmp_path, "samples").values()] == ["step 1, 0.1", "step 2, 0.1", "step 3, 0.9"]
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)


def test_a_half_written_line_is_ended_and_skipped(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + '{"step":3,"reward/mean":"é'.encode()[:-1])
    write(tmp_path, 3, resume=True, value=0.75)
    assert [figures["reward/mean"] for figures in read_metrics(tmp_path).values()] == [1.0, 1.0, 0.75]


def test_a_run_begun_anew_in_an_old_folder_starts_from_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    write(tmp_path, 1, value=0.5)
    assert read_metrics(tmp_path) == {1: {"reward/mean": 0.5}}
    assert list(read_table(tmp_path, "samples")) == [1]
    write(tmp_path)
    assert read_metrics(tmp_path) == {}
    assert read_table(tmp_path, "samples") == {}


def test_nothing_written_reads_as_nothing(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == {}
    assert read_table(tmp_path, "samples") == {}


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", "..", "x\n"])
def test_a_tables_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    assert table_path(tmp_path, name).resolve().parent == (tmp_path / "tables").resolve()


def test_a_folder_that_can_not_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"metrics\.jsonl: can't be written"):
        JsonlMonitor(tmp_path / "file", resume=False)
