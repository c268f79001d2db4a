"""The loss, by hand: every expectation is worked from plain forward passes of the same weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import ValidationError

from flywheel.config import PolicyConfig, TrainerConfig
from flywheel.errors import FlywheelError
from flywheel.trainer.grpo import SUMS, FlywheelGRPOTrainer, LossSettings
from flywheel.trainer.policy import load_policy
from flywheel.types import Batch, Row
from tests.trainer.helpers_trainer import build, row, varied_batch


def logprobs(small_model: Path, one: Row) -> torch.Tensor:
    """Logprobs of the row's completion tokens, from a plain forward."""
    plain = load_policy(PolicyConfig(), small_model, torch.device("cpu"), torch.float32)
    ids = torch.tensor([one.prompt_ids + one.completion_ids])
    with torch.no_grad():
        scores = torch.log_softmax(plain(ids).logits[0], dim=-1)
    start = len(one.prompt_ids)
    return torch.stack([scores[at - 1, ids[0, at]] for at in range(start, ids.size(1))])


def prepared(trainer: FlywheelGRPOTrainer) -> FlywheelGRPOTrainer:
    """The trainer with an optimiser, as `train` would have it before its first step."""
    trainer.current_gradient_accumulation_steps = 1
    trainer._prepare_for_training(2, trainer.get_train_dataloader(), None)
    return trainer


def step(trainer: FlywheelGRPOTrainer, *rows: Row) -> dict[str, float]:
    return trainer.train_on(trainer.model_wrapped, Batch.create(1, rows))


def gradients(trainer: FlywheelGRPOTrainer, batch: Batch) -> dict[str, torch.Tensor]:
    """Gradients that one step on the batch applies, before clipping; the optimiser is held still."""
    trainer.args.max_grad_norm = math.inf
    kept: dict[str, torch.Tensor] = {}

    def keep(*_: object, **__: object) -> None:
        kept.update({name: weight.grad.clone() for name, weight in trainer.model.named_parameters()})

    trainer.optimizer.step = keep
    trainer.train_on(trainer.model_wrapped, batch)
    return kept


def test_three_token_loss(small_model: Path, tmp_path: Path) -> None:
    """Advantage 2, behaviour off by known amounts: loss = -2 · (1 + e^-0.1 + cap 2) / 3."""
    bare = row("a", advantage=2.0)
    exact = logprobs(small_model, bare).tolist()
    behavior = [exact[0], exact[1] + 0.1, exact[2] - 1.5]  # ratios 1, e^-0.1, e^1.5 (over the cap of 2)
    metrics = step(prepared(build(small_model, tmp_path)), row("a", advantage=2.0, behavior=behavior))
    assert metrics["loss"] == pytest.approx(-2.0 * (1 + math.exp(-0.1) + 2.0) / 3, rel=1e-5)
    assert metrics["importance_ratio_max"] == pytest.approx(math.exp(1.5), rel=1e-4)
    assert metrics["importance_ratio_mean"] == pytest.approx((1 + math.exp(-0.1) + math.exp(1.5)) / 3, rel=1e-4)
    assert metrics["importance_truncated_share"] == pytest.approx(1 / 3)
    assert metrics["num_tokens"] == 3


def test_grpo_and_cross_entropy_have_their_own_token_counts(small_model: Path, tmp_path: Path) -> None:
    """L = -(1·2 - 0.5·1)/3 + 0.3 · NLL/2: three GRPO tokens, two cross-entropy tokens, masks and weights counted."""
    taken, refused = row("a", advantage=1.0, mask=(1, 0, 1)), row("b", advantage=-0.5, completion=(20, 21), mask=(0, 1))
    shown = row("c", kind="ce", prompt=(30, 31), completion=(32, 33, 34), mask=(1, 1, 0))
    nll = -logprobs(small_model, shown)[:2].mean().item()
    metrics = step(prepared(build(small_model, tmp_path, ce_weight=0.3)), taken, refused, shown)
    assert metrics["grpo_loss"] == pytest.approx(-(2 * 1.0 - 0.5) / 3, rel=1e-5)
    assert metrics["ce_nll"] == pytest.approx(nll, rel=1e-5)
    assert metrics["loss"] == pytest.approx(-(2 * 1.0 - 0.5) / 3 + 0.3 * nll, rel=1e-5)
    assert metrics["num_rows"] == 3
    assert "importance_ratio_mean" not in metrics  # nothing sampled says how likely it was


