"""Killed at any moment and resumed: the same losses, bit for bit, nothing lost and nothing trained twice. All kills are SIGKILLs."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.monitor.jsonl import read_metrics
from flywheel.store.lineage import made_step
from flywheel.store.reader import Reader
from flywheel.trainer.checkpoints import checkpoint_step, complete_checkpoints
from tests.command_line import ATTEMPTS, STEPS, pick_words, records
from tests.forked_runs import Runs, Started
from tests.kills import Kill, killed_and_resumed, resuming, when, writes_a_checkpoint

# What a clock says is never the same twice, a replayed batch met no fault and was not made again, and the probe is of tokens that
# nobody trains on.
UNREPEATED = (
    "allocation/",
    "learning/waiting/",
    "learning/dropped",
    "learning/shortened",
    "learning/instructions/",
    "learning/collapsing",
    "learning/retried",
    "time/",
    "faults/",
    "tokens_per_s/",
    "idle/",
    "policy/probe_gap",
)
EXACT = ("--run.deterministic", "true")


@pytest.fixture(scope="module")
def runs(home: Path) -> Iterator[Runs]:
    with Runs(home) as runs:
        yield runs


@pytest.fixture(scope="module")
def undisturbed(runs: Runs, home: Path) -> Path:
    """A run to the end that nothing happened to."""
    run = home / "undisturbed"
    runs.succeeded([*pick_words(home), *EXACT, "--run-dir", str(run)])
    return run


def figures(run: Path) -> dict[int, dict[str, float]]:
    return {
        step: {name: value for name, value in found.items() if not name.startswith(UNREPEATED)} for step, found in read_metrics(run).items()
    }


def batches(run: Path) -> list[Any]:
    return [{**batch, "rows": batch["rows"]} for batch in records(run, "batch")]


def after(seconds: float) -> Kill:
    begun = time.monotonic()
    return when(lambda run: time.monotonic() - begun > seconds)


def has_groups_of(step: int) -> Callable[[Path], bool]:
    """Whether some of a step's groups are journalled, and not its batch."""

    def there(run: Path) -> bool:
        try:
            with Reader.open(run) as reader:
                return len(reader.attempts(step=step)) > 0
        except Exception:  # noqa: BLE001 - still being made
            return False

    return there


