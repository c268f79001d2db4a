"""`Session` on a worker of its own: files and commands, for environments and tools that are not one Python function.

A session is a whole sandbox; nothing in it is shared with the warm pool. `reset` replaces it by a fresh one. `WorkerSandbox` keeps
some ready, so that neither waits for a sandbox to start.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox.backends import find_backend
from flywheel.sandbox.base import Backend, ExecResult, Job, Limits, WorkerDiedError
from flywheel.sandbox.bubblewrap import ENVIRONMENT
from flywheel.sandbox.execution import Execution, drive
from flywheel.sandbox.worker import Worker

T = TypeVar("T")


class WorkerSession:
    """A `Session`; made by `WorkerSandbox.create`. Calls of one session run one after another."""

    def __init__(self, config: SandboxConfig, backend: Backend) -> None:
        self._config, self._backend = config, backend
        # The sandbox dies with the thread that started it: one thread starts it, runs it and stays.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flywheel-session")
        self._worker: Worker | None = None
        self._closed = False

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
        limits = replace(self._limits(), frames_bytes=max_bytes + 1)
        result = await self._run("get", {"path": posixpath.join(self.home, path)}, limits=limits)
        if result.limit == "output":
            raise SandboxError(f"{path!r} in the sandbox is larger than {max_bytes} bytes")
        if result.exit_code != 0 or result.limit is not None:
            raise SandboxError(f"can't read {path!r} in the sandbox")
        return result.frames

    async def exec(
        self, argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> ExecResult:
        """Run a command in the private folder; nothing that it starts outlives it."""
        home = {"HOME": self.home, "TMPDIR": self.home}
        body = {"argv": list(argv), "cwd": self.home, "env": {**ENVIRONMENT, **home, **(env or {})}}
        return await self._run("exec", body, stdin=stdin, limits=limits)

    def start(self) -> Future[None]:
        """Begin to start the sandbox; the future raises where it can't be."""
        return self._thread.submit(self._restart)

    async def reset(self) -> None:
        """Return to a fresh sandbox."""
        await self._here(self._restart)

    async def close(self) -> None:
        """End the sandbox and everything in it."""
        if not self._closed:
            self._closed = True
            await self._here(self._stop)
            self._thread.shutdown(wait=False)

    def _running(self) -> Worker:
        if self._worker is None:
            raise SandboxError("this session is closed")
        return self._worker

    def _restart(self) -> None:
        self._stop()
        self._worker = Worker.start(self._backend)

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
        job = Job(kind=kind, body=body, limits=limits or self._limits(), stdin=stdin)
        return await self._here(lambda: self._drive(job, attachments))

    def _limits(self) -> Limits:
        config = self._config
        return Limits(cpu_s=config.cpu_s, idle_s=config.wall_s, wall_s=config.wall_s, memory_bytes=config.memory_mb * 2**20)

    async def _here(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class WorkerSandbox:
    """A `Sandbox` backend, by its name in a recipe. Close it where it keeps `num_ready` sessions started ahead.

    Raises:
        ConfigError: the backend is unknown.
    """

    def __init__(self, config: SandboxConfig | None = None, *, num_ready: int = 0) -> None:
        self._config = config or SandboxConfig()
        self._backend = find_backend(self._config)
        self.name = self._backend.name
        self._num_ready = num_ready
        self._ready: deque[tuple[WorkerSession, Future[None]]] = deque()
        self._fill()

    def _fill(self) -> None:
        while len(self._ready) < self._num_ready:
            session = WorkerSession(self._config, self._backend)
            self._ready.append((session, session.start()))

    async def create(self) -> WorkerSession:
        """Return a fresh session."""
        if self._ready:
            session, started = self._ready.popleft()
            self._fill()
        else:
            session = WorkerSession(self._config, self._backend)
            started = session.start()
        try:
            await asyncio.wrap_future(started)
        except BaseException:
            await session.close()
            raise
        return session

    async def close(self) -> None:
        """End the sessions that nobody has taken; those that were created are their users' to close."""
        self._num_ready = 0
        while self._ready:
            await self._ready.popleft()[0].close()
