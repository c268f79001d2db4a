"""The ``unsafe`` backend: the same workers as bare processes of the host, for machines that offer no isolation at all.

Resource limits hold, nothing else does: model code can read and write whatever this user can, and reach the network. It runs only
when a recipe says ``[sandbox] backend = "unsafe"``, and warns.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox import bootstrap, owner
from flywheel.sandbox.base import Started
from flywheel.sandbox.bubblewrap import ENVIRONMENT, interpreter
from flywheel.sandbox.process import ProcessHandle, control_pair

WARNING = (
    "sandbox backend 'unsafe': model-written code runs as this user, with this user's files and network. "
    "Use it only on a machine that you would give to a stranger."
)
PREFIX = "flywheel-unsafe-"


class Unsafe:
    """The backend; it warns when it is made."""

    name = "unsafe"

    def __init__(self, config: SandboxConfig) -> None:
        del config
        warnings.warn(WARNING, RuntimeWarning, stacklevel=2)
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            if owner.is_gone(folder.name.removeprefix(PREFIX).rpartition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)

    def problems(self) -> list[str]:
        """Return nothing: whoever asked for it has it."""
        return []

    def start(self) -> Started:
        """Start a bare process with a folder of its own."""
        home = make_home()
        ours, theirs = control_pair()
        try:
            handle = ProcessHandle.start(
                bootstrap.command(interpreter(), theirs.fileno()),
                env=_environment(home),
                pass_fds=[theirs.fileno()],
                cwd=home,
                after=lambda: shutil.rmtree(home, ignore_errors=True),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Started(control=ours, handle=handle, home=home, scratch=(home,), isolated=False)


def make_home() -> str:
    """Return a new private folder, whose name says whose it is."""
    return tempfile.mkdtemp(prefix=f"{PREFIX}{owner.this()}-")


def _environment(home: str) -> dict[str, str]:
    return {**ENVIRONMENT, "HOME": home, "TMPDIR": home, "PATH": os.environ.get("PATH", os.defpath)}


def start_piped(argv: Sequence[str], *, home: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start `argv` as a bare process with pipes on its standard input and output."""
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=log, env=_environment(home), cwd=home, start_new_session=True)
    except OSError as error:
        raise SandboxError(f"can't start a worker: {error}") from error
