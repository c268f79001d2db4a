"""A run that a real vLLM server serves, rollouts overlapping with training, killed at random moments.

vLLM's sampling does not repeat, so the promise is another one than in test_resume.py: what was journalled before a kill is there
afterwards and is not collected again, recorded batches replay exactly, and journal, figures and use counts agree.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import StoreError
from flywheel.monitor.jsonl import read_metrics
from flywheel.store.lineage import made_step
from flywheel.store.reader import Reader
from flywheel.trainer.checkpoints import complete_checkpoints, read_note
from tests.command_line import ATTEMPTS, PICK, overrides, records
from tests.forked_runs import Runs, Started
from tests.kills import Kill, resuming, when, writes_a_checkpoint

STEPS, MAX_USES = 14, 2
SERVED: dict[str, object] = {
    **PICK,
    "run.steps": STEPS,
    "engine.kind": "vllm",
    "engine.max_model_len": 256,
    "policy.dtype": "float32",
    "rollout.max_staleness": 1,
    "learning.distill_share": 0.5,
    "learning.max_uses": MAX_USES,
}
_WAIT_S = 30.0
_POLL_S = 0.02  # to look costs more than a glance at a file


def servers(model_folder: Path) -> list[int]:
    """Return the living processes of vLLM servers whose model lies in a folder; each leads a process group."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_text(errors="replace")
        except OSError:
            continue
        if "flywheel.inference.vllm_main" in line and str(model_folder) in line:
            found.append(int(file.parent.name))
    return found


def num_records(run: Path) -> int:
    try:
        with Reader.open(run) as reader:
            return reader.last_seq
    except StoreError:  # there is none yet
        return 0


def has_records(num: int) -> Callable[[Path], bool]:
    return lambda run: num_records(run) >= num


def journalled(run: Path) -> tuple[dict[int, Any], dict[str, Any]]:
    """Return a run's batches by number and attempts by id, as far as there are any."""
    try:
        with Reader.open(run) as reader:
            batches = {seq: reader.batch(step) for seq, step in reader.query("SELECT seq, step FROM records WHERE kind = 'batch'")}
            return batches, {info.id: reader.experience(info.id) for info in reader.attempts()}
    except StoreError:
        return {}, {}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_killed_at_random_moments_with_overlap(home: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run, cache, sockets = tmp_path / "run", tmp_path / "cache", tmp_path_factory.mktemp("s")
    words = ["pick.toml", *overrides(SERVED, {"run.cache_dir": str(cache)})]
    rng = random.Random(0)

    def as_records_come() -> Kill:
        """Kill in the middle of the next step or two: each journals about eighty records."""
        return lambda started, run: when(has_records(num_records(run) + rng.randint(1, 120)), rng.uniform(0, 0.2), poll_s=_POLL_S)(
            started, run
        )

    kills = [
        when(lambda run: bool(servers(cache)), rng.uniform(0, 5), poll_s=_POLL_S),  # while the server starts and the policy is made
        as_records_come(),
        when(writes_a_checkpoint, rng.uniform(0, 0.05)),
        *(as_records_come() for _ in range(3)),
        when(writes_a_checkpoint, rng.uniform(0, 0.05)),
    ]
    batches: dict[int, Any] = {}
    attempts: dict[str, Any] = {}
    with Runs(home, TMPDIR=str(sockets)) as runs:
        for kill in kills:
            started = runs.start(resuming(run, words))
            kill(started, run)
            assert started.wait() == -signal.SIGKILL, runs.log.read_text(errors="replace")[-4000:]
            nothing_is_left(cache, sockets)
            now = journalled(run)
            assert batches.items() <= now[0].items()  # what an earlier kill left is still what it was
            assert attempts.items() <= now[1].items()
            batches, attempts = now
        started = runs.start(resuming(run, words))
        lose_the_server(started, run, cache)
        assert started.wait() == 0, runs.log.read_text(errors="replace")[-4000:]
        nothing_is_left(cache, sockets)
        assert "training on the batch that the journal holds" in runs.log.read_text(errors="replace")
    assert len(records(run, "attempt")) >= len(kills)
    now = journalled(run)
    assert batches.items() <= now[0].items()
    assert attempts.items() <= now[1].items()
    replayed_exactly(run)
    journal_and_counters_agree(run)


def nothing_is_left(model_folder: Path, sockets: Path) -> None:
    """Check that a server goes when the process that started it has gone, and its socket's folder with it."""
    deadline = time.monotonic() + _WAIT_S
    while (servers(model_folder) or any(sockets.glob("flywheel-vllm-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (servers(model_folder), list(sockets.glob("flywheel-vllm-*"))) == ([], [])


def lose_the_server(started: Started, run: Path, model_folder: Path) -> None:
    """SIGKILL the server's processes, and not the run, once the run has gone on for a while."""
    here = num_records(run)
    while started.is_running() and num_records(run) < here + 40:
        time.sleep(_POLL_S)
    lost = servers(model_folder)
    assert lost
    for pid in lost:
        os.kill(pid, signal.SIGKILL)


def replayed_exactly(run: Path) -> None:
    """Check that no step has two batches, and that each time a step was taken it came out the same, bit for bit."""
    assert sorted(batch["step"] for batch in records(run, "batch")) == list(range(1, STEPS + 1))
    taken: defaultdict[int, list[dict[str, float]]] = defaultdict(list)
    for report in records(run, "step"):
        same = {name: value for name, value in report["metrics"].items() if not name.endswith("_s") and name != "probe_gap"}
        taken[report["step"]].append(same)
    assert any(len(times) > 1 for times in taken.values())  # or this shows nothing
    for step, times in taken.items():
        assert all(found == times[0] for found in times), (step, times)


def journal_and_counters_agree(run: Path) -> None:
    metrics = read_metrics(run)
    assert list(metrics) == list(range(STEPS + 1))
    with Reader.open(run) as reader:
        assert reader.check() == []
        uses: Counter[tuple[str, str]] = Counter()
        for step in range(1, STEPS + 1):
            found, made = metrics[step], made_step(reader, step)
            attempts = [info for info in reader.attempts(step=step) if info.origin == "on_policy"]
            assert len(attempts) == ATTEMPTS, step  # a group that was journalled is not collected again
            assert len(made.versions) == 1, step  # in the policy's own ancestry every step is there once
            assert found["tokens/rollout"] == sum(info.num_tokens for info in attempts)
            assert found["outcomes/solved"] == sum(info.outcome == "solved" for info in attempts) / ATTEMPTS
            assert found["trainer/num_rows"] == len(made.rows)
            assert found["staleness/max"] <= 1
            assert found["policy/probe_gap"] < 1e-3  # what is served is what was trained, after every resume
            uses.update((row.kind, row.experience_id) for row in made.rows)
        assert max(times for (kind, _), times in uses.items() if kind == "grpo") == 1
        assert max(times for (kind, _), times in uses.items() if kind == "ce") <= MAX_USES
        for (kind, experience_id), times in uses.items():
            assert kind == "grpo" or reader.info(experience_id).num_uses == times
        for attempt in reader.attempts():  # weights are swapped between turns, and this environment has one
            assert len({turn.policy_version for turn in reader.experience(attempt.id).trajectory.turns}) == 1
        for checkpoint in complete_checkpoints(run):
            note = read_note(checkpoint)
            batch = reader.batch(note.step)
            assert batch is not None
            assert note.journal_seq == batch.journal_seq
        assert [step for (step,) in reader.query("SELECT step FROM records WHERE kind = 'evaluation' ORDER BY seq")] == [0, STEPS]
