"""Publishes new weights to the engine and checks that what it serves is what was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from flywheel.contracts import ExperienceLink, ProbeSample, WeightSync, WeightUpdate
from flywheel.errors import FlywheelError, InferenceError, RunStopped
from flywheel.trainer.grpo import FlywheelGRPOTrainer
from flywheel.trainer.live_sync import NcclPublisher, publish_ipc
from flywheel.trainer.policy import plain_state_dict, save_adapter, save_weights

T = TypeVar("T")

MIN_PROBE_TOKENS = 256
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


class WeightPublisher:
    """Publishes the policy's weights; `link` is None on every rank but 0.

    Args:
        trainer: Holds the policy.
        tokenizer: Written beside the weights.
        link: The experience service.
        folder: Two folders inside it take turns, so that the one being served is never overwritten.
        method: How weights travel.
        dtype: Dtype of served weights.
        num_workers: The engine's workers, each of which receives the weights by ``nccl``.
        makes_room: The engine sleeps on this GPU while a step is trained: memory that the step is done with is given back first.
    """

    def __init__(
        self,
        *,
        trainer: FlywheelGRPOTrainer,
        tokenizer: PreTrainedTokenizerBase,
        link: ExperienceLink | None,
        folder: Path,
        method: WeightSync,
        dtype: torch.dtype,
        num_workers: int = 1,
        makes_room: bool = False,
    ) -> None:
        self.trainer, self.tokenizer, self.link = trainer, tokenizer, link
        self.folder, self.method, self.dtype = folder, method, dtype
        self._turn = 0
        if method == "lora" and not isinstance(trainer.policy, PeftModel):
            raise FlywheelError("weight_sync is 'lora' but no adapter is trained; set policy.lora.rank, or weight_sync = 'disk'")
        device = trainer.accelerator.device
        if method in ("ipc", "nccl") and device.type != "cuda":
            raise FlywheelError(f"weight_sync is {method!r} but the trainer is on {device}; use 'disk' or 'lora'")
        self._makes_room = makes_room and device.type == "cuda"
        self._nccl = NcclPublisher(num_workers=num_workers, device=device, dtype=dtype)

    def publish(self, policy_version: str) -> None:
        """Make the engine serve the current weights; returns, on every rank, when it does.

        Raises:
            RunStopped: a stop was asked for meanwhile.
        """
        state = gathered_state(self.trainer)
        if self._makes_room:
            torch.cuda.empty_cache()
        on_rank0(self.trainer.accelerator, self.link, lambda link: self._publish(policy_version, state, link))

    def _publish(self, policy_version: str, state: dict[str, torch.Tensor] | None, link: ExperienceLink) -> None:
        policy = self.trainer.policy
        if self.method in ("ipc", "nccl"):
            whole, path = checkpoint_state(policy, state), self.folder / f"{self.method}.json"
            if self.method == "nccl":
                self._nccl.publish(whole, path, policy_version, link.publish)
            else:
                publish_ipc(whole, path, policy_version, self.trainer.accelerator.device, self.dtype, link.publish)
            return
        path = self.folder / ("even", "odd")[self._turn % 2]
        self._turn += 1
        if self.method == "lora" and isinstance(policy, PeftModel):
            save_adapter(policy, path, state=state)
        else:
            save_weights(policy, self.tokenizer, path, dtype=self.dtype, state=state)
        link.publish(WeightUpdate(policy_version=policy_version, method=self.method, path=path.resolve()))

    def probe(self) -> float:
        """Compare served and trainer logprobs on freshly sampled tokens; return the mean |Δlogp| in nats.

        Raises:
            InferenceError: too few tokens came back, or the gap is too wide.
            RunStopped: a stop was asked for meanwhile.
        """
        trainer = self.trainer
        samples = on_rank0(trainer.accelerator, self.link, lambda link: link.probe())
        if self.link is None and not is_sharded(trainer.accelerator):
            return 0.0
        gap = logprob_gap(trainer.model_wrapped if is_sharded(trainer.accelerator) else trainer.policy, samples, trainer.accelerator)
        limit = _TOLERANCE.get(self.dtype, 0.05)
        if not gap <= limit:
            raise InferenceError(
                f"the engine doesn't serve what was trained: mean |Δlogp| is {gap:.4g} nats over "
                f"{sum(len(s.completion_ids) for s in samples)} tokens, expected at most {limit} for {self.dtype}. "
                "Try engine.weight_sync = 'disk' (or 'lora' with policy.lora.rank > 0), check that the engine's dtype and "
                "tokenizer are the policy's, and that no quantisation or sampling option of the engine changes its logprobs"
            )
        return gap


def logprob_gap(model: PreTrainedModel | PeftModel | Any, samples: Sequence[ProbeSample], accelerator: Accelerator) -> float:
    """Return the mean |served - trainer| logprob over the samples' tokens, in nats.

    Args:
        model: One that the trainer scores with, so with TRL's output layer, which divides by the rollout's temperature as the engine does
            and never holds logits of the whole vocabulary for all tokens.
        samples: What the engine sampled.
        accelerator: The trainer's.

    Raises:
        InferenceError: fewer than `MIN_PROBE_TOKENS` tokens, or logprobs that don't match their tokens.
    """
    num_tokens = sum(len(sample.completion_ids) for sample in samples)
    if num_tokens < MIN_PROBE_TOKENS or any(len(s.completion_ids) != len(s.logprobs) for s in samples):
        counts = [(len(s.completion_ids), len(s.logprobs)) for s in samples]
        raise InferenceError(f"the probe gave {num_tokens} tokens, expected at least {MIN_PROBE_TOKENS} with a logprob each; got {counts}")
    longest = max(len(s.prompt_ids) + len(s.completion_ids) for s in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for at, sample in enumerate(samples):
        start, end = len(sample.prompt_ids), len(sample.prompt_ids) + len(sample.completion_ids)
        ids[at, :end] = torch.tensor(sample.prompt_ids + sample.completion_ids)
        labels[at, start:end] = ids[at, start:end]
    device = accelerator.device
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), accelerator.autocast():
            scored = model(input_ids=ids.to(device), labels=labels.to(device), fused_lm_head=True)
    finally:
        model.train(training)
    logprobs = scored.log_probs.cpu()
    total = 0.0
    for at, sample in enumerate(samples):
        start = len(sample.prompt_ids) - 1
        own = logprobs[at, start : start + len(sample.completion_ids)].double()
        total += (own - torch.tensor(sample.logprobs, dtype=torch.float64)).abs().sum().item()
    return total / num_tokens


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each rank holds only a part of the weights."""
    return str(accelerator.distributed_type).rpartition(".")[2] in ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def gathered_state(trainer: FlywheelGRPOTrainer) -> dict[str, torch.Tensor] | None:
    """Return the whole state where ranks hold shards of it (called on every rank), and None where rank 0 has it all."""
    if not is_sharded(trainer.accelerator):
        return None
    state: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state


def checkpoint_state(model: PreTrainedModel | PeftModel, state: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """Return the weights under the names, and in the pieces, of the model's checkpoints; `state` is what was gathered of it."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    named: dict[str, torch.Tensor] = revert_weight_conversion(base, plain_state_dict(model) if state is None else state)
    return named


def on_rank0(accelerator: Accelerator, link: ExperienceLink | None, call: Callable[[ExperienceLink], T]) -> T:
    """Return, on every rank, what `call` gives on rank 0, the only one that has a link.

    Raises:
        RunStopped: rank 0's call was stopped; raised on every rank, so that they can still act together.
    """
    answer: T | None = None
    stopped: RunStopped | None = None
    if link is not None:
        try:
            answer = call(link)
        except RunStopped as error:
            stopped = error
    if accelerator.num_processes > 1:
        box = [answer, stopped]
        torch.distributed.broadcast_object_list(box, src=0)
        answer, stopped = box  # type: ignore[assignment]
    if stopped is not None:
        raise stopped
    return answer  # type: ignore[return-value]
