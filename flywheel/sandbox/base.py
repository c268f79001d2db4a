"""What a sandbox is, whichever backend makes it: limits, results, the asynchronous `Session`, and what a backend must do."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flywheel.errors import SandboxError

LimitHit = Literal["cpu", "wall", "output", "memory", "disk", "files", "processes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one execution may use.

    `cpu_s` is the judged process's own CPU time and `idle_s` the time in which it uses none; `wall_s` stops whatever is left, and is
    longer, so that a busy machine fails nobody. `frames_bytes` is what may come through the result channel.
    """

    cpu_s: float = 10.0
    idle_s: float = 30.0
    wall_s: float = 60.0
    memory_bytes: int = 512 * 2**20
    num_processes: int = 64
    num_files: int = 64
    file_bytes: int = 16 * 2**20
    output_bytes: int = 256 * 1024
    frames_bytes: int = 2**20  # decoded in the host's own memory, and may be made to take fifty times as much there


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecResult:
    """How one execution ended.

    `exit_code` is negative for a signal, as in `subprocess`. `limit` is the limit that ended it, if one did: one of ours, or for
    a Python program one whose refusal it did not catch. `frames` is what the process wrote to its result channel (empty for a
    command). `stopped` says that it was ended because its companion had ended, and `kills_grader` that it broke fresh workers,
    alone, twice.
    """

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    frames: bytes = b""
    limit: LimitHit | None = None
    stopped: bool = False
    kills_grader: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One execution in a warm worker: what `flywheel.sandbox.inside.runners` is to do, within what limits."""

    kind: str
    body: Mapping[str, object]
    limits: Limits = field(default_factory=Limits)
    stdin: bytes = b""


class WorkerDiedError(SandboxError):
    """A worker broke during a job; whoever holds the pool decides what that means."""


class Session(Protocol):
    """One sandbox with a private folder that lasts until `reset` or `close`; nothing else in it can be written."""

    @property
    def home(self) -> str:
        """The private folder's path inside the sandbox."""
        ...

    async def put(self, files: Mapping[str, bytes], mode: int = 0o600) -> None:
        """Write files; relative paths lie in the private folder.

        Raises:
            SandboxError: a file could not be written.
        """
        ...

    async def get(self, path: str, max_bytes: int = 2**20) -> bytes:
        """Return a file's bytes.

        Raises:
            SandboxError: there is no such file, or it is larger than `max_bytes`.
        """
        ...

    async def exec(
        self, argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> ExecResult:
        """Run a command in the private folder; nothing that it starts outlives it."""
        ...

    async def reset(self) -> None:
        """Return to a fresh sandbox."""
        ...

    async def close(self) -> None:
        """End the sandbox and everything in it."""
        ...


class Sandbox(Protocol):
    """Makes sessions."""

    name: str

    async def create(self) -> Session:
        """Return a fresh session.

        Raises:
            SandboxError: no sandbox could be started; the message says what the machine lacks.
        """
        ...


class Handle(Protocol):
    """A running sandbox as its backend sees it."""

    @property
    def pid(self) -> int:
        """The host's id of the sandbox's outermost process."""
        ...

    def resident_bytes(self) -> int:
        """Return the memory that everything in it holds now, or 0 where something else limits the whole of it."""
        ...

    def cpu_s(self) -> float:
        """Return the CPU time that everything in it has used so far, or 0 where its backend can't tell."""
        ...

    def said(self) -> str:
        """Return the end of what it wrote to its log."""
        ...

    def end(self) -> None:
        """End every process of it and take away what it leaves; returns when that is done, and may be called again."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A sandbox whose first process is running the bootstrap of `flywheel.sandbox.worker`.

    `control` is the host's end of that process's control socket (`SOCK_SEQPACKET`, descriptors may be passed); `home` is the private
    folder's path inside, and `scratch` every folder that can be written. `isolated` says that the process is the first of its own
    process namespace, so that it may kill everything else in there.
    """

    control: socket.socket
    handle: Handle
    home: str
    scratch: tuple[str, ...]
    isolated: bool = True


class Backend(Protocol):
    """What makes sandboxes of one kind: ``Backend(config)``, a `SandboxConfig`. Found as ``[sandbox] backend`` by `flywheel.registry`.

    A plug-in passes ``python -m flywheel.sandbox.check BACKEND``.
    """

    name: str

    def problems(self) -> list[str]:
        """Return what this machine lacks, each with what to do; nothing is started and nothing less safe is taken instead."""
        ...

    def start(self) -> Started:
        """Start a sandbox. It is called from, and may die with, a thread that outlives it.

        Raises:
            SandboxError: it can't be started.
        """
        ...
