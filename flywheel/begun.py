"""What a run began with: noted in its folder, so that a later start goes on with that model and with no other.

A tiny model's tokenizer comes of the environments' own words, and whoever mends an environment between two starts would get another
one: its ids would mean something else to the weights in the checkpoint. An adapter means nothing on another model than its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flywheel.config import FROM_STAGE, Recipe
from flywheel.run_folder import write_whole
from flywheel.trainer.checkpoints import checkpoint_step, latest_checkpoint

NOTE = "begun.json"
_POLICY = {"model", "revision", "tiny", "lora"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """The model that RL began with (a folder or a hub id), and the recipe's keys that it is made by."""

    model: str
    made_by: Mapping[str, Any]

    @property
    def is_there(self) -> bool:
        """Whether the model can still be had: a hub's always, a folder as long as nobody cleared it away."""
        return not Path(self.model).is_absolute() or (Path(self.model) / "config.json").is_file()


def read_begun(run_dir: Path) -> Begun | None:
    """Return what a run began with; None where it has not begun yet."""
    try:
        return Begun(**json.loads((run_dir / NOTE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_begun(run_dir: Path, recipe: Recipe, model: str) -> None:
    """Note what a run begins with.

    Raises:
        StoreError: the disk is full or read-only.
    """
    found = Begun(model=str(Path(model).resolve()) if Path(model).is_dir() else model, made_by=_made_by(recipe))
    write_whole(run_dir / NOTE, json.dumps(asdict(found), indent=2))


def refusals(run_dir: Path, recipe: Recipe) -> Iterator[str]:
    """Yield why a run can't go on by a recipe, a message a key."""
    begun = read_begun(run_dir)
    made_by = {} if begun is None else begun.made_by
    for key, value in _made_by(recipe).items():
        is_made = key == "policy.model" and (value.startswith(FROM_STAGE) or (Path(value) / "recipe.toml").is_file())
        if made_by.get(key, value) != value and not is_made:  # of a stage's model its marker knows
            yield f"{key} is {value!r}, and {run_dir} began with {made_by[key]!r}: leave it as it was, or start a new run"
    checkpoint = latest_checkpoint(run_dir)
    trained = 0 if checkpoint is None else checkpoint_step(checkpoint)
    if trained > recipe.run.steps:
        yield f"run.steps is {recipe.run.steps}, and {run_dir} has trained {trained} steps already: say at least as many"


def _made_by(recipe: Recipe) -> dict[str, Any]:
    told = {
        "policy": recipe.policy.model_dump(mode="json", include=_POLICY),
        "cold_start": recipe.cold_start.model_dump(mode="json", exclude={"cache"}),
    }
    return dict(flattened(told))


def flattened(sections: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key of a recipe's dump and its value."""
    for name, value in sections.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
