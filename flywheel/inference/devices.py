"""Which GPUs there are, and which of them serve: told from the environment and /dev, without loading torch."""

from __future__ import annotations

import os
from pathlib import Path

from flywheel.config import Recipe

_DEVICES = Path("/dev")


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


def engine_gpus(recipe: Recipe) -> list[str] | None:
    """Return the GPUs that the engine has to itself: those after the trainer's. None where it shares the trainer's.

    It shares them where there are too few, and for ``engine.weight_sync = "ipc"``, which needs one device for both.
    """
    if recipe.engine.weight_sync == "ipc":
        return None
    trainer, engine = recipe.trainer.num_processes, recipe.engine.tensor_parallel_size
    own = visible_gpus()[trainer : trainer + engine]
    return own if len(own) == engine else None
