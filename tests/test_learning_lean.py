"""A training run on theorems that a real Lean's kernel judges, through the command as a person runs it."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from flywheel.config import TinyConfig
from flywheel.envs.lean.families import WHOLE
from flywheel.inference.tool_syntax import Qwen3Coder
from flywheel.store.reader import Reader
from flywheel.trainer.tiny import make_tiny
from flywheel.types import ToolCall
from flywheel.verifiers.lean import NEEDED, LeanVerifier
from flywheel.verifiers.lean_file import FileBackend
from flywheel.verifiers.lean_recheck import Rechecker
from flywheel.verifiers.lean_toolchain import Settings
from tests.command_line import SMALL, command, environment, overrides
from tests.envs.test_lean_env import lacked

pytestmark = [pytest.mark.lean, pytest.mark.slow]

THEOREMS: dict[str, object] = {
    **SMALL,
    "run.steps": 3,
    "cold_start.steps": 150,
    "cold_start.batch_size": 16,
    "cold_start.learning_rate": 5e-3,
    "cold_start.num_demonstrations": 64,
    "engine.max_model_len": 512,
    "rollout.groups_per_step": 6,
    "rollout.group_size": 4,
    "rollout.max_turns": 1,
    "rollout.max_tokens_per_turn": 64,
    "rollout.step_deadline_s": 300.0,
    "evaluation.tasks_per_environment": 2,
    "learning.hindsight_share": 0.5,
}
SIZES = TinyConfig(hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=128, vocab_size=400, max_context=512)
RECIPE = """# Theorems of logic and equality, proved whole.
[run]
name = "theorems"
[environments.lean]
use = "flywheel.envs.lean:LeanProofEnv"
[environments.lean.families.equality]
knobs = { chain = [2, 3], num_spare = [0, 1], nesting = [0, 0], num_flipped = [0, 0] }
[environments.lean.families.first_order]
"""
PROPOSITIONAL = """[environments.lean.families.propositional]
knobs = { depth = [1, 1], num_atoms = [3, 3], num_hypotheses = [2, 2] }
"""  # some of its references need a name that prereleases of Lean 4 lack


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run of a few steps, each proof judged by a process of the plain binary in the sandbox."""
    (home / "theorems.toml").write_text(RECIPE if lacked("Or.elim") else RECIPE + PROPOSITIONAL)
    tasks = [WHOLE[name].generate({}, seed) for name in ("equality", "first_order", "propositional") for seed in range(50)]
    said = [Qwen3Coder(framed=False).write(ToolCall(name="submit", arguments={"proof": task.payload["reference"]})) for task in tasks]
    model = make_tiny(SIZES, [*(task.prompt for task in tasks), *said], 0, home / "model")
    words = ["theorems.toml", *overrides(THEOREMS, {"policy.model": str(model), "run.cache_dir": str(home / "cache")})]
    plain = environment(FLYWHEEL_LEAN_BACKEND="file", FLYWHEEL_LEAN_REPLAY="never")
    done = subprocess.run(command("train", *words), cwd=home, env=plain, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "runs" / "theorems"


def test_the_kernel_solves_some_attempts_and_refuses_others(run: Path) -> None:
    with Reader.open(run) as reader:
        attempts = [reader.experience(info.id) for info in reader.attempts()]
    own = [attempt for attempt in attempts if attempt.origin == "on_policy"]
    assert set(Counter(attempt.verdict.outcome for attempt in own)) - {"truncated"} == {"solved", "failed"}
    assert {check.name for attempt in own for check in attempt.verdict.checks if not check.passed} >= {"elaborates"}
    assert all(attempt.verdict.outcome == "solved" for attempt in attempts if attempt.origin not in ("on_policy", "replay"))
    for attempt in attempts:
        if attempt.verdict.outcome == "solved":
            assert {check.name for check in attempt.verdict.checks if check.passed} >= NEEDED
            assert attempt.verdict.evidence == "Lean's kernel accepts the proof"


def test_verdicts_are_the_same_from_scratch(run: Path) -> None:
    with Reader.open(run) as reader:
        attempts = [reader.experience(info.id) for info in reader.attempts() if info.outcome in ("solved", "failed")]
    asked = {(attempt.verdict.outcome, attempt.task.family): attempt for attempt in attempts}.values()
    verifier = LeanVerifier(backend=FileBackend(), rechecker=Rechecker(Settings(replay="never")))
    verdicts = verifier.verify_many([(attempt.task, attempt.trajectory) for attempt in asked])
    assert [verdict.outcome for verdict in verdicts] == [attempt.verdict.outcome for attempt in asked]
