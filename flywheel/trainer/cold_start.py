"""The supervised cold start: cross-entropy on demonstrations, so that RL begins with a policy that sometimes succeeds.

A plain loop on one device, the same for the same arguments. It writes a whole model (an adapter is folded in), so RL starts
from it as from any other folder. Shapes: B rows, T tokens, H hidden size.
"""

# ruff: noqa: N806

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from flywheel.config import ColdStartConfig, PolicyConfig
from flywheel.errors import FlywheelError
from flywheel.trainer.policy import load_policy, load_tokenizer, resolve_device, save_weights, training_dtype
from flywheel.types import Row

_POOL = 16  # batches that are sorted by length together
_MAX_GRAD_NORM = 1.0
COLD_START_FORMAT = 1  # part of the cache key: raise it when the same arguments train another model


def run_cold_start(
    model_dir: Path | str,
    rows: Sequence[Row],
    config: ColdStartConfig,
    seed: int,
    out_dir: Path,
    progress: Callable[[int, float], None],
    *,
    policy: PolicyConfig | None = None,
    device: str = "auto",
) -> Path:
    """Train on demonstrations and write the whole model to `out_dir`; return `out_dir`.

    Args:
        model_dir: Model to start from.
        rows: Demonstrations; only tokens with ``loss_mask`` 1 are trained, each with its row's weight.
        config: Steps, batch size, peak learning rate, warm-up.
        seed: Seed of the order and of an adapter.
        out_dir: Becomes a Hugging Face folder, by one rename.
        progress: Called after each step with the step (from 1) and its loss in nats a token.
        policy: Dtype and LoRA settings; full float32 training where absent.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        FlywheelError: there is nothing to train on, or the loss is not finite.
    """
    usable = [row for row in rows if any(row.loss_mask) and row.weight > 0]
    if not usable:
        raise FlywheelError(
            f"cold start: none of {len(rows)} demonstrations has a token to train on; does every generator's demonstrate() work?"
        )
    policy = policy or PolicyConfig()
    place = resolve_device(device)
    torch.manual_seed(seed)
    model = load_policy(policy, model_dir, place, training_dtype(policy, place), seed=seed)
    model.train()
    base = model.get_base_model() if policy.lora.rank > 0 else model
    backbone, head = base.base_model, base.get_output_embeddings()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    batches = _batches(usable, config.batch_size, seed)
    with _fast_matmul():
        for step in range(1, config.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate_at(step, config.warmup_steps, config.steps)
            ids_BT, targets_BT, weights_BT = (tensor.to(place) for tensor in _tensors(next(batches)))
            # Padding stands on the right, where causal attention never looks, so no attention mask is needed.
            hidden_BTH = backbone(input_ids=ids_BT, use_cache=False).last_hidden_state
            used_BT = weights_BT > 0
            logits = head(hidden_BTH[used_BT]).float()
            losses = cross_entropy(logits, targets_BT[used_BT], reduction="none", label_smoothing=config.label_smoothing)
            loss = (losses * weights_BT[used_BT]).sum() / weights_BT.sum()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, _MAX_GRAD_NORM)
            optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise FlywheelError(f"cold start: loss is {value} at step {step}; lower cold_start.learning_rate ({config.learning_rate})")
            progress(step, value)
    return save_weights(model, load_tokenizer(policy, model_dir), out_dir)


@contextmanager
def _fast_matmul() -> Iterator[None]:
    """Let float32 matrix products round their inputs to bfloat16 where the CPU is faster so; no logprob is compared here."""
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


def rate_at(step: int, warmup_steps: int, steps: int) -> float:
    """Return the learning rate of `step` (from 1) as a share of its peak: linear warm-up, then linear decay towards 0."""
    if step <= warmup_steps:
        return step / (warmup_steps + 1)
    return (steps - step + 1) / max(1, steps - warmup_steps)


def _batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """Yield batches for ever: each pass is shuffled, and rows of about one length meet in a batch."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(rows, len(rows))
        for start in range(0, len(order), size * _POOL):
            pool = sorted(order[start : start + size * _POOL], key=lambda row: len(row.prompt_ids) + len(row.completion_ids))
            batches = [pool[at : at + size] for at in range(0, len(pool), size)]
            rng.shuffle(batches)
            yield from batches


def _tensors(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs, next-token targets and their weights, all (B, T) and padded on the right."""
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    for at, row in enumerate(rows):
        start, end = len(row.prompt_ids), len(row.prompt_ids) + len(row.completion_ids)
        ids[at, :end] = torch.tensor(row.prompt_ids + row.completion_ids)
        weights[at, start:end] = torch.tensor(row.loss_mask, dtype=torch.float32) * row.weight
    return ids[:, :-1], ids[:, 1:], weights[:, 1:]
