"""flywheel's commands as a person runs them: processes of their own, and small recipes that take seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flywheel.store.journal import read_records

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300
# About the smallest policy that the tiny model's section allows, and steps of eight attempts.
SMALL: dict[str, object] = {
    "policy.tiny.hidden_size": 32,
    "policy.tiny.num_layers": 1,
    "policy.tiny.num_heads": 2,
    "policy.tiny.num_kv_heads": 1,
    "policy.tiny.intermediate_size": 64,
    "policy.tiny.vocab_size": 400,
    "policy.tiny.max_context": 512,
    "engine.kind": "transformers",
    "rollout.groups_per_step": 2,
    "rollout.group_size": 4,
    "rollout.env_threads": 4,
    "rollout.max_staleness": 0,
    "evaluation.tasks_per_environment": 4,
    "monitor.wandb": "disabled",
    "sandbox.workers": 1,
}
# What tests.pick_env's policy needs to say letters, and to learn a little.
STEPS, ATTEMPTS = 6, 32
PICK: dict[str, object] = {
    **SMALL,
    "run.steps": STEPS,
    "run.checkpoint_every": 2,
    "cold_start.steps": 40,
    "cold_start.batch_size": 16,
    "cold_start.learning_rate": 1e-2,
    "cold_start.num_demonstrations": 64,
    # Of eight guesses among four letters one in ten thousand steps has no group with contrast.
    "rollout.groups_per_step": 4,
    "rollout.group_size": 8,
    "rollout.max_tokens_per_turn": 16,
    "rollout.max_turns": 1,
    "trainer.learning_rate": 1e-3,
    "monitor.table_every": 2,
}


def pick_words(home: Path) -> list[str]:
    """Return the words that train tests.pick_env by the recipe in the `home` fixture's folder."""
    return ["pick.toml", *overrides(PICK, {"run.cache_dir": str(home / "cache")})]


def overrides(*tables: Mapping[str, object]) -> list[str]:
    """Return dotted overrides as words of a command line."""
    merged = {name: value for table in tables for name, value in table.items()}
    return [word for name, value in merged.items() for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a command: this one's, with the repository importable from anywhere."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "160", **extra}


def command(name: str, *words: str) -> list[str]:
    """Return ``python -m flywheel.NAME …``."""
    return [sys.executable, "-m", f"flywheel.{name}", *words]


def ran(name: str, *words: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(name, *words), cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def succeeded(name: str, *words: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed."""
    done = ran(name, *words, cwd=cwd, **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Return when a run has committed a step."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the run ended before step {step}: {process.communicate()}")
        if (run / "journal.sqlite").exists() and any(report["step"] >= step for report in records(run, "step")):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} did not come in {TIMEOUT_S} s")


def records(run: Path, kind: Any) -> list[Any]:
    """Return a run's journalled records; none where the file is still being made."""
    from flywheel.errors import StoreError

    try:
        return read_records(run, kind)
    except StoreError:
        return []
