"""The README's environment and recipe, taken from its text and trained as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from flywheel.monitor.jsonl import read_metrics
from tests.command_line import ROOT, SMALL, environment, overrides, ran, succeeded

MAX_LINES = 40


def block(language: str, begins: str) -> str:
    """Return the README's one block of a language that begins so."""
    text = (ROOT / "README.md").read_text("utf-8")
    (found,) = [body for body in re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S) if body.startswith(begins)]
    return str(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("reader")
    (made / "my_env.py").write_text(block("python", "import json"), "utf-8")
    (made / "sums.toml").write_text(block("toml", "# Sums"), "utf-8")
    return made


def test_a_whole_environment_takes_under_forty_lines() -> None:
    assert len(block("python", "import json").splitlines()) < MAX_LINES


def test_the_readmes_environment_trains(folder: Path, tmp_path: Path) -> None:
    quick = {**SMALL, "run.steps": 2, "run.cache_dir": str(tmp_path), "cold_start.steps": 30, "cold_start.num_demonstrations": 64}
    done = succeeded("train", "sums.toml", *overrides(quick, {"rollout.max_turns": 2, "rollout.max_tokens_per_turn": 24}), cwd=folder)
    assert "held-out pass@1" in done.stdout
    metrics = read_metrics(folder / "runs" / "sums")
    assert list(metrics) == [0, 1, 2]
    assert all(metrics[step]["outcomes/infra_error"] == 0 for step in (1, 2))
    assert "heldout/sums" in metrics[2]


def test_the_short_command_finds_the_readers_module_too(folder: Path, tmp_path: Path) -> None:
    # A console script has its own folder on sys.path, where `python -m` has the current one.
    script = tmp_path / "flywheel"
    script.write_text("import sys\nfrom flywheel.cli import main\nsys.exit(main())\n")
    done = subprocess.run(
        [sys.executable, str(script), "train", "sums.toml", "--dry-run", "--engine.kind", "transformers"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'use = "my_env:Sums"' in done.stdout


def test_commands_in_the_readme_exist(folder: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    commands = set(re.findall(r"python -m flywheel\.(\w+(?:\.\w+)*)", text))
    assert {"train", "eval", "verify"} <= commands
    for name in sorted(commands):
        assert ran(name, "--help", cwd=folder).returncode == 0, name
    targets = set(re.findall(r"(?:^ +|`)make ([a-z-]+)", text, flags=re.M))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.M)]
