"""GRPO on batches that the experience service hands out: TRL's `GRPOTrainer` as the optimiser, without its generation.

The loss is ``L = Σ_GRPO / N + λ · Σ_CE / T_CE`` (arXiv:2402.03300 eq. 3 with the token-level normaliser N = T_GRPO of
arXiv:2503.14476 eq. 8, or the constant N of arXiv:2503.20783). Deviations: each GRPO token, those of replayed successes among them,
is weighted by the truncated ratio ``min(exp(trainer - behaviour), cap)`` where behaviour logprobs exist; a cross-entropy row is a
GRPO row whose advantage is its weight, because at ratio 1 the two gradients are equal. λ is at most ``trainer.ce_weight``, itself at
most 1, and follows ``trainer.ce_schedule``. One optimiser step a batch, so old logprobs are the current ones, taken from the training
forward itself.

It rests on private methods of ``trl==1.16.0`` and of the Hugging Face trainer; tests/trainer/test_trl_contract.py holds them.
Shapes: B rows, P prompt tokens, T completion tokens.
"""

# ruff: noqa: N803, N806

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer

from flywheel.errors import FlywheelError
from flywheel.trainer.collate import MicroBatch, micro_batches, padding_share, plan, row_lengths
from flywheel.trainer.peak_memory import PeakMemory
from flywheel.trainer.policy import quiet_progress
from flywheel.trainer.trl_lean import GRPOConfig, GRPOTrainer
from flywheel.types import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """What the loss needs beyond TRL's own arguments. `constant_normaliser` replaces T_GRPO (Dr. GRPO)."""

    micro_batch_size: int
    micro_batch_tokens: int | None = None
    importance_cap: float = 2.0
    ce_weight: float = 1.0
    ce_schedule: Literal["constant", "linear", "cosine"] = "constant"
    num_steps: int = 1
    constant_normaliser: float | None = None

    def ce_weight_at(self, step: int) -> float:
        """Return λ of a step (from 1): at most `ce_weight`, which it is at the first one, and 0 after the last one."""
        progress = min(1.0, (step - 1) / self.num_steps)
        factors = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        return self.ce_weight * factors[self.ce_schedule]


# Sums over tokens of one optimiser step, over all ranks, in this order.
SUMS = ("trl_loss", "ce_objective", "ce_nll", "num_grpo", "entropy", "num_ratios", "ratio", "truncated", "kl", "clipped", "num_tokens")


