"""One warm worker seen from the host: a sandbox with a zygote in it, and the executions that are asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from flywheel.errors import SandboxError
from flywheel.sandbox import bubblewrap, seccomp, unsafe
from flywheel.sandbox.base import ExecResult, Job, LimitHit, WorkerDiedError
from flywheel.sandbox.inside.plain import HEAD
from flywheel.sandbox.launch import NOBODY

MODULES = ("plain", "channel", "answer", "served", "node", "runners", "zygote")
START_TIMEOUT_S = 60.0
REPORT_GRACE_S = 20.0  # a worker that says nothing for this long after a job's wall limit is dead
MAX_FRAMES_BYTES = 4 * 2**20  # decoded in the host's own memory
KILL = b"kill"
EXIT_MEMORY = 71
ARGUMENTS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-c")

# The zygote's modules come in over the control socket, so that no file of the host's needs to be readable in there.
BOOTSTRAP = """
import json, socket, sys, types
control = socket.socket(fileno=int(sys.argv[1]))
size = int(control.recv(32)); data = b""
while len(data) < size:
    part = control.recv(65536)
    if not part: sys.exit(1)
    data += part
first = json.loads(data)
for name in ("flywheel", "flywheel.sandbox", "flywheel.sandbox.inside"):
    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = []
for name, source in first["modules"]:
    full = "flywheel.sandbox.inside." + name
    module = sys.modules[full] = types.ModuleType(full)
    setattr(sys.modules["flywheel.sandbox.inside"], name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
del data
module.main(control.detach(), first["setup"])
"""


class Worker:
    """A running sandbox. Use `start`; one execution at a time."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: IO[bytes], home: str, *, isolated: bool) -> None:
        self.control, self.home = control, home
        self.usable = True
        self._process, self._log, self._isolated = process, log, isolated

    @classmethod
    def start(cls, backend: str, *, disk_bytes: int = 64 * 2**20) -> Worker:
        """Start a sandbox and wait for its zygote; call it from a thread that outlives the worker.

        Raises:
            SandboxError: it did not start; the message holds what it said.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = tempfile.TemporaryFile(prefix="flywheel-sandbox-")  # noqa: SIM115 - lives as long as the worker
        isolated = backend != "unsafe"
        python = bubblewrap.interpreter_inside() if isolated else bubblewrap.interpreter()
        argv = [python, *ARGUMENTS, BOOTSTRAP, str(theirs.fileno())]
        home = bubblewrap.HOME if isolated else unsafe.make_home()
        try:
            if isolated:
                process = bubblewrap.start(argv, disk_bytes=disk_bytes, pass_fd=theirs.fileno(), log=log)
            else:
                process = unsafe.start(argv, home=home, pass_fd=theirs.fileno(), log=log)
        except BaseException:
            ours.close()
            log.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, ours, log, home, isolated=isolated)
        try:
            worker._hand_over()
        except (OSError, TimeoutError) as error:
            said = worker.said()
            worker.close()
            raise SandboxError(
                f"a {backend} sandbox did not start: {said or error}. Run the preflight check to see what it needs"
            ) from error
        return worker

    def _hand_over(self) -> None:
        setup: dict[str, Any] = {"isolated": self._isolated, "user": NOBODY, "home": self.home}
        filters = {kind: seccomp.build(kind) for kind in ("one", "program")} if self._isolated else {}
        setup["filters"] = {kind: program.hex() for kind, program in filters.items() if program is not None}
        folder = Path(__file__).with_name("inside")
        modules = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]
        data = json.dumps({"modules": modules, "setup": setup}).encode()
        self.control.settimeout(START_TIMEOUT_S)
        self.control.send(str(len(data)).encode())
        for at in range(0, len(data), 32768):
            self.control.send(data[at : at + 32768])
        if self.control.recv(64) != b"ready":
            raise OSError("the sandbox ended")

    def said(self) -> str:
        """Return the end of what the sandbox wrote to its log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        self._log.seek(0)
        return self._log.read()[-1500:].decode(errors="replace").strip()

    @property
    def pid(self) -> int:
        """The host's id of the sandbox's outermost process."""
        return self._process.pid

    def close(self) -> None:
        """End the sandbox and everything in it."""
        self.usable = False
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()
        if not self._isolated:
            shutil.rmtree(self.home, ignore_errors=True)


class Execution:
    """One job in flight on one worker: owns its descriptors, collects what comes out, and says how it ended."""

    def __init__(self, worker: Worker, job: Job, *, peer: socket.socket | None = None, attachments: Sequence[bytes] = ()) -> None:
        self.worker, self.job = worker, job
        self.report: dict[str, Any] | None = None
        self.deadline = time.monotonic() + job.limits.wall_s + REPORT_GRACE_S
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
        elif code == EXIT_MEMORY and self.job.kind != "exec":
            limit = "memory"
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
