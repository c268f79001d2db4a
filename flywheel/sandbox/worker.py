"""One warm worker seen from the host: a sandbox with a zygote in it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Sequence

from flywheel.errors import SandboxError
from flywheel.sandbox import bootstrap, seccomp
from flywheel.sandbox.base import Backend, Started, WorkerDiedError
from flywheel.sandbox.inside.messages import Report, Request, unpack_report
from flywheel.sandbox.launch import NOBODY

START_TIMEOUT_S = 60.0
REPORT_GRACE_S = 20.0  # a worker that says nothing for this long after a job's wall limit is dead
LINGER_S = 0.1  # how long a process that has said its last word may take to end
KILL = b"kill"


class Worker:
    """A running sandbox. Use `start`; one execution at a time."""

    def __init__(self, started: Started) -> None:
        self.control, self.home = started.control, started.home
        self.usable = True
        self._is_busy = False
        self._kind = b"one"  # of the child that waits
        self._started = started

    @classmethod
    def start(cls, backend: Backend) -> Worker:
        """Start a sandbox and wait for its zygote; call it from a thread that outlives the worker.

        Raises:
            SandboxError: it did not start; the message holds what it said.
        """
        worker = cls(backend.start())
        try:
            worker._hand_over()
        except (OSError, TimeoutError) as error:
            said = worker.said()
            worker.close()
            raise SandboxError(
                f"a {backend.name} sandbox did not start: {said or error}. Run the preflight check to see what it needs"
            ) from error
        return worker

    def _hand_over(self) -> None:
        started = self._started
        filters = {kind: program.hex() for kind in seccomp.KINDS if started.isolated and (program := seccomp.build(kind)) is not None}
        data = bootstrap.first_message(
            {"isolated": started.isolated, "user": NOBODY, "home": started.home, "scratch": started.scratch, "filters": filters}
        )
        self.control.settimeout(START_TIMEOUT_S)
        self.control.send(str(len(data)).encode())
        for at in range(0, len(data), 32768):
            self.control.send(data[at : at + 32768])
        if self.control.recv(64) != b"ready":
            raise OSError("the sandbox ended")
        self.control.setblocking(False)

    def ask(self, request: Request, fds: Sequence[int]) -> None:
        """Have an execution begin.

        Raises:
            WorkerDiedError: the worker is gone, or can't be used again.
        """
        if not self.settle():
            raise WorkerDiedError("a sandbox worker can't be used again")
        try:
            if request.kind != self._kind:
                self.control.send(request.kind)
                self._kind = request.kind
            socket.send_fds(self.control, [request.pack()], fds)
        except OSError as error:
            self.usable = False
            raise WorkerDiedError("a sandbox worker is gone") from error
        self._is_busy = True

    def stop(self) -> None:
        """Have the process that runs killed; its report still comes."""
        with contextlib.suppress(OSError):
            self.control.send(KILL)

    def take_report(self) -> Report:
        """Return how the execution ended, once the control socket can be read.

        Raises:
            WorkerDiedError: the worker is gone.
        """
        try:
            report = unpack_report(self.control.recv(65536))
        except (OSError, struct.error):
            self.usable = False
            raise WorkerDiedError("a sandbox worker died during a job") from None
        self._is_busy = False
        self.usable = self.usable and report.is_clean
        return report

    def settle(self) -> bool:
        """Wait until nothing is left of an execution whose result is known; whether another may begin."""
        if self._is_busy and self.usable:
            poll = select.poll()
            poll.register(self.control, select.POLLIN)
            if not poll.poll(1000 * LINGER_S):
                self.stop()
                poll.poll(1000 * REPORT_GRACE_S)
            with contextlib.suppress(WorkerDiedError):
                self.take_report()
        return self.usable

    def said(self) -> str:
        """Return the end of what the sandbox wrote to its log."""
        return self._started.handle.said()

    def resident_bytes(self) -> int:
        """Return the memory that everything in the sandbox holds, or 0 where its backend limits that."""
        return self._started.handle.resident_bytes()

    def cpu_s(self) -> float:
        """Return the CPU time that everything in the sandbox has used so far, or 0 where its backend can't tell."""
        return self._started.handle.cpu_s()

    @property
    def pid(self) -> int:
        """The host's id of the sandbox's outermost process."""
        return self._started.handle.pid

    def close(self) -> None:
        """End the sandbox and everything in it."""
        self.usable = False
        self.control.close()
        self._started.handle.end()
