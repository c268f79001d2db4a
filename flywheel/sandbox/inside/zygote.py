"""The first process of a sandbox: a clean interpreter that forks one child for each execution and never runs a job itself.

It speaks with its host over one datagram-like socket (`SOCK_SEQPACKET`). The next child is forked ahead of its job, when every process
of the last one is gone, and waits at that socket for its request (limits and file descriptors, nothing else), while the first process
waits for its word that it has one. So nothing that is judged ever runs beside a child that waits, and a child does one job only.
The child waits behind its seccomp filter, and makes room for another where the host says that it needs one of another kind.
What a job is travels from the host straight to the child, so that nothing of one job is ever in the memory from which
the next child is forked. A judged child can't reach its parent: the parent is process 1 of its namespace (which ignores signals from
within), is not dumpable (so it can't be traced or read), and its descriptors were closed in the child.

After a fork each page of memory that either process writes to is copied, which is most of what an execution costs: whatever runs for
every job touches few objects.
"""

import _socket  # `socket` itself would bring modules that no job needs, into every child
import ctypes
import gc
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Iterable
from typing import Any

from flywheel.sandbox.inside import runners
from flywheel.sandbox.inside.channel import CHANNEL, PEER, receive_body
from flywheel.sandbox.inside.messages import KINDS, Request, pack_report, unpack_request

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CAPABILITY_VERSION_3 = 0x20080522
CONTROL, WORD = 100, 101  # while a child waits, out of the way of what it will be given
GIVEN = struct.pack("5i", *range(1, 6))  # as the kernel numbers descriptors where every number from 1 on is free
SPACE = _socket.CMSG_SPACE(len(GIVEN))
KILL = b"kill"
SLICE_S = 0.1  # between looks at a running child
BLIND_SLICE_S = 0.004  # the same, in a kernel (gVisor's) that can't wait for a child and for the host at once
OWN_PROCESSES = 2  # the zygote and the relay
OOM_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
MAX_NUM_FILES = 20_000  # in its folders: what the kernel keeps of a file counts towards no other limit
MAX_NUM_SIGNALS = 1024  # that wait, and timers: the kernel keeps them in memory of nobody's
IDLE_SHARE = 0.01  # a slice in which a child used less than this much of a CPU counts as idle
LIMITED = (
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_AS,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_CORE,
    resource.RLIMIT_MEMLOCK,
    resource.RLIMIT_SIGPENDING,
)
LIBC = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def make_filter(text: str) -> _Filter:
    """Return a seccomp filter, sent as hexadecimal digits, as the kernel takes it."""
    program = bytes.fromhex(text)
    return _Filter(len(program) // 8, program)


def install_filter(program: _Filter) -> None:
    """Put a seccomp filter on this process.

    Raises:
        OSError: the kernel refused it.
    """
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "can't install a seccomp filter")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used so far (0 once it is gone)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def has_handles() -> bool:
    """Whether this kernel has descriptors that become readable when a process ends."""
    try:
        os.close(os.pidfd_open(os.getpid()))
        return True
    except OSError:
        return False


def can_limit(what: int) -> bool:
    """Whether this kernel lets a limit be set; gVisor's has some of them fixed."""
    try:
        resource.setrlimit(what, resource.getrlimit(what))
        return True
    except (OSError, ValueError):
        return False


def receive(control: _socket.socket) -> bytes:
    """Return the next request, its descriptors numbered from 1 on, or a word for another kind; ends this process where nothing will come.

    Raises:
        OSError: its descriptors are others.
    """
    data, ancillary, _, _ = control.recvmsg(4096, SPACE)
    while data == KILL:  # meant for a child that had just ended by itself
        data, ancillary, _, _ = control.recvmsg(4096, SPACE)
    if not data:
        os._exit(0)
    if data in KINDS:
        return data
    given = ancillary[0][2]
    if given != GIVEN[: len(given)]:
        raise OSError("the kernel numbers descriptors in another way")
    return data