def test_every_kind_of_row_in_one_batch(small_model: Path, tmp_path: Path) -> None:
    """An on-policy attempt, a replayed one, a relabelled answer and a repair whose failed turn is masked: loss and gradient by hand.

    L = -[ Σ 0.5·min(r, 2)·log p  +  Σ 1·min(r, 2)·log p ] / T_GRPO  -  λ [ Σ log p ] / T_CE with r = exp(log p - behaviour) held still;
    T_GRPO = 3 + 2 and T_CE = 3 + 2, λ = 0.8 · (1 - 1/2) in the second of two steps.
    """
    fresh = row("on_policy", advantage=0.5, behavior=(-5.0, -6.0, -5.5))
    old = row("replay", prompt=(40, 41), completion=(42, 43, 44), mask=(1, 0, 1), advantage=1.0, behavior=(-9.0, 0.0, -4.0))
    relabelled = row("hindsight", kind="ce", prompt=(50,), completion=(51, 52, 53))
    repaired = row("repair", kind="ce", prompt=(60, 61), completion=(62, 63, 64, 65, 66), mask=(0, 0, 0, 1, 1))
    batch = Batch.create(2, (fresh, old, relabelled, repaired))
    assert (batch.num_grpo_tokens, batch.num_ce_tokens) == (5, 5)

    plain = load_policy(PolicyConfig(), small_model, torch.device("cpu"), torch.float32)
    weight = 0.8 * (1 - 1 / 2)
    objective = torch.zeros(())
    loss = 0.0
    for one in batch.rows:
        ids = torch.tensor([one.prompt_ids + one.completion_ids])
        scores = torch.log_softmax(plain(ids).logits[0], dim=-1)
        start = len(one.prompt_ids)
        for at, (token, mask) in enumerate(zip(one.completion_ids, one.loss_mask, strict=True)):
            logprob = scores[start + at - 1, token]
            if one.kind == "ce":
                objective = objective - mask * weight * logprob / 5
                loss += -mask * weight * logprob.item() / 5
            elif mask:
                assert one.behavior_logprobs is not None
                factor = one.advantage * min(2.0, math.exp(logprob.item() - one.behavior_logprobs[at])) / 5
                objective = objective - factor * logprob
                loss -= factor
    expected = torch.autograd.grad(objective, list(plain.parameters()))

    trainer = prepared(build(small_model, tmp_path, ce_weight=0.8, ce_schedule="linear"))
    found = gradients(trainer, batch)
    for (name, _), gradient in zip(plain.named_parameters(), expected, strict=True):
        assert torch.allclose(found[name], gradient, atol=1e-6), name
    metrics = prepared(build(small_model, tmp_path, ce_weight=0.8, ce_schedule="linear"))
    figures = metrics.train_on(metrics.model_wrapped, batch)
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["ce_weight"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.5] * 4), ("linear", [0.5, 0.375, 0.25, 0.125]), ("cosine", [0.5, 0.42678, 0.25, 0.07322])]
)
def test_the_weight_of_cross_entropy_falls_and_is_bounded(schedule: Literal["constant", "linear", "cosine"], expected: list[float]) -> None:
    settings = LossSettings(micro_batch_size=1, ce_weight=0.5, ce_schedule=schedule, num_steps=4)
    assert [settings.ce_weight_at(at) for at in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        TrainerConfig(ce_weight=1.5)


def test_dr_grpo_divides_by_the_most_tokens_a_step_can_have(small_model: Path, tmp_path: Path) -> None:
    """16 groups of 8, 2048 tokens an episode."""
    metrics = step(prepared(build(small_model, tmp_path, loss_type="dr_grpo")), row("a", advantage=2.0), row("b", kind="ce"))
    assert metrics["grpo_loss"] == pytest.approx(-2.0 * 3 / (16 * 8 * 2048), rel=1e-5)
    assert metrics["ce_nll"] == pytest.approx(-logprobs(small_model, row("b")).mean().item(), rel=1e-4)


def test_clipping_is_asymmetric(small_model: Path, tmp_path: Path) -> None:
    """With old logprobs given: ratios 1.25, 1.35 at advantage 1 and 0.75 at -1, clipped to [0.8, 1.28]."""
    trainer = prepared(build(small_model, tmp_path, clip_low=0.2, clip_high=0.28))
    up, down = row("a", advantage=1.0, completion=(8, 9)), row("b", advantage=-1.0, completion=(8, 9), mask=(1, 0))
    now = logprobs(small_model, up)
    (part,) = trainer._split(Batch.create(1, (up, down)))
    old = now - torch.tensor([[1.25, 1.35], [0.75, 1.0]]).log()
    trainer._sums = {name: torch.zeros(()) for name in SUMS}
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, {**trainer._prepare_inputs(part), "old_per_token_logps": old})
    assert loss.item() == pytest.approx(-(1.25 + 1.28 - 0.8) / 3, rel=1e-5)
    assert trainer._sums["clipped"].item() == 2


