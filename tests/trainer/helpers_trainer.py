"""A tiny policy of a few thousand weights, and a link that plays a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from flywheel.config import PolicyConfig, Recipe, TinyConfig
from flywheel.contracts import ProbeSample, StepReport, WeightUpdate
from flywheel.errors import RunStopped
from flywheel.trainer.arguments import grpo_config, loss_settings
from flywheel.trainer.grpo import FlywheelGRPOTrainer
from flywheel.trainer.policy import load_policy, load_tokenizer, resolve_device
from flywheel.types import Batch, Row

SMALL = TinyConfig(
    hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, intermediate_size=48, vocab_size=300, max_context=128
)


def row(
    name: str,
    *,
    prompt: Sequence[int] = (5, 6, 7),
    completion: Sequence[int] = (8, 9, 10),
    mask: Sequence[int] | None = None,
    behavior: Sequence[float] | None = None,
    advantage: float = 0.0,
    kind: str = "grpo",
    weight: float = 1.0,
) -> Row:
    return Row(
        experience_id=name,
        kind=kind,  # type: ignore[arg-type]
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        loss_mask=tuple(mask or (1,) * len(completion)),
        behavior_logprobs=None if behavior is None else tuple(behavior),
        advantage=advantage,
        weight=weight,
    )


def varied_batch(step: int, size: int = 12, seed: int = 0) -> Batch:
    """Rows of different lengths, prompts and kinds, with observations inside completions."""
    generator = torch.Generator().manual_seed(seed * 1000 + step)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 250, (length,), generator=generator).tolist()

    rows = []
    for at in range(size):
        completion = ids(4, 12)
        mask = [1, 1, 0, *[1] * (len(completion) - 3)]
        rows.append(
            row(
                f"{step}-{at}",
                prompt=ids(2, 9),
                completion=completion,
                mask=mask,
                behavior=None if at % 4 == 0 else [-5.5] * len(completion),
                advantage=1.0 if at % 2 else -0.7,
                kind="ce" if at % 5 == 0 else "grpo",
                weight=0.5 if at == 5 else 1.0,
            )
        )
    return Batch.create(step, tuple(rows))


def tiny_recipe(steps: int = 2, **trainer: object) -> Recipe:
    settings = {"learning_rate": 1e-2, "micro_batch_size": 4, "device": "cpu", **trainer}
    return Recipe.model_validate(
        {"environments": {"x": {}}, "run": {"steps": steps, "checkpoint_every": 2, "keep_checkpoints": 2}, "trainer": settings}
    )


def build(small_model: Path, tmp_path: Path, **trainer: Any) -> FlywheelGRPOTrainer:
    recipe = tiny_recipe(**trainer)
    device = resolve_device(recipe.trainer.device)
    return FlywheelGRPOTrainer(
        model=load_policy(PolicyConfig(), small_model, device, torch.float32),
        tokenizer=load_tokenizer(PolicyConfig(), small_model),
        args=grpo_config(recipe, tmp_path, device),
        settings=loss_settings(recipe),
        next_batch=lambda step: Batch.create(step, ()),
        step_done=lambda step, metrics: True,
    )


@dataclass
class ScriptedLink:
    """Hands out `make_batch(step)` and serves the published folder through transformers."""

    make_batch: Callable[[int], Batch] = varied_batch
    stop_after: int | None = None
    stop_in: tuple[str, int] | None = None  # a call, and the step whose weights it is about
    corrupt: bool = False
    base: Path | None = None
    reports: list[StepReport] = field(default_factory=list)
    updates: list[WeightUpdate] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def next_batch(self, step: int) -> Batch:
        self.asked.append(step)
        return self.make_batch(step)

    def publish(self, update: WeightUpdate) -> None:
        self.updates.append(update)
        self._stop_if("publish")

    def _stop_if(self, call: str) -> None:
        if self.stop_in == (call, len(self.updates) - 1):
            raise RunStopped("stop requested")

    def probe(self) -> list[ProbeSample]:
        self._stop_if("probe")
        path = self.updates[-1].path
        assert path is not None
        if self.updates[-1].method == "lora":
            return served_samples(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.base), path))
        model = AutoModelForCausalLM.from_pretrained(path)
        if self.corrupt and len(self.updates) > 1:
            model.model.layers[0].mlp.down_proj.weight.data.mul_(1.5)
        return served_samples(model)

    def step_committed(self, report: StepReport) -> None:
        self.reports.append(report)

    def should_stop(self) -> bool:
        return self.stop_after is not None and len(self.reports) + 1 >= self.stop_after


def served_samples(model: Any) -> list[ProbeSample]:
    """What an engine would answer that serves the model: 9 samples of 32 tokens."""
    ids = torch.randint(3, 250, (9, 36), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[:, :-1], dim=-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    return [
        ProbeSample(prompt_ids=tuple(line[:4]), completion_ids=tuple(line[4:]), logprobs=tuple(scores[3:]))
        for line, scores in zip(ids.tolist(), logprobs.tolist(), strict=True)
    ]
