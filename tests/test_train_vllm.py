"""A run whose policy is served by a real vLLM server, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flywheel.contracts import Completion
from flywheel.monitor.jsonl import read_metrics
from tests.command_line import PICK, overrides, records, succeeded
from tests.inference.helpers_inference import gap, reference_logprobs

# Even where one guess in ten is right, one first step in five hundred has no group with contrast.
STEPS, GROUPS = 2, 8


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_training_through_a_vllm_server(home: Path, tmp_path: Path) -> None:
    small = {
        **PICK,
        "run.cache_dir": str(tmp_path / "cache"),
        "run.steps": STEPS,
        "run.checkpoint_every": 1,
        "rollout.groups_per_step": GROUPS,
    }
    # After its first step the policy can't be taken for the one before.
    served = {"engine.kind": "vllm", "engine.max_model_len": 256, "policy.dtype": "float32", "trainer.learning_rate": 3e-3}
    run = tmp_path / "run"
    done = succeeded("train", "pick.toml", *overrides(small, served), "--run-dir", str(run), cwd=home)
    assert "engine: vllm" in done.stdout
    metrics = read_metrics(run)
    assert list(metrics) == list(range(STEPS + 1))
    for step in (1, 2):
        assert metrics[step]["outcomes/infra_error"] == 0
        assert 0 < metrics[step]["policy/probe_gap"] < 1e-3
    assert metrics[1]["trainer/num_rows"] > 0

    # What it said of its own samples is what plain transformers says of them, under the weights of that version and no others.
    (cold,) = (tmp_path / "cache" / "cold_start").iterdir()
    first, second = (turns_of(run, version) for version in ("1.0", "1.1"))
    assert len(first) == len(second) == GROUPS * 8
    after_step_1 = run / "checkpoints" / "step-1"
    assert mean_gap(cold, first) < 1e-3
    assert mean_gap(after_step_1, second) < 1e-3
    assert mean_gap(cold, second) > 0.02
    assert processes_that_name(tmp_path) == []


def turns_of(run: Path, version: str) -> list[Any]:
    turns = [experience["trajectory"]["turns"][0] for experience in records(run, "experience")]
    return [turn for turn in turns if turn["policy_version"] == version]


def mean_gap(model: Path, turns: Sequence[Any]) -> float:
    """Return the mean over some turns of the widest gap between the served logprobs and a model's."""
    gaps = []
    for turn in turns[:4]:
        ids, logprobs = tuple(turn["completion_ids"]), tuple(turn["behavior_logprobs"])
        completion = Completion(token_ids=ids, logprobs=logprobs, policy_version="", finish="stop")
        gaps.append(gap(logprobs, reference_logprobs(model, turn["prompt_ids"], completion)))
    return sum(gaps) / len(gaps)


def processes_that_name(folder: Path) -> list[str]:
    """Return the command lines of living processes that name a folder: a server that was left behind would serve a model in it."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
        found += [line] if str(folder) in line else []
    return found
