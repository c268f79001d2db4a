"""A disk that is full or read-only: a clear error, nothing damaged, and `--resume` goes on once it is mended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flywheel.store.reader import Reader
from tests.command_line import STEPS, TIMEOUT_S, command, environment, pick_words

NAMESPACE = ["bwrap", "--dev-bind", "/", "/"]


@pytest.fixture(autouse=True)
def _has_namespaces() -> None:
    if shutil.which("bwrap") is None or subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("bubblewrap can't make a namespace here")


def test_a_full_disk_is_a_clear_error_and_damages_nothing(home: Path, whole: tuple[Path, str], tmp_path: Path) -> None:
    # The whole run has filled the cache, which lies on a disk with room.
    small = tmp_path / "small"
    small.mkdir()
    inside = [*NAMESPACE, "--size", str(24 * 2**20), "--tmpfs", str(small), sys.executable, "-m", "tests.full_disk", str(small)]
    done = subprocess.run(
        [*inside, *pick_words(home)], cwd=home, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    played = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [found for found in played if found["status"] != 0]
    assert len(failed) == 2
    for found in failed:
        assert found["status"] == 1, found["said"]
        assert "Traceback" not in found["said"]
        (error,) = [line for line in found["said"].splitlines() if line.startswith("error: ")]
        assert "full" in error, error
    for found in played:
        assert (found["again"], found["bad"], found["once"]) == (0, [], True), found
        assert found["steps"] == list(range(1, STEPS + 1))


def test_a_read_only_folder_is_a_clear_error(home: Path, whole: tuple[Path, str]) -> None:
    run, _ = whole
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = [*pick_words(home), "--run-dir", str(run), "--resume", "--run.steps", "9"]
    done = subprocess.run(
        [*NAMESPACE, "--ro-bind", str(run), str(run), *command("train", *words)],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "can't be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with Reader.open(run) as reader:
        assert reader.check() == []
