"""The folder of a run: where it is, what is in it, and which checkpoint is the newest.

recipe.toml   the resolved recipe          metrics.jsonl, tables/   every figure
journal.sqlite   everything that happened  checkpoints/step-N/      complete ones hold a COMPLETE marker
store/     sealed shards of the journal    weights/   what the engine serves          logs/   the engine's output
begun.json   the model that RL began with (flywheel/begun.py)
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flywheel.config import Recipe
from flywheel.errors import ConfigError, StoreError
from flywheel.recipe import load_recipe, to_toml

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# What libraries say that write files without Python: safetensors, then torch.
_DISK_MESSAGES = ("No space left on device", "Read-only file system", "Disk quota exceeded", "inline_container.cc")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk, however a library reports it, into a clear error.

    Raises:
        StoreError: the disk refused.
    """
    try:
        yield
    except Exception as error:
        refusal = None if isinstance(error, StoreError) else next(filter(_is_refusal, _chain(error)), None)
        if refusal is None:
            raise
        why = refusal.strerror if isinstance(refusal, OSError) and refusal.strerror else str(refusal).splitlines()[0]
        where = refusal.filename if isinstance(refusal, OSError) and refusal.filename else path
        raise StoreError(f"{where}: can't be written: {why}; is the disk full, or the folder read-only?") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, by a rename; it is on the disk when this returns. A pipe or a device gets the text as it is.

    Raises:
        StoreError: the place can't be written, or the disk is full.
    """
    path = path.resolve() if path.is_symlink() and path.is_file() else path  # the link stays
    is_stream = path.exists() and not (path.is_file() or path.is_dir())
    scratch = path if is_stream else path.with_name(f".{path.name}.part")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if not is_stream:
                os.fsync(file.fileno())
                scratch.replace(path)
    except OSError as error:
        hint = "; is the disk full, or the folder read-only?" if _is_refusal(error) else ""
        raise StoreError(f"{path}: can't be written: {error.strerror}{hint}") from error
    finally:
        if not is_stream:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def check_place(path: Path, option: str) -> None:
    """Refuse a place that no file can be written to, before what it is for has taken its time.

    Raises:
        ConfigError: it is a folder, or lies in none that is there and can be written.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: expected the path of a file in a folder that exists and can be written")


def _is_refusal(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in _DISK_ERRORS) or any(said in str(error) for said in _DISK_MESSAGES)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from or amid."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """A run's folder and its resolved recipe."""

    path: Path
    recipe: Recipe

    @staticmethod
    def fresh(recipe: Recipe, asked: Path | None) -> RunFolder:
        """Make the folder of a new run: the asked one, or {run.dir}/{run.name}, with -2, -3, … where that is taken.

        Raises:
            ConfigError: the asked folder holds a run already, or can't be made.
        """
        if asked is not None and (asked / "recipe.toml").exists():
            raise ConfigError(f"--run-dir {asked} holds a run already: add --resume to go on with it, or name another folder")
        return RunFolder.at(asked or next(p for p in _candidates(recipe) if not (p / "recipe.toml").exists()), recipe)

    @staticmethod
    def at(path: Path, recipe: Recipe) -> RunFolder:
        """Make a run's folder, or return the one that is there.

        Raises:
            ConfigError: it can't be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "logs").mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the run folder {path} can't be written: {error.strerror}; set --run-dir or run.dir") from None
        return RunFolder(path=path, recipe=recipe)

    @staticmethod
    def resumed(recipe: Recipe, asked: Path | None, overrides: Sequence[str]) -> RunFolder:
        """Return the folder to go on with; the recipe is the one that the run was started with, plus `overrides`.

        Raises:
            ConfigError: there is no such run.
        """
        taken = list(itertools.takewhile(lambda p: (p / "recipe.toml").exists(), _candidates(recipe)))
        path = asked or (taken[-1] if taken else recipe.run.dir / recipe.run.name)
        if not (path / "recipe.toml").exists():
            raise ConfigError(f"--resume: {path} holds no run; start it without --resume, or give --run-dir")
        return RunFolder.opened(path, overrides)

    @staticmethod
    def opened(path: Path, overrides: Sequence[str] = ()) -> RunFolder:
        """Return an existing run's folder.

        Raises:
            ConfigError: its recipe is not there, or can't be read.
        """
        if not (path / "recipe.toml").is_file():
            raise ConfigError(f"{path} holds no recipe.toml; is it a run's folder?")
        return RunFolder(path=path, recipe=load_recipe(str(path / "recipe.toml"), overrides))

    def save_recipe(self) -> None:
        """Write the resolved recipe, so that whoever opens the run later finds the overrides of its last start in it.

        Raises:
            ConfigError: the folder can't be written.
        """
        try:
            write_whole(self.path / "recipe.toml", to_toml(self.recipe))
        except StoreError as error:
            raise ConfigError(str(error)) from None

    @property
    def logs(self) -> Path:
        """Where the engine and the ranks write what they print."""
        return self.path / "logs"


def _candidates(recipe: Recipe) -> itertools.chain[Path]:
    first = recipe.run.dir / recipe.run.name
    return itertools.chain([first], (first.with_name(f"{first.name}-{n}") for n in itertools.count(2)))
