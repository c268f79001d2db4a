"""Checkpoint folders: ``checkpoints/step-N``, complete where a file ``COMPLETE`` says so, which is written last."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from flywheel.errors import StoreError

MARKER = "COMPLETE"
_NAME = re.compile(r"step-(\d+)")


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return the run's complete checkpoints, oldest step first."""
    found = [(int(match[1]), path) for path in (run_dir / "checkpoints").glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / MARKER).is_file()]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    return next(reversed(complete_checkpoints(run_dir)), None)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step that a checkpoint was written after.

    Raises:
        StoreError: it has no marker, so its writing was cut off, or the marker can't be read.
    """
    try:
        return int(json.loads((checkpoint / MARKER).read_text())["step"])
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{checkpoint} is not a complete checkpoint ({error}); resume from another step or start the run anew") from error


def commit_checkpoint(run_dir: Path, step: int, attempt: str, write: Callable[[Path], Path], keep: int) -> Path:
    """Let `write` fill a folder, make it ``step-N`` with its marker, and prune older ones; return it.

    Args:
        run_dir: The run folder.
        step: Optimiser step that is in the checkpoint.
        attempt: Run attempt that wrote it.
        write: Given a scratch folder, writes into a folder inside it and returns that one.
        keep: Complete checkpoints that stay.
    """
    root = run_dir / "checkpoints"
    scratch, final = root / ".writing", root / f"step-{step}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    written = write(scratch)
    for path in written.rglob("*"):
        if path.is_file():
            _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    written.rename(final)
    (final / MARKER).write_text(json.dumps({"step": step, "attempt": attempt}))
    for path in (final / MARKER, final, root):
        _sync(path)
    shutil.rmtree(scratch, ignore_errors=True)
    for old in complete_checkpoints(run_dir)[:-keep]:
        (old / MARKER).unlink()  # first, so that a half-deleted folder is no checkpoint
        shutil.rmtree(old, ignore_errors=True)
    return final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
