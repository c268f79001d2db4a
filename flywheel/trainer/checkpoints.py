"""Checkpoint folders: ``checkpoints/step-N``, complete where a file ``COMPLETE`` says so, which is written last.

The marker says what the checkpoint is (`CheckpointNote`) and how large each of its files is. A folder whose marker is absent or
can't be read, or whose files are not those, is no checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flywheel.errors import StoreError
from flywheel.run_folder import writing

MARKER = "COMPLETE"
_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointNote:
    """What a checkpoint is: the step that is in it, who wrote it, the journal's record of that step's batch, the step's figures."""

    step: int
    attempt: str
    journal_seq: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def policy_version(self) -> str:
        """The version of its weights."""
        return f"{self.attempt}.{self.step}"


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return the run's complete checkpoints, oldest step first."""
    found = [(int(match[1]), path) for path in (run_dir / "checkpoints").glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if _is_complete(path)]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    return next(reversed(complete_checkpoints(run_dir)), None)


def read_note(checkpoint: Path) -> CheckpointNote:
    """Return what a checkpoint is.

    Raises:
        StoreError: it has no marker, so its writing was cut off, or the marker can't be read.
    """
    try:
        data = _marker(checkpoint)
        data.pop("files", None)
        return CheckpointNote(**data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{checkpoint} is not a complete checkpoint ({error}); resume from another step or start the run anew") from error


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step that a checkpoint was written after.

    Raises:
        StoreError: see `read_note`.
    """
    return read_note(checkpoint).step


def commit_checkpoint(run_dir: Path, note: CheckpointNote, write: Callable[[Path], Path], keep: int) -> Path:
    """Let `write` fill a folder, make it ``step-N`` with its marker, and prune older ones; return it.

    Args:
        run_dir: The run folder.
        note: What the checkpoint is.
        write: Given a scratch folder, writes into a folder inside it and returns that one.
        keep: Complete checkpoints that stay.

    Raises:
        StoreError: the disk is full or read-only; the checkpoints that were there are as they were.
    """
    root = run_dir / "checkpoints"
    scratch, final = root / ".writing", root / f"step-{note.step}"
    with writing(root):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            written = write(scratch)
            files = sorted(path for path in written.rglob("*") if path.is_file())
            for path in files:
                _sync(path)
            sizes = {str(path.relative_to(written)): path.stat().st_size for path in files}
            marker = scratch / MARKER
            marker.write_text(json.dumps({**asdict(note), "files": sizes}))
            _sync(marker)
            _remove(final)
            written.rename(final)
            _sync(final)
            marker.rename(final / MARKER)  # all of it or nothing: a marker is never half-written
            for path in (final, root):
                _sync(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for old in complete_checkpoints(run_dir)[:-keep]:
            _remove(old)
    return final


def _is_complete(checkpoint: Path) -> bool:
    try:
        sizes = _marker(checkpoint).get("files", {})
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _marker(checkpoint: Path) -> dict[str, Any]:
    data = json.loads((checkpoint / MARKER).read_text())
    if not isinstance(data, dict) or "step" not in data:
        raise ValueError(f"{MARKER} says {data!r}")
    return data


def _remove(checkpoint: Path) -> None:
    (checkpoint / MARKER).unlink(missing_ok=True)  # first, so that a half-deleted folder is no checkpoint
    shutil.rmtree(checkpoint, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