class Zygote:
    """The loop: one request, one child, one report."""

    def __init__(self, control: _socket.socket, setup: dict[str, Any]) -> None:
        self.control = control
        self.isolated: bool = setup["isolated"]
        self.scratch: list[str] = [folder for folder in setup["scratch"] if os.access(folder, os.W_OK)]
        self.child_filters = {kind.encode(): make_filter(text) for kind, text in setup["filters"].items()}
        self.kind = b"one"  # what most jobs need; the host says when it needs another
        self.fixed_limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, 0)]
        if can_limit(resource.RLIMIT_SIGPENDING):
            self.fixed_limits.append((resource.RLIMIT_SIGPENDING, MAX_NUM_SIGNALS))
        self.hard_limits = {what: resource.getrlimit(what)[1] for what in LIMITED}
        self.oom_counts = [path for path in OOM_COUNTS if os.path.exists(path)]
        self.num_oom_kills = self._oom_kills()
        self.files_at_first = self._num_files()
        self.has_handles = has_handles()
        self.poll = select.poll()
        self.poll.register(CONTROL, select.POLLIN)

    def serve(self) -> None:
        """Answer requests until the host is gone."""
        while True:
            pid, word = self._fork()
            data = os.read(word, 4096)
            os.close(word)
            if data in KINDS:
                os.waitpid(pid, 0)
                self.kind = data
                continue
            if not data:  # the host is gone, or something has ended the child while it waited: with what, nobody knows
                self._clean_up(pid, keep=False)
                os._exit(0)
            request = unpack_request(data)
            limit = self._wait(pid, request)
            if limit:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            is_clean = self._clean_up(pid, keep=request.is_session)
            if self.oom_counts and self._is_out_of_memory() and not limit:
                limit = "memory"
            self.control.send(pack_report(os.waitstatus_to_exitcode(status), limit, is_clean))

    def _fork(self) -> tuple[int, int]:
        """Return a child that waits for a job, and the pipe through which it says what it was given."""
        word, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._child(theirs)
        os.close(theirs)
        return pid, word

    def _child(self, word: int) -> None:
        status = 70
        try:
            os.setpgid(0, 0) if self.isolated else os.setsid()  # a bare process is to lose its terminal too
            os.dup2(word, WORD, inheritable=False)
            os.closerange(1, CONTROL)
            self._limit(self.fixed_limits)
            if not self.poll.poll(0):  # there is time
                runners.rehearse()
            program = self.child_filters.get(self.kind)
            if program:
                install_filter(program)
            data = receive(self.control)
            os.write(WORD, data)
            if data in KINDS:
                os._exit(0)
            request = unpack_request(data)
            if request.kind != self.kind:
                raise OSError("a request for another kind of child")
            num_given = CHANNEL + request.has_peer
            if request.has_stdin:
                os.dup2(num_given + 1, 0, inheritable=False)
            os.closerange(num_given + 1, 4096)
            # A runtime that reserves far more address space than it uses is limited in what it can write to.
            memory = resource.RLIMIT_DATA if request.becomes_program else resource.RLIMIT_AS
            self._limit(
                (
                    (resource.RLIMIT_CPU, int(request.cpu_s) + 2),
                    (memory, request.memory_bytes),
                    (resource.RLIMIT_FSIZE, request.file_bytes),
                    (resource.RLIMIT_NOFILE, request.num_files),
                    (resource.RLIMIT_NPROC, request.num_processes),
                )
            )
            gc.enable()
            status = runners.run(receive_body(CHANNEL), CHANNEL, PEER)
        finally:
            os._exit(status)

    def _limit(self, limits: Iterable[tuple[int, int]]) -> None:
        for what, value in limits:
            hard = self.hard_limits[what]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (value, value))

    def _wait(self, pid: int, request: Request) -> str:
        """Return when the child has ended, or is to be ended for a limit, which is returned."""
        started = last = marked = time.monotonic()
        cpu = used = idle = 0.0
        handle = os.pidfd_open(pid) if self.has_handles else None
        longest = SLICE_S
        if handle is not None:
            self.poll.register(handle, select.POLLIN)
        try:
            while True:
                if handle is None:
                    longest = min(BLIND_SLICE_S, 0.0005 + (last - started) / 8)
                wait = min(started + request.wall_s - last, max(0.005, (request.cpu_s - cpu) / 2), longest)
                ready = [fd for fd, _ in self.poll.poll(max(0.0, wait) * 1000)]
                if handle in ready or (handle is None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
                    return ""
                last, cpu = time.monotonic(), cpu_seconds(pid)
                if last - marked >= SLICE_S:
                    if cpu - used < IDLE_SHARE * (last - marked):  # a starved process still gets a little of every slice
                        idle += last - marked
                    marked, used = last, cpu
                if CONTROL in ready:
                    if not self.control.recv(64):
                        self._clean_up(pid, keep=False)  # a bare process's children do not end with it
                        os._exit(0)
                    return "host"
                if self.isolated and request.is_session and count_processes() > request.num_processes + OWN_PROCESSES:
                    return "processes"
                if self.isolated and self._num_files() > self.files_at_first + MAX_NUM_FILES:
                    return "disk"
                if cpu >= request.cpu_s:
                    return "cpu"
                if idle >= request.idle_s or last - started >= request.wall_s:
                    return "wall"
        finally:
            if handle is not None:
                self.poll.unregister(handle)
                os.close(handle)

    def _clean_up(self, pid: int, *, keep: bool) -> bool:
        """End every other process of the sandbox and empty its folder; whether both worked."""
        try:
            if self.isolated:
                # Whatever lives in the namespace descends from its process 1: without a child of that there is nothing.
                while True:
                    if os.waitpid(-1, os.WNOHANG)[0] == 0:
                        os.kill(-1, signal.SIGKILL)
                        os.waitpid(-1, 0)
            else:
                os.killpg(pid, signal.SIGKILL)
        except (ChildProcessError, ProcessLookupError):
            pass
        if keep:
            return True
        try:
            for folder in self.scratch:
                for entry in os.listdir(folder):
                    remove(os.path.join(folder, entry))
        except (OSError, RecursionError):
            return False
        return True

    def _num_files(self) -> int:
        """Return how many files its folders hold, as far as their file systems count them."""
        counts = map(os.statvfs, self.scratch)
        return sum(count.f_files - count.f_ffree for count in counts)

    def _is_out_of_memory(self) -> bool:
        """Whether the kernel has ended something for its memory since this was last asked."""
        before, self.num_oom_kills = self.num_oom_kills, self._oom_kills()
        return self.num_oom_kills > before

    def _oom_kills(self) -> int:
        """Return how often the kernel has ended something in this control group for its memory, 0 where that can't be seen."""
        for path in self.oom_counts:
            try:
                with open(path) as file:
                    return int(dict(line.split() for line in file)["oom_kill"])
            except (OSError, KeyError, ValueError):
                pass
        return 0


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in os.listdir(path):
            remove(os.path.join(path, entry))
        os.rmdir(path)
    else:
        os.unlink(path)


def count_processes() -> int:
    """Return how many processes this sandbox has, 0 where that can't be seen; the kernel's own limit is there then (gVisor has none)."""
    return sum(name.isdigit() for name in os.listdir("/proc")) if os.path.isdir("/proc/self") else 0


def drop_root(user: int) -> None:
    """Become an ordinary user for good, with no capability to inherit, where the sandbox was built by root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        LIBC.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def open_outputs() -> None:
    """Open Python's output streams anew: they ask once whether they can be sought, and what a child is given can not."""
    reader, writer = os.pipe()
    for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
        fd = getattr(sys, name).fileno()
        own = os.dup(fd)
        os.dup2(writer, fd)
        stream: Any = open(fd, "w", 1 if name == "stderr" else -1, "utf-8", errors, closefd=False)  # noqa: SIM115
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        os.dup2(own, fd)
        os.close(own)
    os.close(reader)
    os.close(writer)


def main(control_fd: int, setup: dict[str, Any]) -> None:
    """Become the zygote of a sandbox; never returns."""
    if setup["isolated"]:
        drop_root(setup["user"])
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    base = setup["filters"].pop("base", None)
    if base:
        install_filter(make_filter(base))
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.chdir(setup["home"])
    os.umask(0o077)
    sys.argv = ["answer.py"]
    open_outputs()
    runners.warm_up()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if control_fd != CONTROL:
        os.dup2(control_fd, CONTROL, inheritable=False)
        os.close(control_fd)
    zygote = Zygote(_socket.socket(fileno=CONTROL), setup)
    zygote.control.send(b"ready")
    gc.collect()
    LIBC.malloc_trim(0)  # what was only needed to get here would be copied by every fork
    gc.disable()
    gc.freeze()
    zygote.serve()
