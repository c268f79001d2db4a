"""The first process of a sandbox: a clean interpreter that forks one child for each execution and never runs a job itself.

It speaks with its host over one datagram-like socket (`SOCK_SEQPACKET`): a request is limits and file descriptors, nothing else.
What a job is travels from the host straight to the child, so that nothing of one job is ever in the memory from which
the next child is forked. A child can't reach its parent: the parent is process 1 of its namespace (which ignores signals from
within), is not dumpable (so it can't be traced or read), and its descriptors are closed in the child.

The next child is forked ahead of its job, when every process of the last one is gone, and waits: nothing that is judged ever runs
beside it, and it does one job only.
"""

import array
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any

from flywheel.sandbox.inside import channel, runners

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
CAPABILITY_VERSION_3 = 0x20080522
CHANNEL, PEER = 3, 4
KILL = b"kill"
SLICE_S = 0.1  # between looks at a running child
BLIND_SLICE_S = 0.004  # the same, in a kernel (gVisor's) that can't wait for a child and for the host at once
OWN_PROCESSES = 2  # the zygote and the relay
OOM_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
MAX_NUM_FILES = 20_000  # in its folders: what the kernel keeps of a file counts towards no other limit
IDLE_SHARE = 0.01  # a slice in which a child used less than this much of a CPU counts as idle
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


def open_handle(pid: int) -> int | None:
    """Return a descriptor that becomes readable when a process ends, or None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next request and its descriptors; ends this process where there will be none."""
    space = socket.CMSG_SPACE(8 * array.array("i").itemsize)
    data, ancillary, _, _ = end.recvmsg(4096, space)
    while data == KILL:  # meant for a child that had just ended by itself
        data, ancillary, _, _ = end.recvmsg(4096, space)
    if not data:
        os._exit(0)
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


