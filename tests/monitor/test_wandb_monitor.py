"""Runs the real wandb in offline mode and reads back the file that it wrote."""

import json
import logging
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from flywheel.config import Recipe
from flywheel.monitor import create_monitor
from flywheel.monitor.jsonl import read_metrics, read_table
from flywheel.monitor.wandb_key import has_wandb_key
from flywheel.monitor.wandb_monitor import resolve_mode
from tests.command_line import ROOT, environment


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def recipe(mode: str = "auto", project: str = "wheels") -> Recipe:
    return Recipe.model_validate(
        {
            "run": {"name": "turning", "seed": 3},
            "engine": {"extra_args": ["--api-key", "SECRET"], "url": "http://user:SECRET@localhost"},
            "environments": {"code": {"kwargs": {"token": "SECRET"}}},
            "monitor": {"wandb": mode, "project": project},
        }
    )


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Yield what a ``.wandb`` file holds: a LevelDB log (blocks of 32 KiB, chunks of crc, length and type) of protobuf records."""
    data, at, pending = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(pending)
            pending = b""


def written(run_dir: Path) -> list[Path]:
    wandb.teardown()  # waits for the service process, which closes its files after `finish` has returned
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)


def history(path: Path) -> list[dict[str, object]]:
    rows = [r.history for r in records(path) if r.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("flywheel") and r.levelno >= logging.WARNING]


def test_an_offline_run_holds_what_was_logged_and_a_resume_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monitor = create_monitor(recipe(), tmp_path, resume=False)
    monitor.log(1, {"reward/mean": 0.25, "solved/code": 0.5})
    Image.new("RGB", (2, 2)).save(tmp_path / "curves.png")
    png = (tmp_path / "curves.png").read_bytes()
    monitor.table(2, "samples", ["text", "reward", "picture"], [["\x1b]0;owned\ud800", 1.0, png], [None, 0, None]])
    monitor.image("curves", tmp_path / "curves.png")
    monitor.close()

    (first,) = written(tmp_path)
    rows = history(first)
    assert [(row["step"], row["reward/mean"], row["solved/code"]) for row in rows[:1]] == [(1, 0.25, 0.5)]
    assert (rows[1]["step"], rows[1]["tables/samples/nrows"]) == (2, 2)
    assert rows[2]["plots/curves/format"] == "png"
    assert [row["picture"] for row in read_table(tmp_path, "samples")[2]] == ["tables/pictures/samples-2-0.png", None]
    assert (tmp_path / "tables/pictures/samples-2-0.png").read_bytes() == png
    assert [path.read_bytes() for path in tmp_path.glob(".local/share/wandb/artifacts/staging/*")].count(png) == 1
    (run,) = [r.run for r in records(first) if r.HasField("run")]
    assert (run.display_name, run.project, run.run_id) == ("turning", "wheels", (tmp_path / "wandb_id").read_text().strip())
    assert {item.key: item.value_json for item in run.config.update}["run"].count('"seed":3') == 1
    assert b"SECRET" not in first.read_bytes()
    metrics = [r.metric for r in records(first) if r.HasField("metric")]
    assert [(m.name or m.glob_name, m.step_metric) for m in metrics][:2] == [("step", ""), ("*", "step")]

    again = create_monitor(recipe(), tmp_path, resume=True)
    again.log(1, {"reward/mean": 0.75})
    again.close()
    second = written(tmp_path)[-1]
    assert second != first
    assert [r.run.run_id for r in records(second) if r.HasField("run")] == [run.run_id]
    assert [row["reward/mean"] for row in history(second)] == [0.75]
    assert read_metrics(tmp_path)[1]["reward/mean"] == 0.75
    assert capfd.readouterr() == ("", "")


def test_a_record_that_wandb_can_not_take_is_dropped_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = create_monitor(recipe(), tmp_path, resume=False)
    monitor.image("curves", tmp_path / "absent.png")
    monitor.table(1, "samples", ["text"], [["a", "one cell too many"]])
    monitor.log(2, {"reward/mean": 0.5})
    monitor.close()
    assert [row.get("reward/mean") for row in history(written(tmp_path)[0])] == [0.5]
    assert len(warnings(caplog)) == 1
    assert "a record was dropped" in warnings(caplog)[0]


def test_a_wandb_that_does_not_start_is_a_warning_and_the_run_folder_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = create_monitor(recipe("offline", project="no/such:name"), tmp_path, resume=False)
    for step in range(20):
        monitor.log(step, {"reward/mean": 0.5})
    monitor.close()
    assert len(read_metrics(tmp_path)) == 20
    assert len(warnings(caplog)) == 1
    assert "it did not start" in warnings(caplog)[0]


def test_a_key_that_is_refused_keeps_the_run_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not-a-key")
    monitor = create_monitor(recipe(), tmp_path, resume=False)
    monitor.log(1, {"reward/mean": 0.5})
    monitor.close()
    assert [row["reward/mean"] for row in history(written(tmp_path)[0])] == [0.5]
    assert len(warnings(caplog)) == 1
    assert "kept offline" in warnings(caplog)[0]


@pytest.mark.slow
def test_an_unreachable_server_costs_the_run_nothing_and_the_figures_are_kept_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monitor = create_monitor(recipe("online"), tmp_path, resume=False)
    monitor.log(1, {"reward/mean": 0.5})
    assert read_metrics(tmp_path)[1] == {"reward/mean": 0.5}
    monitor.close()
    assert "kept offline" in warnings(caplog)[0]
    assert [row["reward/mean"] for row in history(written(tmp_path)[0])] == [0.5]


LOSES_WANDB = """
import os, signal, sys, time
from pathlib import Path
from flywheel.config import MonitorConfig
from flywheel.monitor.wandb_monitor import WandbMonitor

monitor = WandbMonitor(MonitorConfig(wandb="offline"), Path(sys.argv[1]), run_name="lost", config={}, resume=False)
while monitor._run is None:
    time.sleep(0.02)
for file in Path("/proc").glob("[0-9]*/stat"):  # the service is a child of this process
    try:
        name, _, rest = file.read_text().rpartition(")")
    except OSError:  # a process that has just ended
        continue
    if "wandb-core" in name and int(rest.split()[1]) == os.getpid():
        os.kill(int(file.parent.name), signal.SIGKILL)
        print("killed")
for step in range(3):
    monitor.log(step, {"reward/mean": 0.5})
monitor.close()
"""


def test_a_wandb_service_that_dies_in_the_middle_is_one_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSES_WANDB, str(tmp_path)], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "killed\n"), done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("Weights & Biases: ")
    assert said.endswith("metrics.jsonl has every figure")


def test_disabled_leaves_no_trace_of_wandb(tmp_path: Path) -> None:
    monitor = create_monitor(recipe("disabled"), tmp_path, resume=False)
    monitor.log(1, {"reward/mean": 0.5})
    monitor.image("curves", tmp_path / "none.png")
    monitor.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("asked", "environ", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_MODE": "nonsense"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
        ("online", {}, "online"),
    ],
)
def test_mode(asked: str, environ: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert resolve_mode(asked, {"HOME": str(tmp_path), **environ}) == expected


def test_a_key_in_netrc_counts_for_its_own_host(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine wandb.example login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    home = {"HOME": str(tmp_path)}
    assert not has_wandb_key(home)
    assert has_wandb_key({**home, "WANDB_BASE_URL": "https://wandb.example:8080/"})
    (tmp_path / "_netrc").write_text("not \x00 a netrc file")
    assert not has_wandb_key(home)
