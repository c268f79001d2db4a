"""`python -m flywheel.train` as a person runs it: what it refuses, what a run leaves behind, and what survives being stopped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flywheel.monitor.jsonl import read_metrics, read_table
from flywheel.recipe import load_recipe
from flywheel.trainer.checkpoints import checkpoint_step, complete_checkpoints
from tests.command_line import ATTEMPTS, STEPS, command, environment, pick_words, ran, records, succeeded, wait_for_step


@contextmanager
def running(*args: str, home: Path, **extra: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("train", *args), cwd=home, env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------- what starts nothing


def test_list_names_what_a_recipe_can_be_made_of(home: Path) -> None:
    said = succeeded("train", "--list", cwd=home).stdout
    for section in ("recipes:", "environments:", "verifiers:", "engines:"):
        assert section in said
    for name in ("quickstart", "code", "chemistry", "transformers", "vllm"):
        assert f"  {name} " in said


def test_a_dry_run_prints_the_resolved_recipe_and_makes_nothing(home: Path, tmp_path: Path) -> None:
    asked = ["quickstart", "--run.dir", str(tmp_path / "runs"), "--trainer.learning_rate=1e-4", "--environments.code.weight", "2"]
    printed = succeeded("train", "--engine.kind", "transformers", *asked, "--dry-run", cwd=home).stdout
    (tmp_path / "resolved.toml").write_text(printed)
    assert load_recipe(str(tmp_path / "resolved.toml")) == load_recipe("quickstart", [*asked[1:], "--engine.kind", "transformers"])
    resolved = tomllib.loads(printed)
    assert (resolved["trainer"]["learning_rate"], resolved["environments"]["code"]["weight"]) == (1e-4, 2.0)
    assert not (tmp_path / "runs").exists()


def test_every_mistake_is_said_at_once_and_nothing_starts(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(
        '[run]\nstepz = 3\n[policy]\nmodel = 5\n[rollout]\ngroup_size = 1\n[environments.code]\nweight = "much"\n', "utf-8"
    )
    done = ran("train", str(tmp_path / "bad.toml"), "--run.dir", str(tmp_path / "runs"), "--engine.knd", "x", cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    errors = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    wanted = ("'run.stepz': did you mean 'steps'", "policy.model", "rollout.group_size", "environments.code.weight", "engine.knd")
    for mistake in wanted:
        assert any(mistake in line for line in errors), (mistake, errors)
    assert not (tmp_path / "runs").exists()


def test_what_the_machine_lacks_is_said_at_once(home: Path, tmp_path: Path) -> None:
    asked = [
        "--environments.cod.weight",
        "1",
        "--policy.model",
        "./nowhere",
        "--sandbox.backend",
        "docke",
        "--run.dir",
        str(tmp_path / "runs"),
    ]
    done = ran("train", "quickstart", *asked, "--engine.kind", "vlm", cwd=home)
    assert (done.returncode, done.stdout) == (2, "")
    for mistake in (
        "environments.cod: unknown environment 'cod': did you mean 'code'",
        "./nowhere",
        "unknown backend",
        "unknown engine 'vlm'",
    ):
        assert mistake in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def test_no_recipe_and_no_such_recipe(home: Path) -> None:
    refused = {
        (): "which recipe? --list shows them",
        ("quickstrat",): "no recipe 'quickstrat': did you mean 'quickstart'?",
        ("quickstart", "--stepz", "3"): "unknown option --stepz: did you mean --run.steps",
        ("quickstart", "--run.steps"): "--run.steps has no value",
        ("quickstart", "extra"): "unexpected argument 'extra'",
    }
    for asked, why in refused.items():
        done = ran("train", *asked, cwd=home)
        assert done.returncode == 2
        assert why in done.stderr


def test_there_must_be_a_run_to_resume(home: Path, tmp_path: Path) -> None:
    done = ran("train", *pick_words(home), "--run.dir", str(tmp_path), "--resume", cwd=home)
    assert done.returncode == 2
    assert f"--resume: {tmp_path / 'pick'} holds no run" in done.stderr


# ---------------------------------------------------------------- a whole run


def step_reports(run: Path) -> dict[str, dict[str, Any]]:
    return {report["policy_version"]: report for report in records(run, "step")}


def test_a_run_leaves_everything_behind(whole: tuple[Path, str]) -> None:
    run, printed = whole
    metrics = read_metrics(run)
    assert list(metrics) == list(range(STEPS + 1))
    assert {"heldout/pick", "heldout/pick/pick"} <= set(metrics[0])
    assert "heldout/pick" in metrics[STEPS]
    for step in range(1, STEPS + 1):
        names = {
            "reward/mean",
            "solved/pick",
            "groups/mixed",
            "outcomes/infra_error",
            "policy/probe_gap",
            "time/rollout_s",
            "tokens/rollout",
        }
        assert names <= set(metrics[step])
        assert metrics[step]["outcomes/infra_error"] == 0
        assert metrics[step]["policy/probe_gap"] < 1e-3
    # The policy picks among four letters: some groups must have contrast, or this test tests nothing.
    assert sum(metrics[step]["trainer/num_rows"] for step in range(1, STEPS + 1)) > 0
    assert json.loads((run / "summary.json").read_text())
    assert (run / "heldout.png").read_bytes().startswith(b"\x89PNG")
    assert "held-out pass@1" in printed
    assert [checkpoint_step(path) for path in complete_checkpoints(run)] == [4, 6]
    rows = read_table(run, "samples")
    assert set(rows) == {1, 2, 4, 6}
    assert rows[1][0]["task"].startswith("pick/pick ")
    assert load_recipe(str(run / "recipe.toml")).run.steps == STEPS


def test_the_journal_traces_every_token_that_trained(whole: tuple[Path, str]) -> None:
    run, _ = whole
    experiences = {e["id"]: e for e in records(run, "experience")}
    tasks = {task["id"]: task for task in records(run, "task")}
    assert len(records(run, "attempt")) == 1
    assert len(experiences) == len(records(run, "route")) == STEPS * ATTEMPTS
    assert [evaluation["step"] for evaluation in records(run, "evaluation")] == [0, STEPS]
    assert list(step_reports(run)) == [f"1.{step}" for step in range(1, STEPS + 1)]
    batches = records(run, "batch")
    assert [batch["step"] for batch in batches] == list(range(1, STEPS + 1))
    routes = {route["experience_id"]: route["destination"] for route in records(run, "route")}
    trained: list[str] = []
    for batch in batches:
        for row in batch["rows"]:
            experience = experiences[row["experience_id"]]
            turns = experience["trajectory"]["turns"]
            assert {turn["policy_version"] for turn in turns} == {f"1.{batch['step'] - 1}"}
            assert row["completion_ids"][: len(turns[0]["completion_ids"])] == turns[0]["completion_ids"]
            assert tasks[experience["task_id"]]["split"] == "train"
            assert experience["verdict"]["outcome"] in ("solved", "failed", "truncated")
            assert routes[row["experience_id"]] == "grpo"
            trained.append(row["experience_id"])
        assert batch["num_grpo_tokens"] == sum(sum(row["loss_mask"]) for row in batch["rows"])
    assert len(set(trained)) == len(trained)


# ---------------------------------------------------------------- stopped and resumed


def test_sigterm_leaves_a_checkpoint_and_a_run_that_resume_finishes(home: Path, whole: tuple[Path, str]) -> None:
    run = home / "runs" / "pick-2"  # the name is taken by the whole run
    with running(*pick_words(home), home=home, PICK_HOLD=str(run), PICK_HOLD_AFTER="3") as process:
        wait_for_step(process, run, 3)
        second = ran("train", *pick_words(home), "--resume", "--run-dir", str(run), "--run.steps", "50", cwd=home)
        assert second.returncode == 1
        assert load_recipe(str(run / "recipe.toml")).run.steps == STEPS
        assert "another flywheel process is running this run" in second.stderr
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "stopped; go on with: python -m flywheel.train" in said
    assert checkpoint_step(complete_checkpoints(run)[-1]) == 3
    assert list(read_metrics(run)) == [0, 1, 2, 3]

    again = said.split("go on with: python -m flywheel.train ", 1)[1].split("\n", 1)[0].split()
    recipe = (run / "recipe.toml").read_text("utf-8")
    refused = ran("train", *again, "--policy.lora.rank", "4", "--run.steps", "2", cwd=home)
    assert refused.returncode == 2
    assert "policy.lora.rank is 4, and runs/pick-2 began with 0: leave it as it was" in refused.stderr
    assert "run.steps is 2, and runs/pick-2 has trained 3 steps already" in refused.stderr
    assert (run / "recipe.toml").read_text("utf-8") == recipe  # or no later start could go on
    succeeded("train", *again, cwd=home)
    versions = [f"1.{step}" for step in (1, 2, 3)] + [f"2.{step}" for step in range(4, STEPS + 1)]
    assert list(step_reports(run)) == versions
    assert [batch["step"] for batch in records(run, "batch")] == list(range(1, STEPS + 1))
    assert len({row["experience_id"] for batch in records(run, "batch") for row in batch["rows"]}) == sum(
        len(batch["rows"]) for batch in records(run, "batch")
    )
    assert list(read_metrics(run)) == list(range(STEPS + 1))
    assert checkpoint_step(complete_checkpoints(run)[-1]) == STEPS
    assert [evaluation["step"] for evaluation in records(run, "evaluation")] == [0, STEPS]
    assert (run / "heldout.png").exists()


def test_after_sigkill_recorded_batches_are_replayed_as_recorded(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    with running(*pick_words(home), "--run-dir", str(run), home=home, PICK_HOLD=str(run), PICK_HOLD_AFTER="3") as process:
        wait_for_step(process, run, 3)
        process.kill()
        process.communicate()
    assert checkpoint_step(complete_checkpoints(run)[-1]) == 2  # step 3 is in the journal and in no checkpoint
    (recorded,) = [batch for batch in records(run, "batch") if batch["step"] == 3]
    first = step_reports(run)["1.3"]["metrics"]

    # Whoever mends an environment would get another tiny model, and tokenizer, if it were made again; a changed section does the same.
    again = [*pick_words(home), "--environments.pick.weight", "2", "--run-dir", str(run), "--resume"]
    done = succeeded("train", *again, cwd=home)
    assert "cold start" not in done.stdout
    assert "step 3: training on the batch that the journal holds" in done.stdout + done.stderr
    assert [batch for batch in records(run, "batch") if batch["step"] == 3] == [recorded]
    reports = step_reports(run)
    assert list(reports) == ["1.1", "1.2", "1.3", *(f"2.{step}" for step in range(3, STEPS + 1))]
    # Weights, optimiser and batch are what they were: the step comes out the same, bit for bit.
    again = reports["2.3"]["metrics"]
    names = [name for name in first if not name.endswith("_s")]
    assert recorded["rows"]
    assert {name: again[name] for name in names if name != "probe_gap"} == {name: first[name] for name in names if name != "probe_gap"}
    # In the checkpoint's own ancestry (1.1, 1.2, 2.3, …) every step is there once, and no attempt trains twice.
    ancestry = [version for version in reports if version != "1.3"]
    assert [reports[version]["step"] for version in ancestry] == list(range(1, STEPS + 1))
    trained = [row["experience_id"] for batch in records(run, "batch") for row in batch["rows"]]
    assert len(set(trained)) == len(trained)
    assert list(read_metrics(run)) == list(range(STEPS + 1))


@pytest.mark.slow
def test_a_run_stopped_in_its_last_evaluation_evaluates_what_it_trained(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "late"
    with running(*pick_words(home), "--run-dir", str(run), home=home, PICK_HOLD=str(run), PICK_HOLD_AFTER=str(STEPS)) as process:
        wait_for_step(process, run, STEPS)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert [evaluation["step"] for evaluation in records(run, "evaluation")] == [0]
    succeeded("train", *pick_words(home), "--run-dir", str(run), "--resume", cwd=home)
    assert [(e["step"], e["policy_version"]) for e in records(run, "evaluation")] == [(0, "1.0"), (STEPS, f"2.{STEPS}")]
    assert list(step_reports(run)) == [f"1.{step}" for step in range(1, STEPS + 1)]
    assert (run / "heldout.png").exists()


@pytest.mark.slow
def test_several_trainer_processes_stop_and_resume_too(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "ranks"
    asked = [*pick_words(home), "--trainer.num_processes", "2", "--run-dir", str(run)]
    with running(*asked, home=home, PICK_HOLD=str(run), PICK_HOLD_AFTER="3") as process:
        wait_for_step(process, run, 3)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert checkpoint_step(complete_checkpoints(run)[-1]) == 3
    succeeded("train", *asked, "--resume", cwd=home)
    assert list(step_reports(run)) == ["1.1", "1.2", "1.3", "2.4", "2.5", "2.6"]
    assert list(read_metrics(run)) == list(range(STEPS + 1))


@pytest.mark.slow
def test_sigterm_during_the_cold_start_leaves_nothing_half_made(home: Path, tmp_path: Path) -> None:
    long = ["--run.cache_dir", str(tmp_path / "cache"), "--cold_start.steps", "100000"]
    with running(*pick_words(home), *long, "--run-dir", str(tmp_path / "run"), home=home) as process:
        assert process.stdout is not None
        while "cold start" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert list((tmp_path / "cache").glob("cold_start/*/config.json")) == []
    succeeded("train", *pick_words(home), "--run-dir", str(tmp_path / "run"), "--resume", "--cold_start.steps", "2", cwd=home)


@pytest.mark.slow
def test_a_finished_run_resumes_to_nothing(home: Path, whole: tuple[Path, str]) -> None:
    run, _ = whole
    before = records(run, "step"), records(run, "batch")
    done = succeeded("train", *pick_words(home), "--resume", "--run-dir", str(run), cwd=home)
    assert (records(run, "step"), records(run, "batch")) == before
    assert "held-out pass@1" in done.stdout
    with closing(sqlite3.connect(run / "journal.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not os.path.exists(run / "checkpoints" / ".writing")


@pytest.mark.slow
def test_a_run_ends_when_what_it_was_for_is_solved(home: Path, tmp_path: Path) -> None:
    """The first evaluation already has letters that were picked right, so the run ends after its first step, and well."""
    run = tmp_path / "done"
    done = succeeded("train", *pick_words(home), "--run-dir", str(run), "--run.stop_when_solved", "pick", cwd=home)
    assert "solved: a task of the family 'pick'" in done.stdout
    assert [report["step"] for report in records(run, "step")] == [1]
    assert checkpoint_step(complete_checkpoints(run)[-1]) == 1
    assert [found["step"] for found in records(run, "evaluation")] == [0, 1]
    resumed = succeeded("train", *pick_words(home), "--resume", "--run-dir", str(run), "--run.stop_when_solved", "pick", cwd=home)
    assert "solved: a task of the family 'pick'" in resumed.stdout
    assert [report["step"] for report in records(run, "step")] == [1], "what was solved before stays solved"
    assert [found["step"] for found in records(run, "evaluation")] == [0, 1]
