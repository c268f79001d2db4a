"""`Session` on a worker of its own: files and commands, for environments and tools that are not one Python function.

A session is a whole sandbox; nothing in it is shared with the warm pool. `reset` replaces it by a fresh one.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flywheel.config import SandboxConfig
from flywheel.errors import ConfigError, SandboxError
from flywheel.sandbox import unsafe
from flywheel.sandbox.base import ExecResult, Job, Limits, WorkerDiedError
from flywheel.sandbox.bubblewrap import ENVIRONMENT
from flywheel.sandbox.pool import BACKENDS, drive
from flywheel.sandbox.worker import Execution, Worker

T = TypeVar("T")


class WorkerSession:
    """A `Session`; made by `WorkerSandbox.create`. Calls of one session run one after another."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        # The sandbox dies with the thread that started it: one thread starts it, runs it and stays.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flywheel-session")
        self._worker: Worker | None = None

    @property
    def home(self) -> str:
        """The private folder's path inside."""
        return self._running().home

    async def put(self, files: Mapping[str, bytes], mode: int = 0o600) -> None:
        """Write files; relative paths lie in the private folder."""
        listed = [[posixpath.join(self.home, path), mode] for path in files]
        result = await self._run("put", {"files": listed}, attachments=list(files.values()))
        if result.exit_code != 0:
            raise SandboxError(f"can't write {sorted(files)} in the sandbox: outside {self.home}, or larger than its limits")

    async def get(self, path: str, max_bytes: int = 2**20) -> bytes:
        """Return a file's bytes."""
        result = await self._run("get", {"path": posixpath.join(self.home, path)})
        if result.exit_code != 0:
            raise SandboxError(f"can't read {path!r} in the sandbox")
        if len(result.frames) > max_bytes or result.limit is not None:
            raise SandboxError(f"{path!r} in the sandbox is larger than {max_bytes} bytes")
        return result.frames

    async def exec(
        self, argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> ExecResult:
        """Run a command in the private folder; nothing that it starts outlives it."""
        home = {"HOME": self.home, "TMPDIR": self.home}
        body = {"argv": list(argv), "cwd": self.home, "env": {**ENVIRONMENT, **home, **(env or {})}}
        return await self._run("exec", body, stdin=stdin, limits=limits)

    async def reset(self) -> None:
        """Return to a fresh sandbox."""
        await self._here(self._restart)

    async def close(self) -> None:
        """End the sandbox and everything in it."""
        if self._worker is not None:
            await self._here(self._stop)
        self._thread.shutdown(wait=False)

    def _running(self) -> Worker:
        if self._worker is None:
            raise SandboxError("this session is closed")
        return self._worker

    def _restart(self) -> None:
        self._stop()
        self._worker = Worker.start(self._config.backend)

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _drive(self, job: Job, attachments: Sequence[bytes]) -> ExecResult:
        try:
            return drive([Execution(self._running(), job, attachments=attachments)])[0]
        except WorkerDiedError:
            self._stop()
            raise

    async def _run(
        self,
        kind: str,
        body: Mapping[str, object],
        *,
        stdin: bytes = b"",
        limits: Limits | None = None,
        attachments: Sequence[bytes] = (),
    ) -> ExecResult:
        config = self._config
        allowed = limits or Limits(cpu_s=config.cpu_s, idle_s=config.wall_s, wall_s=config.wall_s, memory_bytes=config.memory_mb * 2**20)
        job = Job(kind=kind, body=body, limits=allowed, stdin=stdin)
        return await self._here(lambda: self._drive(job, attachments))

    async def _here(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class WorkerSandbox:
    """A `Sandbox` backend, by its name in a recipe.

    Raises:
        ConfigError: the backend is unknown.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self._config = config or SandboxConfig()
        if self._config.backend not in BACKENDS:
            raise ConfigError(f"sandbox.backend is {self._config.backend!r}, expected one of: {', '.join(BACKENDS)}")
        if self._config.backend == "unsafe":
            unsafe.warn()
        self.name = self._config.backend

    async def create(self) -> WorkerSession:
        """Return a fresh session."""
        session = WorkerSession(self._config)
        try:
            await session.reset()
        except BaseException:
            await session.close()
            raise
        return session
