from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flywheel.config import ColdStartConfig, PolicyConfig
from flywheel.errors import FlywheelError
from flywheel.trainer.cold_start import rate_at, run_cold_start
from flywheel.trainer.policy import load_policy
from tests.trainer.helpers_trainer import row

ROWS = [row(str(at), prompt=(5, 20 + at, 6), completion=(40 + at, 9, 40 + at, 2), mask=(1, 0, 1, 1), kind="ce") for at in range(8)]
CONFIG = ColdStartConfig(steps=40, batch_size=8, learning_rate=1e-2, warmup_steps=4)


def test_it_learns_the_trained_tokens_and_is_deterministic(small_model: Path, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {"one": [], "two": []}
    for name in losses:
        run_cold_start(small_model, ROWS, CONFIG, 3, tmp_path / name, lambda step, loss: losses[name].append(loss), device="cpu")  # noqa: B023
    assert losses["one"] == losses["two"]
    assert len(losses["one"]) == 40
    assert losses["one"][-1] < 0.1 < 3 < losses["one"][0]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in losses)
    assert all(torch.equal(one[name], two[name]) for name in one)
    model = load_policy(PolicyConfig(), tmp_path / "one", torch.device("cpu"), torch.float32)
    with torch.no_grad():
        best = model(torch.tensor([[5, 23, 6, 43, 9, 43]])).logits[0].argmax(-1)
    assert best[[2, 4, 5]].tolist() == [43, 43, 2]


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_the_loss_is_the_weighted_mean_over_masked_tokens(small_model: Path, tmp_path: Path, smoothing: float) -> None:
    rows = [row("a", completion=(8, 9), mask=(1, 0), kind="ce", weight=3.0), row("b", prompt=(4,), completion=(8, 9), kind="ce")]
    plain = load_policy(PolicyConfig(), small_model, torch.device("cpu"), torch.float32)
    first = torch.log_softmax(plain(torch.tensor([[5, 6, 7, 8]])).logits[0], -1)
    second = torch.log_softmax(plain(torch.tensor([[4, 8, 9]])).logits[0], -1)
    sharp = -(3 * first[2, 8] + second[0, 8] + second[1, 9]).item() / 5
    spread = -(3 * first[2].mean() + second[0].mean() + second[1].mean()).item() / 5
    expected = (1 - smoothing) * sharp + smoothing * spread
    assert abs(spread - sharp) > 0.01 * sharp
    seen: list[float] = []
    config = ColdStartConfig(steps=1, batch_size=2, label_smoothing=smoothing)
    run_cold_start(small_model, rows, config, 0, tmp_path / "out", lambda step, loss: seen.append(loss), device="cpu")
    assert seen == [pytest.approx(expected, rel=2e-3)]


def test_an_adapter_is_folded_into_what_it_writes(small_model: Path, tmp_path: Path) -> None:
    policy = PolicyConfig.model_validate({"lora": {"rank": 8, "alpha": 32}})
    seen: list[float] = []
    run_cold_start(small_model, ROWS, CONFIG, 3, tmp_path / "out", lambda step, loss: seen.append(loss), policy=policy, device="cpu")
    assert seen[-1] < 0.8 * seen[0]
    start, end = load_file(small_model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert start.keys() == end.keys()
    assert torch.equal(start["model.embed_tokens.weight"], end["model.embed_tokens.weight"])
    assert not torch.equal(start["model.layers.0.mlp.up_proj.weight"], end["model.layers.0.mlp.up_proj.weight"])


def test_schedule_rises_over_the_warm_up_and_falls_to_the_end() -> None:
    assert [rate_at(step, 2, 6) for step in range(1, 7)] == [1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25]


def test_nothing_to_train_on_and_infinite_losses_stop(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match="none of 1 demonstrations"):
        run_cold_start(small_model, [row("a", mask=(0, 0, 0), kind="ce")], CONFIG, 0, tmp_path / "out", lambda *_: None, device="cpu")
    hot = CONFIG.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(FlywheelError, match=r"lower cold_start\.learning_rate"):
        run_cold_start(small_model, ROWS, hot, 0, tmp_path / "out", lambda *_: None, device="cpu")
    assert not (tmp_path / "out").exists()
