"""The bubblewrap backend: how a sandbox's command line is put together.

Inside: no network, a read-only system and no host files beyond the system's programs and this Python, one size-limited writable
folder, namespaces of its own, no capabilities, no new privileges, an empty environment, an ordinary user, seccomp. There is no
``/proc``: nothing in a sandbox needs it, and many containers can't mount one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from flywheel.errors import SandboxError
from flywheel.sandbox import seccomp
from flywheel.sandbox.launch import NOBODY

SYSTEM_FOLDERS = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
DEVICES = ("null", "zero", "full", "random", "urandom")
HOME = "/tmp"
PYTHON = "/python"
ENVIRONMENT = {
    "HOME": HOME,
    "LANG": "C.UTF-8",
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


def command(argv: Sequence[str], *, disk_bytes: int, seccomp_fd: int | None, mounts: Sequence[str] = ()) -> list[str]:
    """Return the whole command line, `launch.py` first, that runs `argv` in a sandbox; `mounts` are further arguments of bubblewrap's."""
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
    arguments += [*mounts, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    if seccomp_fd is not None:
        arguments += ["--seccomp", str(seccomp_fd)]
    return [*arguments, "--", *argv]


def start(
    argv: Sequence[str], *, disk_bytes: int, log: IO[bytes], pass_fd: int | None = None, mounts: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start `argv` in a sandbox with one extra descriptor, or with pipes on its standard input and output where none is given.

    The sandbox dies with the *thread* that calls this (the kernel's parent-death signal is a thread's): call it from one that stays.
    """
    program = seccomp.build("base")
    fds = [] if pass_fd is None else [pass_fd]
    ends = subprocess.PIPE if pass_fd is None else subprocess.DEVNULL
    seccomp_fd = None
    if program is not None:
        seccomp_fd = os.memfd_create("seccomp")
        os.write(seccomp_fd, program)
        os.lseek(seccomp_fd, 0, os.SEEK_SET)
        fds.append(seccomp_fd)
    try:
        env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # the launcher's own
        line = command(argv, disk_bytes=disk_bytes, seccomp_fd=seccomp_fd, mounts=mounts)
        return subprocess.Popen(line, stdin=ends, stdout=ends, stderr=log, pass_fds=fds, env=env, cwd="/")
    except OSError as error:
        raise SandboxError(f"can't start bubblewrap: {error}") from error
    finally:
        if seccomp_fd is not None:
            os.close(seccomp_fd)