def agrees(run: Path, undisturbed: Path) -> None:
    """Check everything that is promised of a run that was killed and resumed."""
    mine, theirs = figures(run), figures(undisturbed)
    assert list(mine) == list(theirs)
    for step, found in theirs.items():
        assert mine[step] == found, {name for name in found | mine[step] if mine[step].get(name) != found.get(name)}
    assert batches(run) == batches(undisturbed)
    with Reader.open(run) as reader, Reader.open(undisturbed) as other:
        assert reader.check() == []
        assert {e.id for e in reader.attempts()} == {e.id for e in other.attempts()}
        assert len(reader.attempts()) == STEPS * ATTEMPTS
        trained = [(row.experience_id, step) for step in range(1, STEPS + 1) for row in made_step(reader, step).rows]
        assert len({experience for experience, _ in trained}) == len(trained) > 0
        for step in range(1, STEPS + 1):  # in the policy's own ancestry every step is there once
            assert len(made_step(reader, step).versions) == 1, step
    assert [e["scores"] for e in records(run, "evaluation")] == [e["scores"] for e in records(undisturbed, "evaluation")]
    assert [path.name for path in complete_checkpoints(run)] == [path.name for path in complete_checkpoints(undisturbed)]
    weights = [complete_checkpoints(folder)[-1] / "model.safetensors" for folder in (run, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_killed_amid_groups_and_as_a_checkpoint_is_written(runs: Runs, home: Path, undisturbed: Path) -> None:
    kills = [when(has_groups_of(2)), when(writes_a_checkpoint, 0.01), when(has_groups_of(5))]
    run = home / "killed"
    assert killed_and_resumed(runs, run, kills, [*pick_words(home), *EXACT]) >= 1
    assert len(records(run, "attempt")) >= 2
    agrees(run, undisturbed)


def test_with_overlap_recorded_batches_replay_and_counters_agree(runs: Runs, home: Path) -> None:
    run = home / "overlapped"
    recorded: list[Any] = []

    def watch(started: Started, run: Path) -> None:
        when(lambda run: any(report["step"] >= 3 for report in records(run, "step")))(started, run)
        started.wait()
        recorded.extend(batches(run))

    killed_and_resumed(runs, run, [watch], [*pick_words(home), "--rollout.max_staleness", "1"])
    assert len(recorded) >= 3
    assert batches(run)[: len(recorded)] == recorded  # what was handed out, or made ahead, is what trained
    steps = [found for step, found in read_metrics(run).items() if step > 0]
    assert [batch["step"] for batch in batches(run)] == list(range(1, STEPS + 1))
    assert max(found["staleness/max"] for found in steps) == 1
    assert all(0 <= found[name] <= 1 for found in steps for name in ("idle/engine", "idle/trainer") if name in found)
    with Reader.open(run) as reader:
        trained = [row.experience_id for step in range(1, STEPS + 1) for row in made_step(reader, step).rows]
        assert len(set(trained)) == len(trained)
        for attempt in reader.attempts():
            turns = reader.experience(attempt.id).trajectory.turns
            assert len({turn.policy_version for turn in turns}) <= 2
        assert all(len(made_step(reader, step).versions) == 1 for step in range(1, STEPS + 1))


def test_a_half_written_or_damaged_checkpoint_is_passed_over(runs: Runs, home: Path, undisturbed: Path) -> None:
    run = home / "damaged"
    shutil.copytree(undisturbed, run)
    newest = complete_checkpoints(run)[-1]
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-1])
    (run / "checkpoints" / "step-9").mkdir()
    (run / "checkpoints" / "step-9" / "COMPLETE").write_text("")
    assert [checkpoint_step(path) for path in complete_checkpoints(run)] == [4]
    runs.succeeded([*pick_words(home), *EXACT, "--run-dir", str(run), "--resume"])
    shutil.rmtree(run / "checkpoints" / "step-9")
    agrees(run, undisturbed)
    with Reader.open(run) as reader:
        assert (made_step(reader, 6).versions, made_step(reader, 6).superseded) == (("2.6",), ("1.6",))


def test_an_older_journal_than_its_checkpoint_is_refused(runs: Runs, home: Path, undisturbed: Path) -> None:
    run = home / "mismatched"
    shutil.copytree(undisturbed, run)
    for path in run.glob("journal.sqlite*"):
        path.unlink()
    status = runs.start([*pick_words(home), *EXACT, "--run-dir", str(run), "--resume"]).wait()
    assert status == 1
    assert "put the journal back that belongs to the checkpoints" in runs.log.read_text()


@pytest.mark.parametrize("record", [f"step:{STEPS}", f"evaluation:{STEPS}"])
def test_killed_right_behind_a_record(runs: Runs, home: Path, undisturbed: Path, record: str) -> None:
    run, words = home / f"died-after-{record}", [*pick_words(home), *EXACT]
    assert runs.start([f"--dies-after={record}", *resuming(run, words)]).wait() == -9
    runs.succeeded(resuming(run, words))
    agrees(run, undisturbed)


@pytest.mark.slow
def test_killed_at_two_hundred_random_moments(runs: Runs, home: Path, undisturbed: Path) -> None:
    rng = random.Random(0)
    begun = time.monotonic()
    runs.succeeded([*pick_words(home), *EXACT, "--run-dir", str(home / "timed")])
    whole_s = time.monotonic() - begun
    num_kills = 0
    while num_kills < 200:  # that came in time
        run = home / f"killed-{num_kills}"
        kills = [
            when(writes_a_checkpoint, rng.uniform(0, 0.05)) if rng.random() < 0.3 else after_start(rng.uniform(0, whole_s))
            for _ in range(5)
        ]
        num_kills += killed_and_resumed(runs, run, kills, [*pick_words(home), *EXACT])
        agrees(run, undisturbed)
        shutil.rmtree(run)


def after_start(seconds: float) -> Kill:
    return lambda started, run: after(seconds)(started, run)
