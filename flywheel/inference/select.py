"""Which engine serves, how weights reach it, and its construction.

Every engine class has one constructor shape, and every method of it is called from one event loop::

    Engine(recipe: Recipe, model_dir: str | Path, log_dir: Path, weight_sync: WeightSync)

`model_dir` is a folder (or a hub id) of the weights to start with; until the first `update_weights` its policy version is
``initial``. `log_dir` is the run's folder for logs. `weight_sync` is the method of every `WeightUpdate` to come.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from flywheel.config import Recipe
from flywheel.contracts import Engine, WeightSync
from flywheel.errors import ConfigError
from flywheel.inference.devices import Places, visible_gpus
from flywheel.registry import resolve


def select_engine(recipe: Recipe) -> tuple[str, str]:
    """Return the engine's name and the reason for it, in words."""
    kind = recipe.engine.kind
    if kind != "auto":
        return kind, f"engine.kind is {kind!r}"
    if recipe.engine.url is not None:
        return "vllm", "engine.url names a vLLM server"
    if find_spec("vllm") is not None:
        return "vllm", "vLLM is installed"
    return "transformers", "vLLM is not installed"


def choose_weight_sync(recipe: Recipe, places: Places) -> WeightSync:
    """Return how new weights reach the engine.

    Args:
        recipe: The run's; ``engine.weight_sync`` other than ``auto`` is taken where it can work.
        places: Which GPUs train and which serve.

    Raises:
        ConfigError: the method asked for can't work here.
    """
    asked, name = recipe.engine.weight_sync, select_engine(recipe)[0]
    live = name == "vllm" and recipe.engine.url is None and serves_on_gpu(recipe)
    if asked == "auto":
        if recipe.policy.lora.rank > 0:
            return "lora"
        if not live or (places.shared and not places.one_device):
            return "disk"
        return "ipc" if places.shared else "nccl"
    if asked == "lora" and recipe.policy.lora.rank == 0:
        raise ConfigError("engine.weight_sync is 'lora' but policy.lora.rank is 0: train an adapter, or use 'auto'")
    if asked in ("disk", "ipc", "nccl") and recipe.policy.lora.rank > 0 and asked != "disk":
        raise ConfigError(f"engine.weight_sync is {asked!r} but an adapter is trained (policy.lora.rank > 0): use 'lora' or 'auto'")
    if asked in ("ipc", "nccl") and not live:
        raise ConfigError(f"engine.weight_sync is {asked!r}, which needs a vLLM server of the run's own on a GPU: use 'disk' or 'auto'")
    if asked == "ipc" and not places.one_device:
        raise ConfigError(
            "engine.weight_sync is 'ipc', which reaches one GPU, that of trainer rank 0, but the trainer is on "
            f"{', '.join(places.trainer)} and the engine on {', '.join(places.engine)}: use 'auto'"
        )
    if asked == "nccl" and places.shared:
        raise ConfigError(
            "engine.weight_sync is 'nccl', which refuses two ranks on one device, and there are too few GPUs for "
            f"{recipe.trainer.num_processes} of the trainer and {recipe.placement.num_engine_gpus} of the engine: use 'ipc' or 'auto'"
        )
    return asked


def serves_on_gpu(recipe: Recipe) -> bool:
    """Whether a vLLM server started here would use a GPU."""
    from flywheel.inference.vllm_server import is_cpu_build

    return recipe.trainer.device != "cpu" and not is_cpu_build() and bool(visible_gpus())


def create_engine(recipe: Recipe, model_dir: str | Path, log_dir: Path, weight_sync: WeightSync) -> Engine:
    """Return the engine that `select_engine` names, not started yet.

    Raises:
        ConfigError: no such engine.
    """
    engine: Engine = resolve("inference", select_engine(recipe)[0])(recipe, model_dir, log_dir, weight_sync)
    return engine
