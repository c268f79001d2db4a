"""One warm worker seen from the host: a sandbox with a zygote in it, and the executions that are asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

from flywheel.errors import SandboxError
from flywheel.sandbox import bootstrap, seccomp
from flywheel.sandbox.base import Backend, ExecResult, Job, LimitHit, Started, WorkerDiedError
from flywheel.sandbox.inside.plain import HEAD
from flywheel.sandbox.inside.refusals import EXIT_STATUS
from flywheel.sandbox.launch import NOBODY

START_TIMEOUT_S = 60.0
REPORT_GRACE_S = 20.0  # a worker that says nothing for this long after a job's wall limit is dead
WATCH_S = 0.1  # between looks at what a command's processes hold
MAX_FRAMES_BYTES = 4 * 2**20  # decoded in the host's own memory
KILL = b"kill"
REFUSED: dict[int, LimitHit] = {status: cast(LimitHit, limit) for limit, status in EXIT_STATUS.items()}


class Worker:
    """A running sandbox. Use `start`; one execution at a time."""

    def __init__(self, started: Started) -> None:
        self.control, self.home = started.control, started.home
        self.usable = True
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


class Execution:
    """One job in flight on one worker: owns its descriptors, collects what comes out, and says how it ended."""

    def __init__(self, worker: Worker, job: Job, *, peer: socket.socket | None = None, attachments: Sequence[bytes] = ()) -> None:
        self.worker, self.job = worker, job
        self.report: dict[str, Any] | None = None
        self.deadline = time.monotonic() + job.limits.wall_s + REPORT_GRACE_S
        self._next_look = 0.0
        self._cpu_at_first = worker.cpu_s() if job.kind == "exec" else 0.0
        self._limit: LimitHit | None = None
        self._killed = False
        body = json.dumps({"kind": job.kind, **job.body}).encode()
        self._outgoing = memoryview(b"".join(HEAD.pack(len(part)) + part for part in (body, *attachments)))
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        stdout_r, stdout_w = os.pipe()
        stderr_r, stderr_w = os.pipe()
        self._buffers: dict[int, bytearray] = {fd: bytearray() for fd in (self._channel.fileno(), stdout_r, stderr_r)}
        self._open = set(self._buffers)
        self._pipes = (stdout_r, stderr_r)
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
        given = {"stdout": stdout_w, "stderr": stderr_w, "channel": theirs.fileno()}
        if job.stdin:
            given["stdin"] = os.memfd_create("stdin")
            os.write(given["stdin"], job.stdin)
            os.lseek(given["stdin"], 0, os.SEEK_SET)
        try:
            self._send(given if peer is None else {**given, "peer": peer.fileno()})
        except OSError as error:
            self.abandon()
            raise WorkerDiedError("a sandbox worker is gone") from error
        finally:
            theirs.close()
            for name in {"stdout", "stderr", "stdin"} & set(given):
                os.close(given[name])

    def _send(self, given: dict[str, int]) -> None:
        limits = self.job.limits
        session = self.job.kind in ("exec", "put", "get")
        request = {
            "fds": list(given),
            "cpu_s": limits.cpu_s,
            "idle_s": limits.idle_s,
            "wall_s": limits.wall_s,
            "memory_bytes": limits.memory_bytes,
            "num_processes": limits.num_processes,
            "num_files": limits.num_files,
            "file_bytes": limits.file_bytes,
            "keep_files": session,
            "processes": session,
            "filter": "many" if session else "program" if self.job.kind == "node" else "one",
            "reserves_memory": self.job.kind == "node",
        }
        socket.send_fds(self.worker.control, [json.dumps(request).encode()], list(given.values()))

    def interests(self) -> dict[int, int]:
        """Return what to poll for."""
        wanted = dict.fromkeys(self._open, select.POLLIN)
        if self._outgoing and self._channel.fileno() in self._open:
            wanted[self._channel.fileno()] |= select.POLLOUT
        wanted[self.worker.control.fileno()] = select.POLLIN
        return wanted

    def ready(self, fd: int, events: int) -> None:
        """Handle one descriptor that poll named.

        Raises:
            WorkerDiedError: the worker is gone.
        """
        if fd == self.worker.control.fileno():
            try:
                data = self.worker.control.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise WorkerDiedError("a sandbox worker died during a job")
            self.report = json.loads(data)
            self.worker.usable = self.worker.usable and self.report["clean"]
            for source in list(self._open):
                while self._read(source):
                    pass
        elif fd in self._open:
            if events & select.POLLOUT and self._outgoing:
                self._write()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read(fd)

    def _write(self) -> None:
        try:
            self._outgoing = self._outgoing[self._channel.send(self._outgoing[: 1 << 18]) :]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing = memoryview(b"")

    def _read(self, fd: int) -> bool:
        """Read once; whether there may be more."""
        if fd not in self._open:
            return False
        try:
            data = self._channel.recv(1 << 16) if fd == self._channel.fileno() else os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        buffer = self._buffers[fd]
        if not data:
            self._open.discard(fd)
            return False
        cap = MAX_FRAMES_BYTES if fd == self._channel.fileno() else self.job.limits.output_bytes
        buffer += data[: max(0, cap - len(buffer))]
        if len(buffer) >= cap:
            self.kill("output")
        return True

    def watch(self) -> None:
        """End a command whose processes use more together than its limits; each one's own is limited by the kernel."""
        if self.job.kind == "exec" and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + WATCH_S
            if self.worker.resident_bytes() > self.job.limits.memory_bytes:
                self.kill("memory")
            elif self.worker.cpu_s() - self._cpu_at_first > self.job.limits.cpu_s:
                self.kill("cpu")

    def kill(self, limit: LimitHit | None = None) -> None:
        """Have the child killed; its report still comes."""
        if not self._killed and self.report is None:
            self._killed, self._limit = True, limit
            with contextlib.suppress(OSError):
                self.worker.control.send(KILL)

    def abandon(self) -> None:
        """Close what this execution holds on this side."""
        self._channel.close()
        for fd in self._pipes:
            os.close(fd)

    def result(self) -> ExecResult:
        """Return how it ended, once the report is there."""
        assert self.report is not None
        limit, code = self.report["limit"], self.report["exit"]
        if limit == "host":
            limit = None
        if code == -signal.SIGXCPU:
            limit = "cpu"
        elif code == -signal.SIGXFSZ:
            limit = "disk"
        elif self.job.kind != "exec":
            limit = limit or REFUSED.get(code)
        frames, stdout, stderr = (bytes(buffer) for buffer in self._buffers.values())
        if max(len(stdout), len(stderr)) >= self.job.limits.output_bytes:
            limit = "output"
        return ExecResult(
            exit_code=code,
            stdout=stdout,
            stderr=stderr,
            frames=frames,
            limit=self._limit or limit,
            cpu_s=self.report["cpu_s"],
            wall_s=self.report["wall_s"],
            stopped=self._killed and self._limit is None,
        )
