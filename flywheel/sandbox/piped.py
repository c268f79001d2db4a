"""A program in a sandbox of its own, spoken to over pipes: for a server that outlives one job, such as a prover's.

The sandbox is the same as every other (`flywheel.sandbox.bubblewrap`): no network, nothing of the host's but the system's programs and
the folders that the caller shows, read-only. CPU time is the caller's to watch (`usage`), since one process serves many jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from flywheel.sandbox import bubblewrap, unsafe
from flywheel.sandbox.launch import NOBODY

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
# Becomes the program: limits first, then an ordinary user for good where the sandbox was built by root.
_BECOME = """
import json, os, resource, sys
setup = json.loads(sys.argv[1])
for name, value in setup["limits"].items():
    hard = resource.getrlimit(getattr(resource, name))[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(getattr(resource, name), (value, value))
if setup["user"] is not None and os.getuid() == 0:
    os.setgroups([]); os.setresgid(*[setup["user"]] * 3); os.setresuid(*[setup["user"]] * 3)
os.umask(0o077)
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, **setup["env"]})
"""


class PipedProcess:
    """A running program. Start it from a thread that outlives it: a sandbox dies with the thread that started it.

    Args:
        argv: The program, by its absolute path, and its arguments.
        backend: ``unsafe`` for a bare process; anything else is bubblewrap.
        show: Host folders to show read-only under their own paths, without links in them.
        env: Environment variables beside the sandbox's own.
        memory_bytes: What its heap, stacks and private writable mappings may come to; files that it maps to read don't count.
        disk_bytes: Size of its private folder, and of a file in it.
        program: What processes inside find where they look themselves up in ``/proc``; the program by default.

    Raises:
        SandboxError: it can't be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        backend: str = "bubblewrap",
        show: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
        memory_bytes: int = 4 << 30,
        disk_bytes: int = 64 << 20,
        program: str | None = None,
    ) -> None:
        self._bare = backend == "unsafe"
        limits = {"RLIMIT_DATA": memory_bytes, "RLIMIT_FSIZE": disk_bytes, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 1024}
        if self._bare:
            del limits["RLIMIT_NPROC"]  # it counts every process of this user
        setup = {"limits": limits, "env": dict(env or {}), "user": None if self._bare else NOBODY}
        python = bubblewrap.interpreter() if self._bare else bubblewrap.interpreter_inside()
        line = [python, "-I", "-S", "-B", "-c", _BECOME, json.dumps(setup), *argv]
        self._log = tempfile.TemporaryFile(prefix="flywheel-piped-")  # noqa: SIM115 - lives as long as the process
        self._home = unsafe.make_home() if self._bare else None
        try:
            if self._home is not None:
                self._process = unsafe.start_piped(line, home=self._home, log=self._log)
            else:
                self._process = bubblewrap.start_piped(line, disk_bytes=disk_bytes, log=self._log, mounts=_mounts(program or argv[0], show))
        except BaseException:
            self._log.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    @property
    def pid(self) -> int:
        """The host's id of the outermost process."""
        return self._process.pid

    def exchange(self, outgoing: memoryview, wait_s: float) -> tuple[memoryview, bytes, bool]:
        """Write some of `outgoing` and read what there is, waiting at most `wait_s`.

        Returns:
            What is left to write, what was read, and whether the program has closed its output.
        """
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        if outgoing:
            poll.register(self._stdin, select.POLLOUT)
        data, ended = b"", False
        for fd, _ in poll.poll(max(0.0, wait_s) * 1000):
            if fd == self._stdout:
                with contextlib.suppress(BlockingIOError):
                    data = os.read(self._stdout, 1 << 16)
                    ended = not data
            else:
                try:
                    outgoing = outgoing[os.write(self._stdin, outgoing[: 1 << 16]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    outgoing = memoryview(b"")  # it reads no more; that it has ended shows on its output
        return outgoing, data, ended

    def usage(self) -> tuple[float, int]:
        """Return the CPU seconds that it and its descendants have used, and the bytes of memory that they hold."""
        cpu, memory, pending = 0.0, 0, [self._process.pid]
        while pending:
            pid = pending.pop()
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu += sum(map(int, fields[11:15])) / _TICKS
                memory += int(fields[21]) * _PAGE
                for thread in os.listdir(f"/proc/{pid}/task"):
                    pending += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        return cpu, memory

    def said(self) -> str:
        """Return the end of what it wrote to standard error."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode(errors="replace").strip()

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit status (negative for a signal), or None if it has not ended by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def kill(self) -> None:
        """End it and everything in its sandbox, and let go of what it held."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if self._bare:
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)


def _mounts(program: str, show: Sequence[Path]) -> list[str]:
    """Return bubblewrap's arguments that show folders, and tell the program where it lies as ``/proc`` would."""
    arguments: list[str] = []
    made: set[str] = set()

    def make(folder: Path) -> None:
        """Make a folder and its parents for everybody: bubblewrap's own are for their owner only."""
        for path in (*reversed(folder.parents), folder):
            if str(path) not in {"/", bubblewrap.HOME, *bubblewrap.SYSTEM_FOLDERS, *made}:
                made.add(str(path))
                arguments.extend(("--perms", "0755", "--dir", str(path)))

    for folder in dict.fromkeys(show):
        if not any(folder.is_relative_to(system) for system in bubblewrap.SYSTEM_FOLDERS):
            make(folder.parent)
            arguments += ["--ro-bind", str(folder), str(folder)]
    # There is no /proc in a sandbox; a program that looks itself up there finds this much.
    for name in ("self", *map(str, range(1, 9))):
        make(Path("/proc", name))
        arguments += ["--symlink", program, f"/proc/{name}/exe"]
    return arguments
