"""Whole runs with trajectory learning: what its batches hold, that lineage shows it, and that a killed run goes on bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from flywheel.monitor.jsonl import read_metrics
from flywheel.store.lineage import fate_of_attempt, made_step
from flywheel.store.reader import Reader
from flywheel.trainer.checkpoints import complete_checkpoints
from tests.command_line import PICK, STEPS, overrides, records
from tests.forked_runs import Runs
from tests.kills import Kill, killed_and_resumed, when
from tests.test_resume import EXACT, batches, figures, has_groups_of

LEARNING: dict[str, object] = {
    "learning.distill_share": 0.5,
    "learning.anchor_floor": 0.25,
    "learning.retry_size": 16,
    "learning.retry_share": 0.5,
    "learning.max_uses": 2,
    "learning.min_distinct": 0.5,
    "trainer.ce_schedule": "linear",
    # Groups of four among four letters: a third of them fails as a whole.
    "rollout.groups_per_step": 8,
    "rollout.group_size": 4,
    "evaluation.tasks_per_environment": 2,
}


TOLD: dict[str, object] = {
    "learning.hindsight_share": 0.5,
    "learning.instructions.by": "policy",
    "learning.instructions.max_tokens": 16,
    "learning.repair_share": 0.25,
    "learning.max_uses": 2,
    "rollout.groups_per_step": 8,
    "rollout.group_size": 4,
    "evaluation.tasks_per_environment": 2,
}


@pytest.fixture(scope="module")
def runs(home: Path) -> Iterator[Runs]:
    for name in ("few", "told"):
        text = f'# Pick a letter of few.\n[run]\nname = "few"\n[environments.few]\nuse = "tests.few_env:{name.title()}"\n'
        (home / f"{name}.toml").write_text(text)
    with Runs(home) as runs:
        yield runs


@pytest.fixture(scope="module")
def learnt(runs: Runs, home: Path) -> Path:
    run = home / "learnt"
    runs.succeeded([*words(home), "--run-dir", str(run)])
    return run


def words(home: Path, name: str = "few", learning: Mapping[str, object] = LEARNING) -> list[str]:
    return [f"{name}.toml", *overrides(PICK, {"run.cache_dir": str(home / "cache")}, learning), *EXACT]


def test_batches_hold_what_was_asked_for_and_lineage_shows_it(learnt: Path) -> None:
    with Reader.open(learnt) as reader:
        uses: Counter[str] = Counter()
        origins: Counter[str] = Counter()
        for step in range(1, STEPS + 1):
            rows = made_step(reader, step).rows
            assert all(row.attempt is not None for row in rows)
            ce = [row for row in rows if row.kind == "ce"]
            anchors = sum(row.num_tokens for row in ce if row.attempt and row.attempt.origin == "demonstration")
            assert anchors >= 0.25 * sum(row.num_tokens for row in ce)
            assert all(row.attempt.outcome == "solved" for row in ce if row.attempt)
            uses.update(row.experience_id for row in ce)
            origins.update(row.attempt.origin for row in rows if row.attempt)
            for row in rows:
                if row.attempt is not None and row.attempt.origin == "replay":
                    assert row.kind == "grpo"
                    assert row.advantage == 1.0  # every attempt of its group had the reward 0
                    (parent,) = fate_of_attempt(reader, row.attempt).came_from
                    assert reader.info(parent).step < step
        assert set(origins) == {"on_policy", "demonstration", "replay"}, origins
        assert max(uses.values()) <= 2
        assert any(count == 2 for count in uses.values())
        routes = {record["experience_id"]: record for record in records(learnt, "route")}
        for info in reader.attempts():
            if info.origin == "on_policy":
                found = {routes[info.id]["destination"], *routes[info.id]["also"]}
                assert ("distill" in found) == (info.outcome == "solved")
    shown = read_metrics(learnt)
    assert any(found.get("learning/retried", 0) > 0 for found in shown.values())
    assert all({"learning/tokens/anchor", "route/grpo", "learning/waiting/distill"} <= set(shown[step]) for step in range(1, STEPS + 1))
    assert [shown[step]["trainer/ce_weight"] for step in range(1, STEPS + 1)] == pytest.approx([1 - k / STEPS for k in range(STEPS)])


@pytest.mark.slow
def test_killed_and_resumed_it_learns_the_same(runs: Runs, home: Path, learnt: Path) -> None:
    run = home / "learnt-killed"
    killed_thrice(runs, run, words(home))
    agrees(run, learnt)


@pytest.mark.slow
def test_killed_amid_lessons_of_failures_it_learns_the_same(runs: Runs, home: Path) -> None:
    said, whole, run = words(home, "told", TOLD), home / "told", home / "told-killed"
    runs.succeeded([*said, "--run-dir", str(whole)])
    killed_thrice(runs, run, said)
    agrees(run, whole)
    with Reader.open(run) as reader:
        rows = [row for step in range(1, STEPS + 1) for row in made_step(reader, step).rows]
        origins = Counter(row.attempt.origin for row in rows if row.kind == "ce" and row.attempt is not None)
        assert {"hindsight", "repair"} <= set(origins), origins
        assert max(Counter(row.experience_id for row in rows if row.kind == "ce").values()) == 2
    assert {found["kept"] for found in records(run, "relabelling") if found["relabeller"] == "goals"} == {True, False}
    assert any(found.get("learning/tokens/hindsight", 0) > 0 for found in figures(run).values())
    asked = [found for found in read_metrics(whole).values() if "learning/instructions/no_statement" in found]
    assert asked
    assert all(found["learning/instructions/tokens"] > 0 for found in asked)


def killed_thrice(runs: Runs, run: Path, said: Sequence[str]) -> None:
    """Run, killed amid a step's groups, as a batch is there and amid groups again."""
    kills: list[Kill] = [
        when(has_groups_of(2)),
        when(lambda run: any(b["step"] == 4 for b in records(run, "batch"))),
        when(has_groups_of(6)),
    ]
    killed_and_resumed(runs, run, kills, said)


def agrees(run: Path, whole: Path) -> None:
    """Check that a run that was killed has the batches, losses, weights and attempts of one that was not."""
    assert batches(run) == batches(whole)
    mine, theirs = figures(run), figures(whole)
    for step, found in theirs.items():
        assert mine[step] == found, {name for name in found | mine[step] if mine[step].get(name) != found.get(name)}
    weights = [complete_checkpoints(folder)[-1] / "model.safetensors" for folder in (run, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with Reader.open(run) as reader, Reader.open(whole) as other:
        assert {e.id for e in reader.attempts()} == {e.id for e in other.attempts()}
