"""What `flywheel.trainer.grpo` takes for granted about TRL's private methods: a move of the pin must pass this first."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import trl.generation.vllm_generation
from transformers import Trainer

from flywheel.config import PolicyConfig
from flywheel.trainer.grpo import SUMS
from flywheel.trainer.policy import load_policy
from flywheel.trainer.trl_lean import GRPOTrainer
from flywheel.types import Batch
from tests.trainer.helpers_trainer import build, row


def test_versions() -> None:
    assert version("trl") == "1.16.0"


def test_trl_was_imported_without_vllm() -> None:
    assert hasattr(trl.generation.vllm_generation, "VLLMGeneration")
    assert not hasattr(trl.generation.vllm_generation, "LLM")


def test_private_methods_are_where_they_were() -> None:
    source = inspect.getsource(GRPOTrainer._compute_loss)
    # The importance weights enter in the forward, so the loss must read its advantages after it.
    assert source.index("self._get_per_token_logps_and_entropies(") < source.index('advantages = inputs["advantages"]')
    assert 'inputs.get("old_per_token_logps")' in source
    assert list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)[1:5] == [
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
    ]
    assert {"model", "resume_from_checkpoint"} <= set(inspect.signature(Trainer._run_epoch).parameters)
    loop = inspect.getsource(Trainer._inner_training_loop)
    assert "self.control.should_training_stop" in loop[loop.index("self._run_epoch(") :]


def test_the_loss_takes_per_token_advantages_and_these_keys(small_model: Path, tmp_path: Path) -> None:
    trainer = build(small_model, tmp_path)
    read: set[str] = set()

    class Watched(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: str) -> object:
            read.add(key)
            return super().__getitem__(key)

    ids = torch.tensor([[5, 6], [5, 7]])
    advantages = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    inputs = Watched(
        prompt_ids=ids,
        prompt_mask=torch.ones_like(ids),
        completion_ids=ids,
        completion_mask=torch.ones_like(ids),
        tool_mask=torch.ones_like(ids),
        advantages=advantages,
        num_items_in_batch=torch.tensor(4.0),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    assert loss.item() == pytest.approx(-3.0 / 4.0)  # ratio 1: minus the sum of advantages over the token count
    assert {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch"} <= read


def test_a_cross_entropy_row_has_the_gradient_of_weighted_nll(small_model: Path, tmp_path: Path) -> None:
    trainer = build(small_model, tmp_path, ce_weight=0.5)
    batch = Batch.create(1, (row("a", kind="ce", weight=2.0), row("b", kind="ce", completion=(11, 12), mask=(0, 1))))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._sums = {name: torch.zeros(()) for name in SUMS}
    (part,) = trainer._split(batch)
    torch.autograd.backward(trainer._compute_loss(trainer.model, trainer._prepare_inputs(part)))
    got = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}

    plain = load_policy(PolicyConfig(), small_model, torch.device("cpu"), torch.float32)
    first = torch.log_softmax(plain(torch.tensor([[5, 6, 7, 8, 9, 10]])).logits[0], dim=-1)
    second = torch.log_softmax(plain(torch.tensor([[5, 6, 7, 11, 12]])).logits[0], dim=-1)
    nll = -2.0 * (first[2, 8] + first[3, 9] + first[4, 10]) - second[3, 12]
    torch.autograd.backward(0.5 * nll / 4)
    for name, weight in plain.named_parameters():
        assert torch.allclose(got[name], weight.grad, atol=2e-6), name
