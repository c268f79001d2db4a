"""The bubblewrap backend: a sandbox's command line, and what a machine needs for it.

Inside: no network, a read-only system and no host files beyond the system's programs and this Python, one size-limited writable
folder, namespaces of its own, no capabilities, no new privileges, an empty environment, an ordinary user. There is no
``/proc``: nothing in a sandbox needs it, and many containers can't mount one. ``/dev/stdin``, which would lie there, is a copy in the home;
what a Python answer opens as ``/dev/stdout`` or ``/dev/stderr`` is its own descriptor (`open_streams_by_name` in ``inside/answer.py``), and
nothing else has those.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from flywheel.config import SandboxConfig
from flywheel.errors import SandboxError
from flywheel.sandbox import bootstrap, seccomp
from flywheel.sandbox.base import Started
from flywheel.sandbox.launch import NOBODY
from flywheel.sandbox.process import ProcessHandle, control_pair

SYSTEM_FOLDERS = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
DEVICES = ("null", "zero", "full", "random", "urandom")
HOME = "/tmp"
PYTHON = "/python"
PROBE_TIMEOUT_S = 20.0
ENVIRONMENT = {
    "HOME": HOME,
    "LANG": "C.UTF-8",
    "LD_BIND_NOW": "1",  # once, in the zygote, rather than in every child
    "MALLOC_ARENA_MAX": "1",  # every other arena would reserve 64 MiB of a thread's address space
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TMPDIR": HOME,
}


def interpreter() -> str:
    """Return this Python itself, outside any virtual environment."""
    return os.path.realpath(str(getattr(sys, "_base_executable", sys.executable)))


def _prefix() -> Path:
    return Path(os.path.realpath(sys.base_prefix))


def interpreter_inside() -> str:
    """Return this Python's path inside a sandbox, where an installation outside ``/usr`` lies in a folder of its own."""
    program, prefix = Path(interpreter()), _prefix()
    return str(program if prefix.is_relative_to("/usr") else Path(PYTHON) / program.relative_to(prefix))


def _system() -> list[str]:
    arguments = []
    for folder in SYSTEM_FOLDERS:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    arguments += ["--perms", "0755", "--dir", "/etc"]  # bubblewrap makes missing parents for their owner only, and inside nobody is root
    for file in SYSTEM_FILES:
        if os.path.exists(file):
            arguments += ["--ro-bind", os.path.realpath(file) if os.path.isfile(file) else file, file]
    prefix = _prefix()
    if not prefix.is_relative_to("/usr"):
        arguments += ["--ro-bind", str(prefix), PYTHON]
    return arguments


def command(argv: Sequence[str], *, disk_bytes: int, seccomp_fd: int | None = None, mounts: Sequence[str] = ()) -> list[str]:
    """Return the whole command line, `launch.py` first, that runs `argv` in a sandbox; `mounts` are further arguments of bubblewrap's.

    A zygote puts the filter on itself; what is none gets it as `seccomp_fd`.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bubblewrap is not installed: install the package 'bubblewrap' (it provides 'bwrap')")
    arguments = [interpreter(), "-I", "-S", str(Path(__file__).with_name("launch.py")), program]
    for what in ("pid", "ipc", "uts", "net"):
        arguments.append(f"--unshare-{what}")
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"]
    if os.getuid() == 0:
        arguments += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # until it becomes NOBODY
    else:
        arguments += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL"]
    arguments.append("--clearenv")
    for name, value in {**ENVIRONMENT, "LD_LIBRARY_PATH": f"{PYTHON}/lib"}.items():  # where a shared libpython was linked by its old path
        arguments += ["--setenv", name, value]
    arguments += _system()
    arguments += ["--perms", "1777", "--size", str(disk_bytes), "--tmpfs", HOME]
    arguments += ["--perms", "0755", "--size", "65536", "--tmpfs", "/dev"]
    for device in DEVICES:
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    arguments += ["--symlink", f"{HOME}/.stdin", "/dev/stdin"]  # see `copy_stdin` in inside/answer.py
    arguments += [*mounts, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    if seccomp_fd is not None:
        arguments += ["--seccomp", str(seccomp_fd)]
    return [*arguments, "--", *argv]


def start_piped(argv: Sequence[str], *, disk_bytes: int, log: IO[bytes], mounts: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start `argv` in a sandbox with pipes on its standard input and output.

    The sandbox dies with the *thread* that calls this (the kernel's parent-death signal is a thread's): call it from one that stays.
    """
    program = seccomp.build("base")
    fds = []
    if program is not None:
        fds.append(os.memfd_create("seccomp"))
        os.write(fds[0], program)
        os.lseek(fds[0], 0, os.SEEK_SET)
    pipe = subprocess.PIPE
    try:
        line = command(argv, disk_bytes=disk_bytes, seccomp_fd=fds[0] if fds else None, mounts=mounts)
        return subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=log, pass_fds=fds, env=_launcher_environment(), cwd="/")
    except OSError as error:
        raise SandboxError(f"can't start bubblewrap: {error}") from error
    finally:
        for fd in fds:
            os.close(fd)


class Bubblewrap:
    """The backend. Its sandboxes die with the *thread* that started them (the kernel's parent-death signal is a thread's)."""

    name = "bubblewrap"

    def __init__(self, config: SandboxConfig) -> None:
        self._disk_bytes = config.disk_mb * 2**20

    def start(self) -> Started:
        """Start a sandbox."""
        ours, theirs = control_pair()
        try:
            argv = bootstrap.command(interpreter_inside(), theirs.fileno())
            line = command(argv, disk_bytes=self._disk_bytes)
            handle = ProcessHandle.start(line, env=_launcher_environment(), pass_fds=[theirs.fileno()], has_network=True)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Started(control=ours, handle=handle, home=HOME, scratch=(HOME,))

    def problems(self) -> list[str]:
        """Return what keeps bubblewrap from working here, told apart: no Linux, not installed, no namespaces."""
        if platform.system() != "Linux":
            return [
                f"sandbox.backend is 'bubblewrap', which needs Linux, and this is {platform.system()}; "
                "run in a Linux container or machine, or use sandbox.backend = 'docker'"
            ]
        if shutil.which("bwrap") is None:
            return ["bubblewrap is not installed (no 'bwrap' on PATH), and model-written code runs in it: apt-get install bubblewrap"]
        refusal = _refusal()
        if not refusal:
            return []
        if refusal.startswith("can't run"):
            return [f"bubblewrap is installed, but broken ({refusal}): apt-get install --reinstall bubblewrap"]
        what = f"bubblewrap is installed, but this {_place()} does not let it make namespaces ({refusal}). "
        if _place() == "container":
            return [
                f"{what}Start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined (no capability "
                "is needed by an ordinary user), or use sandbox.backend = 'docker' from outside the container"
            ]
        return [
            f"{what}Allow them: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, and "
            "kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu; or use sandbox.backend = 'docker'"
        ]


def _launcher_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _place() -> str:
    """Return whether this is a container or a host."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return "container" if any(mark.exists() for mark in marks) or "container" in os.environ else "machine"


def _refusal() -> str:
    """Return what is said where a sandbox like ours can't be made, or nothing."""
    line = command(["/usr/bin/true"], disk_bytes=2**20)
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(line, capture_output=True, timeout=PROBE_TIMEOUT_S, stdin=quiet, env=_launcher_environment(), check=False)
    except subprocess.TimeoutExpired:
        return f"it did not answer in {PROBE_TIMEOUT_S:g} s"
    except OSError as error:
        return f"it can't be run: {error.strerror}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1][:300] if said else f"exit status {done.returncode}"
