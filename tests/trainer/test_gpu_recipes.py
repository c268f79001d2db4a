"""The GPU recipes on CPUs, their model classes shrunk to two layers: two steps, full or LoRA, one process and two, equal losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.config import Recipe
from flywheel.contracts import WeightSync
from flywheel.recipe import load_recipe
from flywheel.trainer.launch import train_in_processes
from flywheel.trainer.loop import train
from tests.shrunk_qwen3 import save_shrunk
from tests.trainer.helpers_trainer import ScriptedLink

SAME = ("loss", "grpo_loss", "ce_nll", "grad_norm", "entropy", "importance_ratio_mean", "num_tokens")
NAMES = ("qwen3_0.6b_code", "qwen3_4b_lora_chemistry", "qwen3_8b_lean", "humaneval_mbpp_code")
QUICK = [("qwen3_4b_lora_chemistry", True)]


def on_cpu(name: str, num_processes: int, *, lora: bool) -> Recipe:
    """The recipe but for its machine: two steps on CPU ranks, at a rate that shows in them, in micro-batches of a few rows."""
    words = ["--run.steps", "2", "--trainer.device", "cpu", "--trainer.num_processes", str(num_processes), "--trainer.sharding", "none"]
    words += ["--placement.trainer_gpus", str(list(range(num_processes)))]
    words += ["--placement.sleep_level", "0", "--policy.lora.rank", "8" if lora else "0"]
    return load_recipe(
        name, [*words, "--trainer.learning_rate", "1e-3", "--trainer.warmup_steps", "0", "--trainer.micro_batch_tokens", "60"]
    )


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        pytest.param(name, lora, marks=() if (name, lora) in QUICK else pytest.mark.slow, id=f"{name}-{'lora' if lora else 'full'}")
        for name in NAMES
        for lora in (False, True)
    ],
)
def test_two_processes_train_as_one_does(name: str, lora: bool, tmp_path: Path) -> None:
    one, two = on_cpu(name, 1, lora=lora), on_cpu(name, 2, lora=lora)
    model = save_shrunk(one.policy.model, tmp_path / "model")
    alone, together = ScriptedLink(base=model), ScriptedLink(base=model)
    sync: WeightSync = "lora" if lora else "disk"
    train(one, tmp_path / "one", alone, model, attempt="a", weight_sync=sync)
    train_in_processes(two, tmp_path / "two", together, model, attempt="a", weight_sync=sync)
    assert [report.step for report in together.reports] == [1, 2]
    for mine, theirs in zip(alone.reports, together.reports, strict=True):
        assert theirs.metrics["probe_gap"] < 1e-4
        for figure in SAME:
            assert theirs.metrics[figure] == pytest.approx(mine.metrics[figure], rel=1e-4, abs=1e-6), figure
    saved = tmp_path / "two/checkpoints/step-2"
    assert (saved / "adapter_model.safetensors").exists() == lora
