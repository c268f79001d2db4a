"""One job in flight on one warm worker: what goes in, what comes out, and how it ended."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import cast

from flywheel.sandbox.base import ExecResult, Job, LimitHit, WorkerDiedError
from flywheel.sandbox.inside.messages import Report, Request
from flywheel.sandbox.inside.plain import HEAD, split_last_word
from flywheel.sandbox.inside.refusals import EXIT_STATUS
from flywheel.sandbox.worker import REPORT_GRACE_S, Worker

WATCHED = ("exec", "node")
WATCH_S = 0.1  # between looks at what a command's processes hold
REFUSED: dict[int, LimitHit] = {status: cast(LimitHit, limit) for limit, status in EXIT_STATUS.items()}


class Execution:
    """One job in flight on one worker: owns its descriptors, collects what comes out, and says how it ended.

    A judged process's result is known when it has said its last word and closed every stream. Its sandbox is then still busy with its end.
    """

    def __init__(self, worker: Worker, job: Job, *, peer: socket.socket | None = None, attachments: Sequence[bytes] = ()) -> None:
        self.worker, self.job = worker, job
        self._report: Report | None = None
        self.deadline = time.monotonic() + job.limits.wall_s + REPORT_GRACE_S
        self._next_look = 0.0
        self._cpu_at_first = worker.cpu_s() if job.kind in WATCHED else 0.0
        self._limit: LimitHit | None = None
        self._killed = self._has_said_all = False
        body = json.dumps({"kind": job.kind, **job.body}).encode()
        self._outgoing = memoryview(b"".join(HEAD.pack(len(part)) + part for part in (body, *attachments)))
        self._is_session = job.kind in ("exec", "put", "get")
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        stdout_r, stdout_w = os.pipe()
        stderr_r, stderr_w = os.pipe()
        self._pipes = (stdout_r, stderr_r)
        self._buffers: dict[int, bytearray] = {fd: bytearray() for fd in (self._channel.fileno(), stdout_r, stderr_r)}
        self._open = set(self._buffers)
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
        given = [stdout_w, stderr_w, theirs.detach()]
        if job.stdin:
            given.append(os.memfd_create("stdin"))
            os.write(given[-1], job.stdin)
            os.lseek(given[-1], 0, os.SEEK_SET)
        try:
            self._write()  # most jobs fit into the socket, where they wait for the child
            worker.ask(self._request(has_peer=peer is not None), given if peer is None else [*given[:3], peer.fileno(), *given[3:]])
        except WorkerDiedError:
            self.abandon()
            raise
        finally:
            for fd in given:
                os.close(fd)

    def _request(self, *, has_peer: bool) -> Request:
        limits = self.job.limits
        return Request(
            cpu_s=limits.cpu_s,
            idle_s=limits.idle_s,
            wall_s=limits.wall_s,
            memory_bytes=limits.memory_bytes,
            file_bytes=limits.file_bytes,
            num_processes=limits.num_processes,
            num_files=limits.num_files,
            is_session=self._is_session,
            becomes_program=self.job.kind == "node",
            has_peer=has_peer,
            has_stdin=bool(self.job.stdin),
        )

    @property
    def has_ended(self) -> bool:
        """Whether the result is known."""
        return self._report is not None or self._has_said_all

    def register(self, poll: select.poll) -> list[int]:
        """Have a poll watch the descriptors that `ready` handles, as long as there is something to expect from them; returns them."""
        self._poll = poll
        for fd in self._open:
            poll.register(fd, select.POLLIN)
        if self._outgoing:
            poll.register(self._channel, select.POLLIN | select.POLLOUT)
        poll.register(self.worker.control, select.POLLIN)
        return [*self._open, self.worker.control.fileno()]

    def ready(self, fd: int, events: int) -> None:
        """Handle one descriptor that the poll named.

        Raises:
            WorkerDiedError: the worker is gone.
        """
        if self.has_ended:
            return
        if fd == self.worker.control.fileno():
            self._report = self.worker.take_report()
            for source in list(self._open):
                while self._read(source):
                    pass
        elif events & select.POLLOUT and self._outgoing:
            self._write()
            if not self._outgoing:
                self._poll.modify(fd, select.POLLIN)
        else:
            self._read(fd)
        if self.has_ended:
            for source in (*self._open, self.worker.control):
                self._poll.unregister(source)

    def _write(self) -> None:
        try:
            self._outgoing = self._outgoing[self._channel.send(self._outgoing[: 1 << 18]) :]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing = memoryview(b"")

    def _read(self, fd: int) -> bool:
        """Read once; whether there may be more."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._open.discard(fd)
            self._poll.unregister(fd)
            self._has_said_all = not self._open and self._split()[1] is not None
            return False
        buffer, limits = self._buffers[fd], self.job.limits
        cap = limits.frames_bytes if fd == self._channel.fileno() else limits.output_bytes
        buffer += data[: max(0, cap - len(buffer))]
        if len(buffer) >= cap:
            self.kill("output")
        return True

    def _split(self) -> tuple[bytes, int | None]:
        """Return the frames so far, and the exit status where a judged process has given it."""
        frames = bytes(self._buffers[self._channel.fileno()])
        return (frames, None) if self._is_session else split_last_word(frames)

    def watch(self) -> None:
        """End a command whose processes use more together than its limits; each one's own is limited by the kernel.

        A program that is no Python is watched, too: memory that it could share is not part of what the kernel limits for it.
        """
        if self.job.kind in WATCHED and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + WATCH_S
            if self.worker.resident_bytes() > self.job.limits.memory_bytes:
                self.kill("memory")
            elif self.worker.cpu_s() - self._cpu_at_first > self.job.limits.cpu_s:
                self.kill("cpu")

    def kill(self, limit: LimitHit | None = None) -> None:
        """Have the child killed; its report still comes."""
        if not self._killed and not self.has_ended:
            self._killed, self._limit = True, limit
            self.worker.stop()

    def abandon(self) -> None:
        """Close what this execution holds on this side."""
        self._channel.close()
        for fd in self._pipes:
            os.close(fd)

    def result(self) -> ExecResult:
        """Return how it ended, once that is known."""
        frames, status = self._split()
        stdout, stderr = (bytes(self._buffers[pipe]) for pipe in self._pipes)
        limit: LimitHit | None = None
        if self._report is not None:
            status = self._report.exit_code
            limit = None if self._report.limit in ("", "host") else cast(LimitHit, self._report.limit)
        assert status is not None
        if status == -signal.SIGXCPU:
            limit = "cpu"
        elif status == -signal.SIGXFSZ:
            limit = "disk"
        elif self.job.kind != "exec":
            limit = limit or REFUSED.get(status)
        if max(len(stdout), len(stderr)) >= self.job.limits.output_bytes:
            limit = "output"
        return ExecResult(
            exit_code=status,
            stdout=stdout,
            stderr=stderr,
            frames=frames,
            limit=self._limit or limit,
            stopped=self._killed and self._limit is None,
        )


def drive(executions: Sequence[Execution]) -> list[ExecResult]:
    """Run executions to their ends in this thread. The last one leads: when it has ended, the others are stopped.

    Raises:
        WorkerDiedError: a worker died or fell silent; its sandbox is then unusable, and so are its companions'.
    """
    poll = select.poll()
    owners = {fd: execution for execution in executions for fd in execution.register(poll)}
    try:
        while running := [execution for execution in executions if not execution.has_ended]:
            left = min(execution.deadline for execution in running) - time.monotonic()
            for fd, events in poll.poll(1000 * max(0.0, min(left, WATCH_S))):
                owners[fd].ready(fd, events)
            if left <= 0:
                raise WorkerDiedError("a sandbox worker fell silent")
            for execution in running:
                execution.watch()
            if executions[-1].has_ended:
                for execution in executions[:-1]:
                    execution.kill()
        return [execution.result() for execution in executions]
    except BaseException:
        for execution in executions:
            if not execution.has_ended:
                execution.worker.usable = False
        raise
    finally:
        for execution in executions:
            execution.abandon()