class Zygote:
    """The loop: one request, one child, one report."""

    def __init__(self, control: socket.socket, setup: dict[str, Any]) -> None:
        self.control = control
        self.isolated: bool = setup["isolated"]
        self.home: str = setup["home"]
        self.scratch: list[str] = [folder for folder in setup["scratch"] if os.access(folder, os.W_OK)]
        self.child_filters = {kind: make_filter(text) for kind, text in setup["filters"].items()}
        self.oom_counts = [path for path in OOM_COUNTS if os.path.exists(path)]
        self.files_at_first = self._num_files()

    def serve(self) -> None:
        """Answer requests until the host is gone."""
        while True:
            pid, link = self._fork()
            data, fds = receive(self.control)
            request = json.loads(data)
            kills = self._oom_kills()
            try:
                socket.send_fds(link, [data], fds)
            except OSError:  # something has ended it while it waited
                os.waitpid(pid, 0)
                link.close()
                pid, link = self._fork()
                socket.send_fds(link, [data], fds)
            for fd in fds:
                os.close(fd)
            report = self._supervise(pid, request)
            link.close()
            if report["limit"] is None and self._oom_kills() > kills:
                report["limit"] = "memory"
            report["clean"] = self._clean_up(pid, keep=request["keep_files"])
            self.control.send(json.dumps(report).encode())

    def _fork(self) -> tuple[int, socket.socket]:
        """Return a child that waits for a job, and what to send it through."""
        link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            link.close()
            self.control.close()
            self._child(theirs)
        theirs.close()
        return pid, link

    def _child(self, link: socket.socket) -> None:
        status = 70
        try:
            os.setsid()
            runners.rehearse()
            data, fds = receive(link)
            request = json.loads(data)
            self._place(dict(zip(request["fds"], fds, strict=True)))
            self._limit(request)
            gc.enable()
            body = channel.receive_body(CHANNEL)
            program = self.child_filters.get(request["filter"])
            if program:
                install_filter(program)
            status = runners.run(body, CHANNEL, PEER)
        finally:
            os._exit(status)

    @staticmethod
    def _place(given: dict[str, int]) -> None:
        """Put the descriptors where the runners expect them and close every other one, the control socket among them."""
        safe = {name: os.dup2(fd, 100 + at, inheritable=False) for at, (name, fd) in enumerate(given.items())}
        if "stdin" not in safe:
            safe["stdin"] = os.open("/dev/null", os.O_RDONLY)
        for at, name in enumerate(("stdin", "stdout", "stderr", "channel", "peer")):
            if name in safe:
                os.dup2(safe[name], at, inheritable=at < 3)
        os.closerange(CHANNEL + 1 + ("peer" in safe), 4096)

    @staticmethod
    def _limit(request: dict[str, Any]) -> None:
        cpu = int(request["cpu_s"]) + 2
        for what, value in (
            (resource.RLIMIT_CPU, cpu),
            # A runtime that reserves far more address space than it uses is limited in what it can write to.
            (resource.RLIMIT_DATA if request["reserves_memory"] else resource.RLIMIT_AS, request["memory_bytes"]),
            (resource.RLIMIT_FSIZE, request["file_bytes"]),
            (resource.RLIMIT_NOFILE, request["num_files"]),
            (resource.RLIMIT_NPROC, request["num_processes"]),
        ):
            hard = resource.getrlimit(what)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (value, value))

    def _supervise(self, pid: int, request: dict[str, Any]) -> dict[str, Any]:
        """Wait for the child, or for a limit, or for the host's word to kill it."""
        started = last = marked = time.monotonic()
        cpu = used = idle = 0.0
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        handle = open_handle(pid)
        longest = SLICE_S
        if handle is not None:
            poll.register(handle, select.POLLIN)
        limit = None
        try:
            while limit is None:
                if handle is None:
                    longest = min(BLIND_SLICE_S, 0.0005 + (last - started) / 8)
                wait = min(started + request["wall_s"] - last, max(0.005, (request["cpu_s"] - cpu) / 2), longest)
                ready = {fd for fd, _ in poll.poll(max(0.0, wait) * 1000)}
                if handle in ready or (handle is None and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
                    break
                last, cpu = time.monotonic(), cpu_seconds(pid)
                if last - marked >= SLICE_S:
                    if cpu - used < IDLE_SHARE * (last - marked):  # a starved process still gets a little of every slice
                        idle += last - marked
                    marked, used = last, cpu
                if self.control.fileno() in ready:
                    if not self.control.recv(64):
                        self._clean_up(pid, keep=False)  # a bare process's children do not end with it
                        os._exit(0)
                    limit = "host"
                elif self.isolated and request["processes"] and count_processes() > request["num_processes"] + OWN_PROCESSES:
                    limit = "processes"
                elif self.isolated and self._num_files() > self.files_at_first + MAX_NUM_FILES:
                    limit = "disk"
                elif cpu >= request["cpu_s"]:
                    limit = "cpu"
                elif idle >= request["idle_s"] or last - started >= request["wall_s"]:
                    limit = "wall"
        finally:
            if handle is not None:
                os.close(handle)
        if limit is not None:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        return {
            "exit": os.waitstatus_to_exitcode(status),
            "limit": limit,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "wall_s": time.monotonic() - started,
            "max_rss_bytes": usage.ru_maxrss * 1024,
        }

    def _clean_up(self, pid: int, *, keep: bool) -> bool:
        """End every other process of the sandbox and empty its folder; whether both worked."""
        try:
            if self.isolated:
                while True:
                    os.kill(-1, signal.SIGKILL)
                    if os.waitpid(-1, 0)[0] == 0:
                        break
            else:
                os.killpg(pid, signal.SIGKILL)
        except (ChildProcessError, ProcessLookupError):
            pass
        if keep:
            return True
        try:
            for folder in self.scratch:
                self._empty(folder)
        except (OSError, RecursionError):
            return False
        return True

    def _num_files(self) -> int:
        """Return how many files its folders hold, as far as their file systems count them."""
        counts = map(os.statvfs, self.scratch)
        return sum(count.f_files - count.f_ffree for count in counts)

    def _oom_kills(self) -> int:
        """Return how often the kernel has ended something in this control group for its memory, 0 where that can't be seen."""
        for path in self.oom_counts:
            try:
                with open(path) as file:
                    return int(dict(line.split() for line in file)["oom_kill"])
            except (OSError, KeyError, ValueError):
                pass
        return 0

    @staticmethod
    def _empty(folder: str) -> None:
        for entry in os.listdir(folder):
            path = os.path.join(folder, entry)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
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
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(what, (0, 0))
    runners.warm_up()
    zygote = Zygote(socket.socket(fileno=control_fd), setup)
    zygote.control.send(b"ready")
    gc.collect()
    gc.disable()
    gc.freeze()
    zygote.serve()