class _Alone:
    """An accelerator whose rank speaks for itself.

    TRL gathers figures of each micro-batch over the ranks, row by row. Nobody reads them here, each would cost a collective, and ranks
    whose micro-batches differ in their number of rows would not even agree on its size.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def reduce(self, tensor: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        return tensor


class FlywheelGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains on what `next_batch` returns and calls `step_done` after each step.

    Args:
        model: The policy, without an adapter.
        tokenizer: Its tokenizer.
        args: `flywheel.trainer.arguments.grpo_config` makes them.
        settings: The loss.
        next_batch: Returns the global batch of a step; called on every rank.
        step_done: Called on every rank with (step, metrics); True ends training.
        lora: Wraps the policy in an adapter.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        args: GRPOConfig,
        settings: LossSettings,
        next_batch: Callable[[int], Batch],
        step_done: Callable[[int, dict[str, float]], bool],
        lora: LoraConfig | None = None,
    ) -> None:
        super().__init__(
            model=model,
            reward_funcs=_no_reward,
            args=args,
            # Only a clock: its length makes one epoch of the whole run.
            train_dataset=Dataset.from_dict({"prompt": [""] * args.max_steps * args.generation_batch_size}),
            processing_class=tokenizer,
            peft_config=lora,
        )
        self.remove_callback(PrinterCallback)  # the run has its own display
        self.settings = settings
        self.next_batch = next_batch
        self.step_done = step_done
        self._normaliser = 1.0
        self._open: dict[str, Any] | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._ratio_max = torch.zeros(())
        self._padding_share = 0.0

    # ------------------------------------------------------------ the loop

    def _run_epoch(self, *, model: Any, resume_from_checkpoint: str | None, **_: Any) -> None:
        """Run the steps that remain: the number of micro-batches follows each batch, which the base loop can't do."""
        if resume_from_checkpoint is not None:
            self._load_rng_state(resume_from_checkpoint)
        self.current_gradient_accumulation_steps = 1  # losses are normalised over the whole batch: micro-batches add up
        while self.state.global_step < self.state.max_steps:
            step = self.state.global_step + 1
            batch = self.next_batch(step)
            metrics = self.train_on(model, batch)
            self.state.global_step = step
            if self.step_done(step, metrics):
                break
        self.control.should_training_stop = True

    def train_on(self, model: Any, batch: Batch) -> dict[str, float]:
        """Take one optimiser step on a global batch and return its figures; a batch without rows moves only the schedule."""
        start = time.perf_counter()
        memory = PeakMemory(self.accelerator.device)
        learning_rate = float(self._get_learning_rate())
        grad_norm = 0.0
        parts = self._split(batch)
        if parts:
            self._sums = {name: torch.zeros((), device=self.accelerator.device) for name in SUMS}
            self._ratio_max = torch.zeros((), device=self.accelerator.device)
            for at, part in enumerate(parts):
                last = at == len(parts) - 1
                self.accelerator.gradient_state._set_sync_gradients(last)
                # A rank that holds shards would have to keep whole gradients until the last part.
                whole = last or self.accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
                with nullcontext() if whole else self.accelerator.no_sync(model=model):
                    self._sums["trl_loss"] += self.training_step(model, part, None)
            norm = self._get_grad_norm(model, grad_norm=self._clip_grad_norm(model))
            grad_norm = float(norm)
            if not math.isfinite(grad_norm):
                raise FlywheelError(
                    f"gradient norm is {grad_norm} at step {batch.step}; lower trainer.learning_rate or look at the batch's rows"
                )
            self.optimizer.step()
            model.zero_grad()
        with warnings.catch_warnings():
            if not parts:  # torch warns of a schedule that moves before the optimiser, which is what is meant
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.lr_scheduler.step()
        metrics = self._figures(batch) if parts else {"num_rows": 0.0, "num_tokens": 0.0}
        metrics |= memory.figures(max((part.num_tokens for part in parts), default=0))
        elapsed = time.perf_counter() - start
        num_tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in batch.rows)
        return metrics | {
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "train_s": elapsed,
            "train_tokens_per_s": num_tokens / elapsed,
        }

    def _split(self, batch: Batch) -> list[MicroBatch]:
        settings = self.settings
        self._normaliser = settings.constant_normaliser or float(max(1, batch.num_grpo_tokens))
        lengths, ranks = row_lengths(batch), self.accelerator.num_processes
        planned = plan(lengths, settings.micro_batch_size, ranks, settings.micro_batch_tokens)
        self._padding_share = padding_share(lengths, planned)
        return micro_batches(
            batch,
            planned[self.accelerator.process_index],
            ce_scale=settings.ce_weight_at(batch.step) * self._normaliser / max(1, batch.num_ce_tokens),
        )

    # ------------------------------------------------------------ one micro-batch

    def _prepare_inputs(self, generation_batch: MicroBatch) -> dict[str, Any]:
        """Return what TRL's loss reads, and what `_weigh` reads beside it."""
        part, device = generation_batch, self.accelerator.device
        prompt_ids_BP, completion_ids_BT = part.prompt_ids_BP.to(device), part.completion_ids_BT.to(device)
        loss_mask_BT = part.loss_mask_BT.to(device)
        inputs: dict[str, Any] = {
            "prompt_ids": prompt_ids_BP,
            "prompt_mask": torch.ones_like(prompt_ids_BP),
            "completion_ids": completion_ids_BT,
            # Ones over right padding, too: causal attention never looks there, and without a mask it takes the fast path.
            "completion_mask": torch.ones_like(completion_ids_BT),
            "tool_mask": loss_mask_BT,
            "advantages": part.scales_B.to(device).unsqueeze(1).expand(loss_mask_BT.shape),
            "num_items_in_batch": torch.tensor(self._normaliser, device=device),
            "behavior_logprobs": part.behavior_logprobs_BT.to(device),
            "has_behavior": part.has_behavior_B.to(device).unsqueeze(1),
            "is_ce": part.is_ce_B.to(device).unsqueeze(1),
        }
        if self.beta != 0.0:
            inputs["ref_per_token_logps"] = self._reference_logprobs(inputs)
        return inputs

    @torch.no_grad()
    def _reference_logprobs(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the reference policy's logprobs: a second model, or this one with its adapter off."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        keep = inputs["completion_ids"].size(1)
        if self.ref_model is not None:
            logprobs, _, _ = self._get_per_token_logps_and_entropies(self.ref_model, ids, torch.ones_like(ids), keep)
        else:
            with self.accelerator.unwrap_model(self.model).disable_adapter():
                logprobs, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, torch.ones_like(ids), keep)
        reference: torch.Tensor = logprobs
        return reference

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._open = inputs
        accelerator: Any = self.accelerator
        self.accelerator: Any = _Alone(accelerator)
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs)
        finally:
            self._open, self.accelerator = None, accelerator
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        """Score as TRL does; in the training forward, settle the importance weights before the loss reads its advantages."""
        scored = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        if self._open is not None:
            self._weigh(self._open, scored[0].detach(), scored[1].detach())
        return scored

    @torch.no_grad()
    def _weigh(self, inputs: dict[str, Any], logprobs_BT: torch.Tensor, entropies_BT: torch.Tensor) -> None:
        """Put the truncated importance weights into ``advantages`` and add to the step's sums."""
        mask_BT, is_ce = inputs["tool_mask"].bool(), inputs["is_ce"]
        old_BT = inputs.get("old_per_token_logps", logprobs_BT)
        corrected_BT = mask_BT & inputs["has_behavior"]
        ratios_BT = torch.exp(torch.where(corrected_BT, old_BT - inputs["behavior_logprobs"], 0.0))
        if not bool(torch.isfinite(logprobs_BT[mask_BT]).all()) or bool(ratios_BT.isnan().any()):
            raise FlywheelError(
                f"a trainer or behaviour logprob is not finite at step {self.state.global_step + 1}; the last update broke the policy "
                "(lower trainer.learning_rate) or the engine gave bad logprobs"
            )
        objective_BT = inputs["advantages"]
        inputs["advantages"] = objective_BT * ratios_BT.clamp(max=self.settings.importance_cap)
        grpo_BT, ce_BT = mask_BT & ~is_ce, mask_BT & is_ce
        sums = self._sums
        sums["ce_objective"] += objective_BT[ce_BT].sum()
        sums["ce_nll"] -= (objective_BT * logprobs_BT)[ce_BT].sum()
        sums["num_grpo"] += grpo_BT.sum()
        sums["num_tokens"] += mask_BT.sum()
        sums["entropy"] += entropies_BT[grpo_BT].sum()
        sums["num_ratios"] += corrected_BT.sum()
        sums["ratio"] += ratios_BT[corrected_BT].sum()
        sums["truncated"] += (ratios_BT[corrected_BT] > self.settings.importance_cap).sum()
        if "ref_per_token_logps" in inputs:
            # A cross-entropy row is not held to the reference: there the penalty and its gradient are 0.
            reference_BT = torch.where(is_ce, logprobs_BT, inputs["ref_per_token_logps"])
            inputs["ref_per_token_logps"] = reference_BT
            gap_BT = reference_BT - logprobs_BT
            sums["kl"] += (torch.exp(gap_BT) - gap_BT - 1)[grpo_BT].sum()
        moved_BT = torch.exp(logprobs_BT - old_BT)
        high_BT = (moved_BT > 1 + self.epsilon_high) & (objective_BT > 0)
        low_BT = (moved_BT < 1 - self.epsilon_low) & (objective_BT < 0)
        sums["clipped"] += ((high_BT | low_BT) & grpo_BT).sum()
        if bool(corrected_BT.any()):
            self._ratio_max = torch.maximum(self._ratio_max, ratios_BT[corrected_BT].max())

    def _figures(self, batch: Batch) -> dict[str, float]:
        """Return the step's figures over all ranks."""
        vector = torch.stack([self._sums[name].float() for name in SUMS])
        total = dict(zip(SUMS, self.accelerator.reduce(vector, reduction="sum").tolist(), strict=True))
        highest = self.accelerator.gather(self._ratio_max.reshape(1)).max().item()
        self._metrics["train"].clear()  # TRL's own, which weigh every micro-batch alike
        # TRL's loss of a cross-entropy row is its weight, not its negative log-likelihood.
        grpo_loss = total["trl_loss"] / self.accelerator.num_processes + total["ce_objective"] / self._normaliser
        ce_loss = total["ce_nll"] / self._normaliser
        figures = {
            "num_rows": float(len(batch.rows)),
            "num_tokens": total["num_tokens"],
            "padding_share": self._padding_share,
            "loss": grpo_loss + ce_loss,
            "grpo_loss": grpo_loss,
        }
        if total["num_grpo"] > 0:
            figures["entropy"] = total["entropy"] / total["num_grpo"]
            figures["clip_share"] = total["clipped"] / total["num_grpo"]
        ce_weight = self.settings.ce_weight_at(batch.step)
        if batch.num_ce_tokens and ce_weight > 0:
            figures |= {"ce_nll": ce_loss / ce_weight, "ce_weight": ce_weight}
        if self.beta != 0.0:
            figures["kl"] = total["kl"] / max(1.0, total["num_grpo"])
        if total["num_ratios"] > 0:
            figures["importance_ratio_mean"] = total["ratio"] / total["num_ratios"]
            figures["importance_ratio_max"] = highest
            figures["importance_truncated_share"] = total["truncated"] / total["num_ratios"]
        return figures

    # ------------------------------------------------------------ checkpoints

    def write_checkpoint(self, folder: Path) -> None:
        """Write weights, optimiser, schedule, RNG and trainer state to `folder/checkpoint-STEP`; called on every rank."""
        self.accelerator.wait_for_everyone()  # rank 0 has just emptied the folder
        self.args.output_dir = str(folder)
        # Past TRL's override, which writes a model card first.
        with quiet_progress():
            Trainer._save_checkpoint(self, self.model_wrapped, None)
            if self.accelerator.is_fsdp2:
                state = self.accelerator.get_state_dict(self.model_wrapped)
                if self.accelerator.is_main_process:
                    self._save(str(folder / f"checkpoint-{self.state.global_step}"), state_dict=state)
        self.accelerator.wait_for_everyone()

    @property
    def policy(self) -> PreTrainedModel | PeftModel:
        """The model that trains, unwrapped."""
        unwrapped: PreTrainedModel | PeftModel = self.accelerator.unwrap_model(self.model)
        return unwrapped


def _no_reward(**_: Any) -> list[float]:
    return [0.0]
