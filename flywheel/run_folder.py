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
            ConfigError: its recipe can't be read.
        """
        return RunFolder(path=path, recipe=load_recipe(str(path / "recipe.toml"), overrides))

    def save_recipe(self) -> None:
        """Write the resolved recipe, so that whoever opens the run later finds the overrides of its last start in it.

        Raises:
            ConfigError: the folder can't be written.
        """
        new = self.path / ".recipe.toml"
        try:
            new.write_text(to_toml(self.recipe), "utf-8")
            new.replace(self.path / "recipe.toml")
        except OSError as error:
            raise ConfigError(f"the run folder {self.path} can't be written: {error.strerror}") from None

    @property
    def logs(self) -> Path:
        """Where the engine and the ranks write what they print."""
        return self.path / "logs"


def _candidates(recipe: Recipe) -> itertools.chain[Path]:
    first = recipe.run.dir / recipe.run.name
    return itertools.chain([first], (first.with_name(f"{first.name}-{n}") for n in itertools.count(2)))
