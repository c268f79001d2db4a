"""A pool of killable workers: many threads ask, whatever waits is sent in one batch, and no answer can stall or crash the caller.

A batch that breaks its worker is judged again one by one. An item that breaks two fresh workers, on each of which a control
probe has just passed, is at fault itself: the reply says ``kills_grader`` (a crash) or ``limit`` (CPU time). Wall time
without an answer is a starved machine (RDKit can't sleep): retried, then `VerifierError`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

from flywheel.errors import VerifierError

_START = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from flywheel.verifiers.chemistry_worker import main
main({cpu_s!r}, {memory_mb!r})
"""
_PROBE = ["judge", json.dumps({"constraints": [{"kind": "formula", "value": "C2H6O"}]}), "CCO"]
_PROBE_REPLY = ["valid", "formula"]
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")

Item = list[str]


class Reply(NamedTuple):
    """``ok`` with the worker's value, ``task_error`` with a message, or the limit that the item broke."""

    status: Literal["ok", "task_error", "limit", "kills_grader"]
    value: Any


class WorkerDiedError(Exception):
    """The worker ended or was ended before it answered."""

    def __init__(self, cause: Literal["limit", "kills_grader", "stalled"]) -> None:
        super().__init__(cause)
        self.cause = cause


class Worker:
    """One worker process, probed before first use."""

    def __init__(self, cpu_s: float, memory_mb: int, wall_s: float) -> None:
        self._wall_s = wall_s
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START.format(cpu_s=cpu_s, memory_mb=memory_mb), paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ} | {"OMP_NUM_THREADS": "1"},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        try:
            reply = self.ask([_PROBE])
        except WorkerDiedError as error:
            raise VerifierError(f"the chemistry worker failed its control probe ({error.cause}); is rdkit importable?") from error
        if reply[0].status != "ok" or [f[0] for f in reply[0].value if f[1]] != _PROBE_REPLY:
            self.kill()
            raise VerifierError(f"the chemistry worker misjudged its control probe: {reply[0]!r}")
        self.num_asked = 0

    def ask(self, items: Sequence[Item]) -> list[Reply]:
        """Return the replies to a batch.

        Raises:
            WorkerDiedError: it ended, or gave no reply in time.
        """
        self.num_asked = len(items)
        body = json.dumps(items).encode()
        try:
            self._write(struct.pack(">I", len(body)) + body)
            deadline = time.monotonic() + self._wall_s
            (length,) = struct.unpack(">I", self._read(4, deadline))
            return [Reply(*reply) for reply in json.loads(self._read(length, deadline))]
        except BrokenPipeError:
            raise WorkerDiedError(self._cause()) from None

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        parts, missing = [], size
        while missing:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise WorkerDiedError("stalled")
            part = self._process.stdout.read(missing)
            if not part:
                raise WorkerDiedError(self._cause())
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _cause(self) -> Literal["limit", "kills_grader"]:
        self.kill(wait_s=5.0)
        return "limit" if self._process.returncode == -signal.SIGPROF else "kills_grader"

    def kill(self, wait_s: float = 0.0) -> None:
        """End the process, after giving it `wait_s` to end by itself, and reap it."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class WorkerPool:
    """Workers that many threads share. Starts nothing until the first question.

    Args:
        num_workers: Processes, one thread each.
        cpu_s: CPU seconds that one item may take.
        memory_mb: Address space of a worker.
        wall_s: Seconds without a reply after which a batch counts as stalled.
        batch_size: Items sent at once.
    """

    def __init__(
        self, num_workers: int = 1, *, cpu_s: float = 2.0, memory_mb: int = 4096, wall_s: float = 300.0, batch_size: int = 64
    ) -> None:
        self._limits = (cpu_s, memory_mb, wall_s)
        self._num_workers, self._batch_size = num_workers, batch_size
        self._waiting: deque[tuple[Item, Future[Reply]]] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def ask(self, item: Item) -> Reply:
        """Return the reply to one item; blocks.

        Raises:
            VerifierError: the workers are broken, or the pool is closed.
        """
        return self.ask_many([item])[0]

    def call(self, target: str, *arguments: Any) -> Reply:
        """Return what ``module:function`` returns in a worker (JSON in, JSON out); blocks.

        Raises:
            VerifierError: the workers are broken, or the pool is closed.
        """
        return self.ask(["call", target, json.dumps(arguments)])

    def ask_many(self, items: Sequence[Item]) -> list[Reply]:
        """Return the replies to `items`, in order; blocks.

        Raises:
            VerifierError: the workers are broken, or the pool is closed.
        """
        futures: list[Future[Reply]] = [Future() for _ in items]
        with self._changed:
            if self._closed:
                raise VerifierError("the chemistry worker pool is closed")
            while len(self._threads) < self._num_workers:
                thread = threading.Thread(target=self._serve, name="chemistry-pool", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._waiting.extend(zip(items, futures, strict=True))
            self._changed.notify_all()
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the workers; questions that wait get a `VerifierError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        worker: Worker | None = None
        while batch := self._take():
            items, futures = [item for item, _ in batch], [future for _, future in batch]
            try:
                worker = worker or Worker(*self._limits)
                replies = worker.ask(items)
            except WorkerDiedError:
                worker = None
                for item, future in batch:
                    try:
                        worker, reply = self._alone(item, worker)
                        future.set_result(reply)
                    except VerifierError as error:
                        worker = None
                        future.set_exception(error)
            except (VerifierError, OSError) as error:
                for future in futures:
                    future.set_exception(error if isinstance(error, VerifierError) else VerifierError(f"chemistry worker: {error}"))
            else:
                for future, reply in zip(futures, replies, strict=True):
                    future.set_result(reply)
        if worker is not None:
            worker.kill()

    def _take(self) -> list[tuple[Item, Future[Reply]]]:
        """Return the next batch; empty when the pool is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                for _, future in self._waiting:
                    future.set_exception(VerifierError("the chemistry worker pool was closed"))
                self._waiting.clear()
                return []
            return [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]

    def _alone(self, item: Item, worker: Worker | None) -> tuple[Worker | None, Reply]:
        """Return the reply to one item that may be the one which broke a batch, and the worker that is left."""
        broken: list[str] = []
        for _ in range(4):
            fresh = worker is None
            worker = worker or Worker(*self._limits)
            try:
                return worker, worker.ask([item])[0]
            except WorkerDiedError as error:
                worker = None
                if fresh and error.cause != "stalled":
                    broken.append(error.cause)
                if len(broken) == 2:
                    status: Literal["limit", "kills_grader"] = "limit" if set(broken) == {"limit"} else "kills_grader"
                    return None, Reply(status, f"broke two fresh workers ({', '.join(broken)})")
        raise VerifierError("the chemistry worker gave no reply and used no CPU time; the machine may be overloaded")


_shared_lock = threading.Lock()
_shared: WorkerPool | None = None
_shared_users = 0


def acquire_shared() -> WorkerPool:
    """Return the process's own pool; give it back with `release_shared`."""
    global _shared, _shared_users
    with _shared_lock:
        _shared = _shared or WorkerPool()
        _shared_users += 1
        return _shared


def release_shared() -> None:
    """Give the process's pool back; the last one closes it."""
    global _shared, _shared_users
    with _shared_lock:
        _shared_users -= 1
        pool, _shared = (_shared, None) if _shared_users == 0 else (None, _shared)
    if pool is not None:
        pool.close()


def _forget_shared() -> None:
    global _shared, _shared_users, _shared_lock
    _shared, _shared_users, _shared_lock = None, 0, threading.Lock()


os.register_at_fork(after_in_child=_forget_shared)
