"""One call in five to the engine, the sandbox and the verifier fails: none of it counts as the policy's failure, and the run ends well."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from flywheel.monitor.jsonl import read_metrics
from flywheel.router import advantages
from flywheel.store.lineage import made_step
from flywheel.store.reader import Reader
from tests.command_line import pick_words, succeeded
from tests.faulty import LETTER

STEPS = 3
RECIPE = """# Pick a letter with parts that fail.
[run]
name = "faulty"
[environments.faulty]
use = "tests.faulty:FaultyPick"
"""


def trained(home: Path, run: Path, *more: str, faults: Path | None = None) -> Path:
    (run.parent / "faulty.toml").write_text(RECIPE)
    words = [str(run.parent / "faulty.toml"), *pick_words(home)[1:], "--engine.kind", "tests.faulty:FaultyEngine", *more]
    succeeded("train", *words, "--run-dir", str(run), cwd=home, **({"FAULTS_LOG": str(faults)} if faults else {}))
    return run


def test_no_fault_is_scored_as_a_failure(home: Path, tmp_path: Path) -> None:
    run = trained(home, tmp_path / "run", "--run.steps", str(STEPS), faults=tmp_path / "faults")
    faults = Counter((tmp_path / "faults").read_text().split())
    assert min(faults[kind] for kind in ("engine", "sandbox", "verifier")) >= 20, faults
    with Reader.open(run) as reader:
        attempts = [reader.experience(info.id) for info in reader.attempts()]
        rows = {row.experience_id: row for step in range(1, STEPS + 1) for row in made_step(reader, step).rows}
        groups = [group for step in range(1, STEPS + 1) for group in reader.groups(step)]
    for attempt in attempts:  # what was judged was judged by the answer alone
        right = attempt.trajectory.answer == LETTER
        outcome = attempt.verdict.outcome
        assert outcome == "infra_error" or (outcome == "solved") == right, attempt
        assert outcome == "infra_error" or "InfraError" not in attempt.verdict.evidence
    masked = [attempt for attempt in attempts if attempt.verdict.outcome == "infra_error"]
    assert not rows.keys() & {attempt.id for attempt in masked}
    for group in groups:  # advantages over the rest
        rest = [e for e in group.experiences if e.verdict.outcome != "infra_error" and e.id in rows]
        expected = advantages([e.verdict.reward for e in rest], "group") if rest else []
        assert [rows[e.id].advantage for e in rest] == pytest.approx(expected)
    found = read_metrics(run)
    assert sum(found[step]["faults/retried_attempts"] for step in range(1, STEPS + 1)) > 0
    assert sum(found[step]["outcomes/infra_error"] for step in range(1, STEPS + 1)) == pytest.approx(len(masked) * STEPS / len(attempts))


@pytest.mark.slow
def test_the_learning_curve_is_that_of_a_run_without_faults(home: Path, tmp_path: Path) -> None:
    steps = 20
    more = ("--run.steps", str(steps), "--evaluation.tasks_per_environment", "20", "--trainer.learning_rate", "3e-3")
    last = {}
    for name, faults in (("sound", None), ("faulty", tmp_path / "faults")):
        found = read_metrics(trained(home, tmp_path / name, *more, faults=faults))
        first = fmean(found[step]["reward/mean"] for step in range(1, 4))
        last[name] = fmean(found[step]["reward/mean"] for step in range(steps - 7, steps + 1))
        assert last[name] > first + 0.2, (name, first, last[name])
    # 256 attempts a mean: two standard deviations are 0.08 for both together, and the seeds of retried attempts differ.
    assert abs(last["faulty"] - last["sound"]) < 0.15, last