def test_kl_counts_on_grpo_rows_only(small_model: Path, tmp_path: Path) -> None:
    """At the start policy and reference agree; after one step they don't, and L = -A + β·KL on the GRPO row."""
    trainer = prepared(build(small_model, tmp_path, kl_beta=0.1))
    first = step(trainer, row("a", advantage=1.0), row("b", kind="ce"))
    second = step(trainer, row("a", advantage=1.0), row("b", kind="ce"))
    assert first["kl"] == pytest.approx(0.0, abs=1e-7)
    assert second["kl"] > 1e-3
    assert second["grpo_loss"] == pytest.approx(-1.0 + 0.1 * second["kl"], rel=1e-4)


@pytest.mark.parametrize("split", [{"micro_batch_size": 1}, {"micro_batch_size": 3}, {"micro_batch_size": 5}, {"micro_batch_tokens": 40}])
def test_micro_batches_add_up(small_model: Path, tmp_path: Path, split: dict[str, int]) -> None:
    whole = gradients(prepared(build(small_model, tmp_path, micro_batch_size=64)), varied_batch(1))
    parts = gradients(prepared(build(small_model, tmp_path, **split)), varied_batch(1))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, atol=1e-6), name


def test_a_step_without_rows_leaves_the_weights(small_model: Path, tmp_path: Path) -> None:
    trainer = prepared(build(small_model, tmp_path))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    metrics = step(trainer)
    assert metrics["num_rows"] == 0
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_nan_stops(small_model: Path, tmp_path: Path) -> None:
    trainer = prepared(build(small_model, tmp_path))
    with pytest.raises(FlywheelError, match="None, not NaN"):
        step(trainer, row("a", advantage=1.0, behavior=[-1.0, math.nan, -1.0]))
    with pytest.raises(FlywheelError, match="advantage inf"):
        step(trainer, row("a", advantage=math.inf))
    trainer.model.lm_head.weight.data[8] = math.nan
    with pytest.raises(FlywheelError, match="not finite"):
        step(trainer, row("a", advantage=1.0))


def test_each_token_is_scored_once_and_no_logits_are_kept(small_model: Path, tmp_path: Path) -> None:
    """One forward a micro-batch, and nothing that is saved for the backward has a column for every word of the vocabulary."""
    trainer = prepared(build(small_model, tmp_path, micro_batch_size=4))
    num_forwards = 0
    saved: list[tuple[int, ...]] = []

    def count(*_: object) -> None:
        nonlocal num_forwards
        num_forwards += 1

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    trainer.model.model.register_forward_hook(count)
    vocabulary = trainer.model.lm_head.weight.shape[0]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.train_on(trainer.model_wrapped, varied_batch(1, size=12))
    assert num_forwards == 3
    assert saved
    assert not [shape for shape in saved if shape and shape[-1] == vocabulary]


@pytest.mark.gpu
def test_peak_memory_is_measured(small_model: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch can use no GPU")
    metrics = step(prepared(build(small_model, tmp_path, device="cuda")), row("a", advantage=1.0), row("b", advantage=-1.0))
    assert metrics["peak_memory_gb"] > 0
    assert metrics["peak_memory_mb_per_1k_tokens"] > 0
