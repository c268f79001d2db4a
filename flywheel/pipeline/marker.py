"""Which stages of a pipeline are finished: a note in each one's folder, written last, that holds the digest of its recipe.

What a stage builds on is noted when it begins. A stage that is half done may go on with another recipe of its own (fewer rows at once,
say), but not on another model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.errors import ConfigError
from flywheel.run_folder import write_whole

if TYPE_CHECKING:
    from flywheel.pipeline.plan import StagePlan

MARKER, BEGUN = "STAGE.json", "BEGUN"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageNote:
    """What a finished stage is: `model` is the model that it made, by its path inside the stage's folder."""

    name: str
    kind: str
    digest: str
    elapsed_s: float
    model: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


def read_note(folder: Path) -> StageNote | None:
    """Return a stage's note; None where there is none that can be read, so the stage is not finished."""
    try:
        return StageNote(**json.loads((folder / MARKER).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def made_by(folder: Path) -> Path | None:
    """Return the model that a finished stage made; None where it made none, or the folder is no finished stage's."""
    note = read_note(folder)
    return None if note is None or note.model is None else folder / note.model


def begin(folder: Path, inputs: str) -> None:
    """Note what a stage builds on."""
    write_whole(folder / BEGUN, inputs)


def write_note(folder: Path, note: StageNote) -> None:
    """Say that a stage is finished; it is on the disk when this returns.

    Raises:
        StoreError: the disk is full or read-only.
    """
    write_whole(folder / MARKER, json.dumps(asdict(note), indent=2))


def finished_stages(plans: Sequence[StagePlan], root: Path) -> dict[str, StageNote]:
    """Return the notes of the stages that are finished.

    Raises:
        ConfigError: a stage was finished by another recipe, or begun on other inputs, or what it made is gone; a message each.
    """
    notes: dict[str, StageNote] = {}
    problems = []
    for plan in plans:
        folder = root / plan.name
        note = read_note(folder)
        if note is None:
            if (folder / BEGUN).is_file() and (folder / BEGUN).read_text("utf-8") != plan.inputs:
                problems.append(f"stages.{plan.name}: {folder} was begun on what other recipes made; remove the folder to begin it again")
            continue
        if note.digest != plan.digest:
            problems.append(
                f"stages.{plan.name}: {folder} is finished, by another recipe than this one (its own, or that of a stage before it); "
                "remove the folder to do it again, or name another --run-dir"
            )
        elif note.model is not None and not (folder / note.model / "config.json").is_file():
            problems.append(f"stages.{plan.name}: {folder / note.model}, which it made, is gone; remove {folder} to make it again")
        notes[plan.name] = note
    if problems:
        raise ConfigError(*problems)
    return notes
