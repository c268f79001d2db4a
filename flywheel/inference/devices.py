"""Which GPUs there are, which of them train and which serve: told from the environment and /dev, without loading torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flywheel.config import Recipe
from flywheel.errors import ConfigError

_DEVICES = Path("/dev")
_OWN_UTILIZATION = 0.9  # vLLM's default
_SHARED_UTILIZATION = 0.3  # TRL's, for an engine on the trainer's GPU


def visible_gpus() -> list[str]:
    """Return the GPUs of this process as CUDA_VISIBLE_DEVICES names them; one where they are there but can't be counted."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        named = [name.strip() for name in told.split(",")]
        return named[: named.index("-1")] if "-1" in named else [name for name in named if name]
    # A container that is given only /dev/nvidia3 still calls it 0.
    numbered = [device for device in _DEVICES.glob("nvidia*") if device.name.removeprefix("nvidia").isdigit()]
    uncounted = any((_DEVICES / name).exists() for name in ("nvidiactl", "kfd", "dxg"))
    return [str(index) for index in range(len(numbered) or int(uncounted))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """The GPUs that train, one a rank in the ranks' order, and those that serve, as `visible_gpus` names them; none without GPUs."""

    trainer: tuple[str, ...]
    engine: tuple[str, ...]

    @property
    def shared(self) -> bool:
        """Whether some GPU does both (or there is none)."""
        return not self.engine or bool(set(self.trainer) & set(self.engine))

    @property
    def one_device(self) -> bool:
        """Whether the engine is on trainer rank 0's GPU and nowhere else: the one that maps memory of the other."""
        return self.engine == self.trainer[:1] and bool(self.engine)


def place(recipe: Recipe) -> Places:
    """Return which of this machine's GPUs train and which serve, by ``[placement]``.

    Unless it is told, the engine takes GPUs of its own, the first ones that the trainer leaves; it shares the trainer's where those are too
    few, and for what needs one device for both (``engine.weight_sync = "ipc"``, ``placement.sleep_level``).

    Raises:
        ConfigError: a GPU is named that is not there.
    """
    gpus, placement = visible_gpus(), recipe.placement
    if not gpus:
        return Places(trainer=(), engine=())
    trainer = _named(gpus, placement.trainer_gpus, "trainer_gpus") or tuple(gpus[: recipe.trainer.num_processes])
    engine = _named(gpus, placement.engine_gpus, "engine_gpus")
    if not engine:
        count = placement.num_engine_gpus
        left = tuple(gpu for gpu in gpus if gpu not in trainer)[:count]
        shares = recipe.engine.weight_sync == "ipc" or placement.sleep_level > 0 or len(left) < count
        engine = (trainer + left)[:count] if shares else left
    return Places(trainer=trainer, engine=engine)


def _named(gpus: Sequence[str], indices: Sequence[int] | None, key: str) -> tuple[str, ...]:
    if indices is not None and max(indices) >= len(gpus):
        raise ConfigError(
            f"placement.{key} is {list(indices)}, and {len(gpus)} GPUs can be seen here: they count from 0 to {len(gpus) - 1}"
        )
    return tuple(gpus[index] for index in indices or ())


def without_trainer(recipe: Recipe) -> Recipe:
    """Return the recipe for an engine that has its GPUs to itself, whatever was left for a trainer."""
    placement = recipe.placement.model_copy(update={"gpu_memory_utilization": _OWN_UTILIZATION, "sleep_level": 0})
    return recipe.model_copy(update={"placement": placement})


def utilization(recipe: Recipe, *, shared: bool) -> float:
    """Return the engine's share of its GPUs' memory."""
    return recipe.placement.gpu_memory_utilization or (_SHARED_UTILIZATION if shared else _OWN_UTILIZATION)
