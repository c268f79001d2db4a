"""A sandbox that is a process of this host: its control socket, its log, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from flywheel.errors import SandboxError

SOCKET_BYTES = 208 * 1024  # the kernel's default (net.core.wmem_default); `seccomp` keeps it there


def family(pid: int) -> list[int]:
    """Return a process and all its descendants that are alive."""
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        with contextlib.suppress(OSError):  # it has just ended
            for thread in os.listdir(f"/proc/{found[-1]}/task"):
                queue += map(int, Path(f"/proc/{found[-1]}/task/{thread}/children").read_text().split())
    return found


def _held_bytes(pid: int) -> int:
    """Return the memory of a process that is no file's: what it shares with others in proportion, where it shares any."""
    try:
        status = _fields(Path(f"/proc/{pid}/status"))
        shared = _fields(Path(f"/proc/{pid}/smaps_rollup"))["Pss_Shmem"] if status["RssShmem"] else 0
    except (OSError, KeyError):  # it has just ended
        return 0
    return 1024 * (status["RssAnon"] + shared)


def _sockets_bytes(pid: int) -> int:
    """Return the most that all sockets of a process's own network may hold in the kernel, which counts them as nobody's."""
    try:
        used = Path(f"/proc/{pid}/net/sockstat").read_text().split("\n", 1)[0]
        return SOCKET_BYTES * int(used.removeprefix("sockets: used "))
    except (OSError, ValueError):  # it has just ended
        return 0


def _cpu_ticks(pid: int) -> int:
    """Return what a process has used, and those of its children that it has waited for."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    except OSError:  # it has just ended
        return 0


def _fields(path: Path) -> dict[str, int]:
    """Return the sizes in a file of the kernel's, in KiB."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) for line in lines if line[-1] == "kB"}


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new control socket."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class ProcessHandle:
    """A `Handle`; `after` runs once the process is gone. `has_network` says that its descendants have a network of their own."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: IO[bytes], after: Callable[[], None] = lambda: None, *, has_network: bool = False
    ) -> None:
        self._process, self._log, self._after = process, log, after
        self._has_network = has_network

    @classmethod
    def start(
        cls,
        line: Sequence[str],
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        cwd: str = "/",
        after: Callable[[], None] = lambda: None,
        has_network: bool = False,
    ) -> ProcessHandle:
        """Start a command with nothing of this process but `pass_fds`.

        Raises:
            SandboxError: it can't be run.
        """
        log = tempfile.TemporaryFile(prefix="flywheel-sandbox-")  # noqa: SIM115 - lives as long as the sandbox
        try:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(line, stdin=quiet, stdout=quiet, stderr=log, pass_fds=pass_fds, env=env, cwd=cwd)
        except OSError as error:
            log.close()
            raise SandboxError(f"can't start {os.path.basename(line[0])}: {error}") from error
        return cls(process, log, after, has_network=has_network)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def resident_bytes(self) -> int:
        """Return the memory of it and all its descendants, and of their sockets."""
        pids = family(self.pid)
        return sum(map(_held_bytes, pids)) + (_sockets_bytes(pids[-1]) if self._has_network and len(pids) > 1 else 0)

    def cpu_s(self) -> float:
        """Return the CPU time of it and all its descendants, those that are gone included."""
        return sum(_cpu_ticks(pid) for pid in family(self.pid)) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        """Return the end of what it wrote to its log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        if self._log.closed:
            return ""
        self._log.seek(0)
        return self._log.read()[-1500:].decode(errors="replace").strip()

    def end(self) -> None:
        """Kill it and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._after()
