"""Translates a recipe into TRL's arguments. Nothing that TRL would do by itself (generate, log, save, evaluate) is left on."""

from __future__ import annotations

from pathlib import Path

import torch

from flywheel.config import Recipe
from flywheel.trainer.grpo import LossSettings
from flywheel.trainer.policy import use_bf16
from flywheel.trainer.trl_lean import GRPOConfig

# Each rank writes its own shards of a checkpoint; the whole model is written beside them for whoever loads it.
_FSDP2 = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "SHARDED_STATE_DICT"}


def grpo_config(recipe: Recipe, output_dir: Path, device: torch.device) -> GRPOConfig:
    """Return the arguments of `FlywheelGRPOTrainer`."""
    trainer = recipe.trainer
    sharded = trainer.sharding == "fsdp2"
    arguments = GRPOConfig(
        output_dir=str(output_dir),
        use_cpu=device.type == "cpu",
        bf16=use_bf16(trainer, device),
        seed=recipe.run.seed,
        max_steps=recipe.run.steps,
        learning_rate=trainer.learning_rate,
        lr_scheduler_type="constant_with_warmup" if trainer.lr_schedule == "constant" else trainer.lr_schedule,
        warmup_steps=trainer.warmup_steps,
        weight_decay=trainer.weight_decay,
        adam_beta2=trainer.adam_beta2,
        max_grad_norm=trainer.max_grad_norm,
        # FSDP2 has its own, which spares a gathering of the weights in the backward pass.
        gradient_checkpointing=trainer.gradient_checkpointing and not sharded,
        fsdp=sharded or None,
        fsdp_config=_FSDP2 | {"activation_checkpointing": trainer.gradient_checkpointing} if sharded else None,
        # The loss is always TRL's token-normalised form; which normaliser, the batch says (see `loss_settings`).
        loss_type="dapo",
        epsilon=trainer.clip_low,
        epsilon_high=trainer.clip_high,
        beta=trainer.kl_beta,
        temperature=recipe.rollout.temperature,
        num_iterations=1,
        router_aux_loss_coef=0.0,
        model_init_kwargs=None if recipe.policy.revision is None else {"revision": recipe.policy.revision},
        trust_remote_code=recipe.policy.trust_remote_code,
        # Sizes of a generation that never happens: the smallest that TRL accepts.
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_generations=2,
        ignore_data_skip=True,
        remove_unused_columns=False,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
    )
    if sharded and arguments.bf16:
        # Left to itself accelerate rounds what leaves the model to bfloat16, too: the logprobs that importance ratios are made of.
        policy = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "output_dtype": torch.float32}
        arguments.fsdp_plugin_args["mixed_precision_policy"] = policy
    if arguments.n_gpu > 1:
        # One process trains on one GPU (the others may be the engine's); transformers would spread it over all that it sees.
        arguments._n_gpu = 1
    return arguments


def loss_settings(recipe: Recipe) -> LossSettings:
    """Return the loss's settings; unless the recipe says it, Dr. GRPO's constant is the most tokens that a step's rollouts could have."""
    rollout, trainer = recipe.rollout, recipe.trainer
    constant = trainer.token_budget or rollout.groups_per_step * rollout.group_size * rollout.max_tokens_per_episode
    return LossSettings(
        micro_batch_size=trainer.micro_batch_size,
        micro_batch_tokens=trainer.micro_batch_tokens,
        importance_cap=trainer.importance_cap,
        ce_weight=trainer.ce_weight,
        ce_schedule=trainer.ce_schedule,
        num_steps=recipe.run.steps,
        constant_normaliser=float(constant) if trainer.loss_type == "dr_grpo" else None,
    )
