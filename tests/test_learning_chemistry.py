"""Trajectory learning on molecules, through the command as a person runs it: killed once, resumed, and traced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flywheel.monitor.jsonl import read_metrics
from flywheel.store.lineage import fate_of_attempt, made_step
from flywheel.store.reader import Reader
from tests.command_line import SMALL, overrides, records
from tests.forked_runs import Runs
from tests.kills import killed_and_resumed, when

STEPS = 4
MOLECULES: dict[str, object] = {
    **SMALL,
    "run.steps": STEPS,
    "run.checkpoint_every": 2,
    "run.deterministic": True,
    "policy.tiny.hidden_size": 64,
    "cold_start.steps": 120,
    "cold_start.batch_size": 16,
    "cold_start.learning_rate": 5e-3,
    "cold_start.num_demonstrations": 512,
    "engine.max_model_len": 320,
    "rollout.groups_per_step": 6,
    "rollout.group_size": 4,
    "rollout.max_turns": 1,
    "rollout.max_tokens_per_turn": 48,
    "learning.hindsight_share": 0.5,
    "learning.repair_share": 0.25,
    "learning.distill_share": 0.5,
    "learning.anchor_floor": 0.25,
    "learning.retry_size": 8,
}
RECIPE = """# Molecules that carry one group.
[run]
name = "molecules"
[environments.chemistry.families.groups]
knobs = { heavy_atoms = [4, 6], hetero_kinds = [3, 5], num_hetero = [1, 2], num_groups = [1, 1], tightness = [1, 1] }
"""


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run that was killed when it trained its third step, and went on."""
    (home / "molecules.toml").write_text(RECIPE)
    folder = home / "molecules"
    words = ["molecules.toml", *overrides(MOLECULES, {"run.cache_dir": str(home / "cache")})]
    with Runs(home) as runs:
        killed_and_resumed(runs, folder, [when(lambda run: any(batch["step"] == 3 for batch in records(run, "batch")))], words)
    return folder


def test_supervised_rows_are_in_the_batches_and_every_one_is_traced(run: Path) -> None:
    with Reader.open(run) as reader:
        origins: Counter[str] = Counter()
        for step in range(1, STEPS + 1):
            rows = [row for row in made_step(reader, step).rows if row.kind == "ce"]
            attempts = [row.attempt for row in rows if row.attempt is not None]
            assert len(attempts) == len(rows)
            assert all(attempt.outcome == "solved" for attempt in attempts)
            origins.update(attempt.origin for attempt in attempts)
            anchors = sum(row.num_tokens for row in rows if row.attempt and row.attempt.origin == "demonstration")
            assert anchors >= 0.25 * sum(row.num_tokens for row in rows)
            for attempt in attempts:
                if attempt.origin in ("hindsight", "repair"):
                    fate = fate_of_attempt(reader, attempt)
                    assert fate.came_from
                    assert attempt.id in fate_of_attempt(reader, reader.info(fate.came_from[0])).became
        assert {"demonstration", "hindsight"} <= set(origins), origins
        uses = reader.query("SELECT count(DISTINCT step) FROM trained WHERE kind = 'ce' GROUP BY experience_id")
        assert max(count for (count,) in uses) <= 2
        assert [len(made_step(reader, step).versions) for step in range(1, STEPS + 1)] == [1] * STEPS


def test_the_figures_say_where_attempts_went(run: Path) -> None:
    shown = read_metrics(run)
    for step in range(1, STEPS + 1):
        assert shown[step]["learning/tokens/anchor"] > 0
        assert shown[step]["trainer/ce_nll"] > 0
        assert {"route/hindsight", "route/quarantine", "route/grpo", "route/no_signal"} & set(shown[step])
