"""The warm pool: a few sandboxes kept ready, each forking one clean child an execution. Thread-safe; calls block.

A job whose worker dies, or whose process is killed by no limit of ours, or runs out of wall-clock time, is run again alone on a fresh
worker that has just passed a control probe: it may have been the machine. A job that breaks two fresh workers is ``kills_grader``.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox.backends import find_backend
from flywheel.sandbox.base import ExecResult, Job, Limits, WorkerDiedError
from flywheel.sandbox.execution import Execution, drive
from flywheel.sandbox.inside.plain import pack
from flywheel.sandbox.worker import Worker

PROBE = Job(
    kind="calls",
    body={"nonce": "probe", "source": "def f(x):\n    return x + 1\n", "entry_point": "f", "calls": ["[[41], {}]"]},
)
PROBE_FRAMES = pack("probe", 0, "value", 42) + pack("probe", 1, "end", None)


def _broken(result: ExecResult) -> bool:
    """Whether something other than a limit of ours killed the process."""
    return result.exit_code == -signal.SIGKILL and result.limit is None and not result.stopped


def _doubled(limits: Limits) -> Limits:
    return dataclasses.replace(limits, idle_s=2 * limits.idle_s, wall_s=2 * limits.wall_s)


class WarmPool:
    """Keeps warm workers and runs jobs on them.

    Raises:
        ConfigError: the backend is unknown.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self._backend = find_backend(self.config)
        self.capacity = max(2, self.config.workers)  # an assert test takes two
        self._idle: collections.deque[Worker] = collections.deque()
        self._num_workers = 0
        self._closed = False
        self._failure: SandboxError | None = None
        self._changed = threading.Condition()
        self._turnstile = threading.Lock()
        self._alone = threading.Lock()
        # Sandboxes die with the thread that started them, so one thread starts them all and lives as long as the pool.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flywheel-sandbox")

    # ------------------------------------------------------------ jobs

    def run(self, job: Job) -> ExecResult:
        """Run one job and return how it ended.

        Raises:
            SandboxError: sandboxes can't be started; it is not the job's fault.
        """
        return self._run((job,))[0]

    def run_pair(self, served: Job, leader: Job) -> tuple[ExecResult, ExecResult]:
        """Run two jobs in two sandboxes with a socket between them; when the leader ends, the served one is stopped.

        Raises:
            SandboxError: sandboxes can't be started; it is not the jobs' fault.
        """
        first, second = self._run((served, leader))
        return first, second

    async def arun(self, job: Job) -> ExecResult:
        """Run one job without blocking the event loop; raises as `run` does."""
        return await asyncio.to_thread(self.run, job)

    def limits(self, *, cpu_s: float | None = None, memory_mb: int | None = None) -> Limits:
        """Return limits for one execution: what a task asks for, within what the recipe allows."""
        allowed = self.config
        cpu = min(allowed.cpu_s, cpu_s) if cpu_s else allowed.cpu_s
        memory = min(allowed.memory_mb, memory_mb) if memory_mb else allowed.memory_mb
        # A second try, alone, has twice the time; both together stay below 1.5 times the recipe's wall_s.
        wall = min(allowed.wall_s / 2, 6 * cpu + 2)
        return Limits(cpu_s=cpu, idle_s=min(wall, cpu + 1), wall_s=wall, memory_bytes=memory * 2**20)

    def _run(self, jobs: tuple[Job, ...]) -> list[ExecResult]:
        try:
            return self._run_and_again(jobs)
        except OSError as error:  # no descriptors left, for one
            raise SandboxError(f"can't run a job in a sandbox: {error}") from error

    def _run_and_again(self, jobs: tuple[Job, ...]) -> list[ExecResult]:
        with self._checkout(len(jobs)) as workers, contextlib.suppress(WorkerDiedError):
            results = self._drive(workers, jobs)
            if not any(_broken(result) or result.limit == "wall" for result in results):
                return results
        return self._run_alone(jobs)

    def _run_alone(self, jobs: tuple[Job, ...]) -> list[ExecResult]:
        patient = tuple(dataclasses.replace(job, limits=_doubled(job.limits)) for job in jobs)
        with self._alone:
            for _ in range(2):
                workers = [self._start() for _ in jobs]
                try:
                    results = self._drive(workers, patient)
                    if not any(_broken(result) for result in results):
                        return results
                except WorkerDiedError:
                    pass
                finally:
                    for worker in workers:
                        worker.close()
        return [ExecResult(exit_code=-signal.SIGKILL, kills_grader=True) for _ in jobs]

    @staticmethod
    def _drive(workers: Sequence[Worker], jobs: Sequence[Job]) -> list[ExecResult]:
        if len(jobs) == 1:
            return drive([Execution(workers[0], jobs[0])])
        executions: list[Execution] = []
        ends = socket.socketpair()
        try:
            for worker, job, end in zip(workers, jobs, ends, strict=True):
                executions.append(Execution(worker, job, peer=end))
        except WorkerDiedError:
            for execution in executions:
                execution.worker.usable = False
                execution.abandon()
            raise
        finally:
            for end in ends:
                end.close()
        return drive(executions)

    # ------------------------------------------------------------ workers

    def _start(self) -> Worker:
        """Start a worker and see that it works.

        Raises:
            SandboxError: it does not.
        """
        try:
            return self._starter.submit(self._start_here).result()
        except RuntimeError as error:
            raise SandboxError("the sandbox pool is closed") from error

    def _start_here(self) -> Worker:
        worker = Worker.start(self._backend)
        try:
            (result,) = drive([Execution(worker, PROBE)])
        except WorkerDiedError as error:
            said = worker.said()
            worker.close()
            raise SandboxError(f"a fresh {self.config.backend} sandbox died on its control probe: {said}") from error
        if result.frames != PROBE_FRAMES or not worker.settle():
            worker.close()
            raise SandboxError(f"a fresh {self.config.backend} sandbox failed its control probe: {result!r}")
        return worker

    def warm(self) -> None:
        """Start the workers that are missing, in the background."""
        with self._changed:
            while not self._closed and self._num_workers < self.capacity:
                self._num_workers += 1
                self._starter.submit(self._start_here).add_done_callback(self._started)

    def _started(self, future: Future[Worker]) -> None:
        with self._changed:
            error = future.exception()
            if error is None and not self._closed:
                self._idle.append(future.result())
            else:
                self._num_workers -= 1
                if error is None:
                    future.result().close()
                else:
                    self._failure = error if isinstance(error, SandboxError) else SandboxError(f"can't start a sandbox: {error}")
            self._changed.notify_all()

    @contextlib.contextmanager
    def _checkout(self, count: int) -> Iterator[list[Worker]]:
        workers = self._take(count)
        try:
            while not all(worker.settle() for worker in workers):
                unfit, workers = workers, []
                self._give_back(unfit)
                workers = self._take(count)
            yield workers
        finally:
            self._give_back(workers)

    def _take(self, count: int) -> list[Worker]:
        with self._turnstile, self._changed:  # one caller waits at a time, so that a pair is never starved by singles
            self._failure = None
            while len(self._idle) < count:
                if self._closed:
                    raise SandboxError("the sandbox pool is closed")
                if self._failure is not None:
                    raise self._failure
                self.warm()
                self._changed.wait(timeout=1.0)
            return [self._idle.popleft() for _ in range(count)]  # who has waited longest has its next child ready

    def _give_back(self, workers: Sequence[Worker]) -> None:
        dead = []
        with self._changed:
            for worker in workers:
                if worker.usable and not self._closed:
                    self._idle.append(worker)
                else:
                    self._num_workers -= 1
                    dead.append(worker)
            self._changed.notify_all()
        for worker in dead:
            worker.close()
        if dead and not self._closed:
            self.warm()

    def close(self) -> None:
        """End every sandbox; jobs in flight end with theirs."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, collections.deque()
            self._num_workers -= len(idle)
            self._changed.notify_all()
        for worker in idle:
            worker.close()
        self._starter.shutdown(wait=True)
