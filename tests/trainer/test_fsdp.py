"""FSDP2, on CPU ranks over gloo: the losses and weights of one unsharded process, checkpoints, resumption, whole weights for the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flywheel.errors import FlywheelError
from flywheel.trainer import launch
from flywheel.trainer.checkpoints import complete_checkpoints
from flywheel.trainer.launch import train_in_processes
from flywheel.trainer.loop import train
from tests.command_line import ROOT
from tests.trainer.helpers_trainer import ScriptedLink, tiny_recipe

SAME = ("loss", "grpo_loss", "ce_nll", "grad_norm", "entropy", "importance_ratio_mean", "num_tokens")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch would shard over the GPUs")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shards_train_as_the_whole_does(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool) -> None:
    monkeypatch.setattr(launch, "_WORKER", "tests.trainer.fsdp_on_cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    recipe = tiny_recipe(steps=3, num_processes=2, sharding="fsdp2", gradient_checkpointing=checkpointing)
    alone, first, second = ScriptedLink(), ScriptedLink(stop_after=2), ScriptedLink()
    train(tiny_recipe(steps=3), tmp_path / "one", alone, small_model, attempt="a")
    run_dir = tmp_path / "two"
    train_in_processes(recipe, run_dir, first, small_model, attempt="a")
    (checkpoint,) = complete_checkpoints(run_dir)
    train_in_processes(recipe, run_dir, second, small_model, attempt="b", resume=checkpoint)
    for mine, theirs in zip(alone.reports, (*first.reports, *second.reports), strict=True):
        assert theirs.metrics["probe_gap"] < 1e-4  # what was gathered and written is what the shards compute
        for name in SAME:
            assert theirs.metrics[name] == pytest.approx(mine.metrics[name], rel=1e-4, abs=1e-6), name
    own, theirs_ = (load_file(folder / "checkpoints/step-3/model.safetensors") for folder in (tmp_path / "one", run_dir))
    assert {name: torch.allclose(theirs_[name], own[name], atol=1e-3) for name in own} == dict.fromkeys(own, True)


@pytest.mark.slow
def test_sharding_that_does_not_come_about_is_no_run(small_model: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("here it does")
    with pytest.raises(FlywheelError, match="accelerate runs MULTI_CPU"):
        train_in_processes(tiny_recipe(num_processes=2, sharding="fsdp2"), tmp_path, ScriptedLink(), small_model, attempt="a")


@pytest.mark.gpu
def test_shards_on_gpus_train_as_one_gpu_does(small_model: Path, tmp_path: Path) -> None:
    """In bfloat16, so losses agree only roughly; the probe compares what was gathered with what the shards compute."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} GPUs that torch can use")
    alone, together = ScriptedLink(), ScriptedLink()
    train(tiny_recipe(device="cuda"), tmp_path / "one", alone, small_model, attempt="a")
    sharded = tiny_recipe(device="cuda", num_processes=2, sharding="fsdp2", gradient_checkpointing=True)
    train_in_processes(sharded, tmp_path / "two", together, small_model, attempt="a")
    for mine, theirs in zip(alone.reports, together.reports, strict=True):
        assert theirs.metrics["loss"] == pytest.approx(mine.metrics["loss"], rel=0.05, abs=0.01)
        assert theirs.metrics["probe_gap"] < 0.05
