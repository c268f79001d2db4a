"""A training run on theorems, judged by a real Lean's kernel, through the command as a person runs it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flywheel.store.journal import Journal
from flywheel.store.lineage import fate_of_attempt, made_step
from flywheel.store.reader import Reader
from flywheel.types import Trajectory
from flywheel.verifiers.lean import LeanVerifier
from tests.command_line import SMALL, overrides, records, succeeded
from tests.envs.test_lean_env import lacked_names

pytestmark = [pytest.mark.lean, pytest.mark.slow]

STEPS = 3
THEOREMS: dict[str, object] = {
    **SMALL,
    "run.steps": STEPS,
    "policy.tiny.hidden_size": 64,
    "policy.tiny.num_layers": 2,
    "cold_start.steps": 200,
    "cold_start.batch_size": 16,
    "cold_start.learning_rate": 5e-3,
    "cold_start.num_demonstrations": 96,
    "engine.max_model_len": 512,
    "rollout.groups_per_step": 6,
    "rollout.group_size": 4,
    "rollout.max_turns": 1,
    "rollout.max_tokens_per_turn": 64,
    "rollout.step_deadline_s": 300.0,
    "evaluation.tasks_per_environment": 4,
    "learning.hindsight_share": 0.5,
}
RECIPE = """# Theorems of logic and equality, proved whole.
[run]
name = "theorems"
[environments.lean]
use = "flywheel.envs.lean:LeanProofEnv"
[environments.lean.families.first_order]
[environments.lean.families.equality]
knobs = { chain = [2, 3], num_spare = [0, 1], nesting = [0, 0], num_flipped = [0, 0] }
"""
PROPOSITIONAL = """[environments.lean.families.propositional]
knobs = { depth = [1, 1], num_atoms = [3, 3], num_hypotheses = [2, 2] }
"""  # some of its references need a name that prereleases of Lean 4 lack


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run of a few steps, on the plain binary."""
    (home / "theorems.toml").write_text(RECIPE if lacked_names("Or.elim") else RECIPE + PROPOSITIONAL)
    words = ["theorems.toml", *overrides(THEOREMS, {"run.cache_dir": str(home / "cache")})]
    succeeded("train", *words, cwd=home, FLYWHEEL_LEAN_BACKEND="file", FLYWHEEL_LEAN_REPLAY="never")
    return home / "runs" / "theorems"


def test_the_kernel_solves_some_attempts_and_refuses_others(run: Path) -> None:
    with Reader.open(run) as reader:
        attempts = [info for info in reader.attempts() if info.origin == "on_policy"]
    outcomes = Counter(info.outcome for info in attempts)
    print(outcomes)
