"""What a recipe needs of each GPU's memory, estimated before anything starts; shown by ``--dry-run``, and refused where it can't fit.

An estimate from the model's configuration, the recipe and published accounting of training memory (arXiv:1910.02054 section 3,
arXiv:2205.05198): weights, gradients, Adam's two moments, what the backward pass keeps of a micro-batch, and the engine's share. It
knows nothing of fragmentation, for which `CONTEXT` stands. Sizes are in bytes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flywheel.config import Recipe
from flywheel.inference.devices import place, utilization
from flywheel.model_shape import ModelShape, read_shape

GB = 10**9
CONTEXT = int(1.5 * GB)  # CUDA's context, libraries, fragments
ASLEEP = 1 * GB  # what is left of an engine that sleeps
ENGINE_WORK = 2 * GB  # an engine's own activations and CUDA graphs
_TILE = 4096 * 32768  # logits that TRL's output layer has at once


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Estimates for one GPU of each kind.

    Attributes:
        trainer: What a trainer's GPU holds during a step.
        between: What of it stays between steps, and where weights go by CUDA IPC, their copy on its way.
        engine: What an engine's GPU holds: its share is a limit, and what the weights leave of it is cache. None where no engine of the
            run's own serves, or no memory is known.
        cached_tokens: Tokens that fit into the cache of one copy of the served weights.
        sequence: Longest sequence.
        shared: The trainer and the engine are on one GPU.
    """

    trainer: Mapping[str, int]
    between: int
    engine: Mapping[str, int] | None
    cached_tokens: int | None
    sequence: int
    shared: bool


def plan_memory(recipe: Recipe, shape: ModelShape, gpu_memory: int | None, *, shared: bool) -> MemoryPlan:
    """Return the estimates.

    Args:
        recipe: The resolved recipe.
        shape: Its model's.
        gpu_memory: Bytes of each GPU, where known.
        shared: The trainer and the engine are on one GPU.
    """
    sequence = min(filter(None, (recipe.engine.max_model_len, shape.context)), default=4096)
    kept = _kept(recipe, shape)
    trainer = {**kept, **_step(recipe, shape, sequence)}
    engine: dict[str, int] | None = None
    tokens: int | None = None
    if gpu_memory is not None and recipe.engine.url is None:
        share = int(utilization(recipe, shared=shared) * gpu_memory)
        weights = 2 * shape.parameters // recipe.placement.tensor_parallel
        cache = share - weights - ENGINE_WORK
        engine = {"weights (bfloat16)": weights, "activations and graphs": ENGINE_WORK, "key-value cache": max(0, cache)}
        tokens = max(0, cache) * recipe.placement.tensor_parallel // (2 * shape.cached)
    return MemoryPlan(trainer=trainer, between=sum(kept.values()), engine=engine, cached_tokens=tokens, sequence=sequence, shared=shared)


def _kept(recipe: Recipe, shape: ModelShape) -> dict[str, int]:
    """What stays on a trainer's GPU from step to step."""
    lora = recipe.policy.lora.rank
    trained = shape.adapter(lora) if lora else shape.parameters
    held, updated = _bytes(recipe)
    shards = recipe.trainer.num_processes if recipe.trainer.sharding == "fsdp2" else 1
    return {
        "CUDA's own": CONTEXT,
        "weights": (shape.parameters * held + (trained * updated if lora else 0)) // shards,
        "Adam's moments": 2 * trained * updated // shards,
    }


def _step(recipe: Recipe, shape: ModelShape, sequence: int) -> dict[str, int]:
    """What comes on top during a step."""
    trainer, lora = recipe.trainer, recipe.policy.lora.rank
    held, updated = _bytes(recipe)
    trained = shape.adapter(lora) if lora else shape.parameters
    sharded = trainer.sharding == "fsdp2"
    gradients = trained * updated // (trainer.num_processes if sharded else 1)
    if trainer.num_processes > 1 and not sharded:
        gradients *= 2  # and the buckets in which ranks average them
    tokens = max(sequence, trainer.micro_batch_tokens) if trainer.micro_batch_tokens else trainer.micro_batch_size * sequence
    bf16 = trainer.bf16 is not False
    # Under autocast norms and the residual stream stay in the weights' dtype; what linear layers keep is bfloat16.
    layer = tokens * (shape.saved * (2 if bf16 else 4) + (8 * shape.hidden if bf16 and held == 4 else 0))
    inputs = tokens * shape.layers * shape.hidden * held
    # Autocast's copies of the weights live as long as what the backward pass keeps; gathered shards, for two layers.
    copies = 2 * shape.parameters if bf16 and held == 4 and not sharded else 0
    if trainer.gradient_checkpointing:
        copies //= shape.layers
    if sharded:
        copies = 2 * (2 * shape.layer + 2 * shape.embedding)
    return {
        "gradients": gradients,
        "weights in bfloat16, or gathered": copies,
        f"activations of {tokens:,} tokens{', checkpointed' if trainer.gradient_checkpointing else ''}": (
            inputs + layer if trainer.gradient_checkpointing else shape.layers * layer
        ),
        "logits, by tiles": 2 * _TILE * (2 if bf16 else 4),
    }


def _bytes(recipe: Recipe) -> tuple[int, int]:
    """Bytes of a held weight and of a trained one (`flywheel.trainer.policy.training_dtype`; peft keeps adapters in float32)."""
    lora = recipe.policy.lora.rank > 0
    held = {"auto": 2 if lora else 4, "bfloat16": 2, "float32": 4}[recipe.policy.dtype]
    return held, 4 if lora else held


