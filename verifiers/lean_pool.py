"""A pool of Lean REPL processes that many threads share: warm headers, one request at a time a process, recycling.

Environments can't be dropped from a REPL, so "least recently used" means a process: one that holds too many headers, has served too many
requests or has grown too large is ended and replaced. Imports are files that every process maps, so warm headers share their memory.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flywheel.errors import SandboxError, VerifierError
from flywheel.verifiers.lean_process import ReplProcess
from flywheel.verifiers.lean_protocol import BrokeError

T = TypeVar("T")
MAX_TRIES = 4


class ReplPool:
    """Lends processes.

    Args:
        start: Starts one for a project; called from one thread that lives as long as the pool.
        capacity: Processes at once.
        max_headers: Warm headers a process.
        max_requests: Requests that a process serves before it is replaced.
        recycle_bytes: Memory above which a process is replaced when it comes back.
    """

    def __init__(
        self,
        start: Callable[[str | None], ReplProcess],
        *,
        capacity: int = 2,
        max_headers: int = 4,
        max_requests: int = 2000,
        recycle_bytes: int = 4 << 30,
    ) -> None:
        self._start, self.capacity = start, capacity
        self._max_headers, self._max_requests, self._recycle_bytes = max_headers, max_requests, recycle_bytes
        self._idle: list[ReplProcess] = []  # the most recently used last
        self._lent: set[int] = set()
        self._num = 0
        self._serials = itertools.count(1)
        self._changed = threading.Condition()
        self._alone = threading.Lock()
        self._closed = False
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flywheel-lean")
        self.num_started = 0

    def run(self, project: str | None, header: str, work: Callable[[ReplProcess], T]) -> T:
        """Return what `work` returns, on a process that has the header warm if one is free; again, alone and on fresh ones, if it breaks.

        Raises:
            BrokeError: the work is to blame: it used its own CPU time up, or it broke two fresh processes.
            VerifierError: processes can't be started.
        """
        try:
            with self.lend(project, header) as process:
                return work(process)
        except BrokeError as error:
            if error.own:
                raise
        broken: list[BrokeError] = []
        with self._alone:
            while len(broken) < 2:
                try:
                    with self.lend(project, header, fresh=True) as process:
                        return work(process)
                except BrokeError as error:
                    if error.own:
                        raise
                    broken.append(error)
        limit = any(error.cause in ("limit", "stalled") for error in broken)
        raise BrokeError("limit" if limit else "kills_grader", f"broke two fresh processes: {broken[-1].detail}", own=True)

    @contextlib.contextmanager
    def lend(self, project: str | None, header: str, *, fresh: bool = False, serial: int | None = None) -> Iterator[ReplProcess]:
        """Lend a process: a fresh one, the one named by `serial` if it still lives, or the best that is idle.

        Raises:
            VerifierError: it can't be started, or the pool is closed.
        """
        process = self._take(project, header, fresh, serial)
        try:
            yield process
        finally:
            self._give_back(process)

    def alive(self, serial: int) -> bool:
        """Whether a process still holds what it was told."""
        with self._changed:
            return serial in self._lent or any(process.serial == serial for process in self._idle)

    def _take(self, project: str | None, header: str, fresh: bool, serial: int | None) -> ReplProcess:
        with self._changed:
            while True:
                if self._closed:
                    raise VerifierError("the Lean pool is closed")
                while serial is not None and serial in self._lent:  # busy with another request of ours
                    self._changed.wait()
                found = None if fresh else self._best(project, header, serial)
                if found is not None:
                    self._idle.remove(found)
                    self._lent.add(found.serial)
                    return found
                if self._num < self.capacity:
                    self._num += 1
                    break
                if self._idle:  # of another project, or full of other headers
                    self._end(self._idle.pop(0))
                    continue
                self._changed.wait()
        try:
            process = self._starter.submit(self._start, project).result()
        except BaseException as error:
            with self._changed:
                self._num -= 1
                self._changed.notify_all()
            if isinstance(error, SandboxError | OSError | RuntimeError | BrokeError):
                raise VerifierError(f"can't start a Lean process: {error}") from error
            raise
        with self._changed:
            process.serial, process.project = next(self._serials), project
            self.num_started += 1
            self._lent.add(process.serial)
        return process

    def _best(self, project: str | None, header: str, serial: int | None) -> ReplProcess | None:
        mine = [process for process in self._idle if process.project == project]
        for process in mine:
            if process.serial == serial:
                return process
        warm = [process for process in mine if header in process.headers]
        room = [process for process in mine if len(process.headers) < self._max_headers]
        if warm:
            return warm[-1]
        return room[-1] if room and self._num >= self.capacity else None

    def _give_back(self, process: ReplProcess) -> None:
        keep = process.usable and process.num_requests < self._max_requests and process.memory_bytes < self._recycle_bytes
        with self._changed:
            self._lent.discard(process.serial)
            if keep and not self._closed:
                self._idle.append(process)
            else:
                self._end(process)
            self._changed.notify_all()

    def _end(self, process: ReplProcess) -> None:
        self._num -= 1
        process.kill()

    def close(self) -> None:
        """End every process that is not lent, and the others when they come back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for process in idle:
                self._end(process)
            self._changed.notify_all()
        self._starter.shutdown(wait=True)