def misfits(recipe: Recipe, plan: MemoryPlan, gpu_memory: int) -> Iterator[str]:
    """Yield what can't fit, each with what to do."""
    trainer, engine = sum(plan.trainer.values()), plan.engine or {}
    level = recipe.placement.sleep_level
    share = int(utilization(recipe, shared=plan.shared) * gpu_memory)
    smaller = "lower trainer.micro_batch_tokens or engine.max_model_len, or set trainer.gradient_checkpointing = true"
    fewer = "train an adapter (policy.lora.rank), or shard over more GPUs (trainer.sharding = 'fsdp2')"
    if not plan.shared and trainer > gpu_memory:
        yield f"the trainer needs about {trainer / GB:.1f} GB of each GPU, which has {gpu_memory / GB:.1f}: {smaller}; or {fewer}"
    if plan.shared:
        stepping = trainer + (ASLEEP if level else share)
        if stepping > gpu_memory:
            sleep = "" if level else "set placement.sleep_level (with rollout.max_staleness = 0), "
            yield (
                f"trainer ({trainer / GB:.1f} GB in a step) and engine ({(ASLEEP if level else share) / GB:.1f} GB meanwhile) need more "
                f"than the {gpu_memory / GB:.1f} GB of the GPU that they share: {sleep}lower placement.gpu_memory_utilization; {smaller}; "
                f"or {fewer}"
            )
        serving = plan.between + share
        if level and serving > gpu_memory:
            yield (
                f"between steps the trainer keeps {plan.between / GB:.1f} GB and the engine takes {share / GB:.1f} GB, more than the "
                f"{gpu_memory / GB:.1f} GB of the GPU that they share: lower placement.gpu_memory_utilization; or {fewer}"
            )
    if plan.cached_tokens is not None and plan.cached_tokens < plan.sequence:
        yield (
            f"the engine's {share / GB:.1f} GB leave {engine['key-value cache'] / GB:.1f} GB beside its weights, a cache for "
            f"{plan.cached_tokens:,} tokens, and one sequence may have {plan.sequence:,}: raise placement.gpu_memory_utilization or "
            "placement.tensor_parallel, or lower engine.max_model_len"
        )


def gpu_memory_bytes(recipe: Recipe) -> int | None:
    """Return the memory of each GPU, as the recipe or else the driver says; of GPUs that differ, the smallest's."""
    if recipe.placement.gpu_memory_gb is not None:
        return int(recipe.placement.gpu_memory_gb * GB)
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return min((int(mib) * 2**20 for mib in told if mib.isdigit()), default=None)


def memory_problems(recipe: Recipe) -> list[str]:
    """Return what of a recipe can't fit on its GPUs, as far as it can be told without asking a hub."""
    memory = gpu_memory_bytes(recipe)
    shape = read_shape(recipe.policy) if memory is not None and recipe.trainer.device != "cpu" else ""
    if memory is None or isinstance(shape, str):
        return []
    return list(misfits(recipe, plan_memory(recipe, shape, memory, shared=_shared(recipe)), memory))


def memory_report(recipe: Recipe, *, gpus_elsewhere: bool = False) -> tuple[list[str], list[str]]:
    """Return lines for a person, and what can't fit. The model's configuration is asked of the hub where it is not here.

    Args:
        recipe: The resolved recipe.
        gpus_elsewhere: Its GPUs are another machine's, as many as it asks for.
    """
    if recipe.trainer.device == "cpu":
        return ["memory: trainer.device is 'cpu', so there is no GPU to fill"], []
    shape = read_shape(recipe.policy, fetch=True)
    memory = gpu_memory_bytes(recipe)
    lines = []
    if memory is None:
        lines.append("memory: no GPU here says how much it has, so nothing was checked against it; give --placement.gpu_memory_gb")
    if memory is None and recipe.policy.model == "tiny":
        return lines, []
    if isinstance(shape, str):
        return [*lines, f"memory: not estimated, for {shape}"], []
    plan = plan_memory(recipe, shape, memory, shared=_shares(recipe) if gpus_elsewhere else _shared(recipe))
    lines.append(f"memory, estimated for {shape.parameters / GB:.2f} billion parameters (GB on each GPU):")
    lines += [f"  trainer   {size / GB:8.2f}  {name}" for name, size in plan.trainer.items()]
    lines.append(f"  trainer   {sum(plan.trainer.values()) / GB:8.2f}  in a step, {plan.between / GB:.2f} between steps")
    if plan.engine is not None:
        lines += [f"  engine    {size / GB:8.2f}  {name}" for name, size in plan.engine.items()]
        lines.append(
            f"  engine: the cache of each copy of the weights ({recipe.placement.data_parallel}) holds {plan.cached_tokens:,} tokens"
        )
    lines.append(f"  trainer and engine are on {'the same' if plan.shared else 'different'} GPUs, {recipe.trainer.num_processes} train")
    return lines, [] if memory is None else list(misfits(recipe, plan, memory))


def _shared(recipe: Recipe) -> bool:
    """Whether trainer and engine share GPUs of this machine."""
    places = place(recipe)
    return places.shared and recipe.engine.url is None if places.trainer else _shares(recipe)


def _shares(recipe: Recipe) -> bool:
    """Whether they share GPUs where there are enough of them."""
    placement = recipe.placement
    if placement.trainer_gpus and placement.engine_gpus:
        return bool(set(placement.trainer_gpus) & set(placement.engine_gpus))
    return placement.sleep_level > 0 or recipe.engine.weight_sync == "ipc"
