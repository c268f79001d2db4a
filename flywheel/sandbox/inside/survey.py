"""Run inside a sandbox by the contract suite: tries what must not work and prints what it found, as JSON.

Its standard input is JSON too: what the host knows and nobody inside may reach.
"""

import ctypes
import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS = 21, 39
NUM_CAPABILITIES = 64
# x86_64 and the number every newer architecture shares, where the call has one.
CALLS = {
    "ptrace": (101, 117),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "process_vm_readv": (310, 270),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "kexec_load": (246, 104),
    "personality": (135, 92),
    "setxattr": (188, 5),
    "io_setup": (206, 0),
    "inotify_init1": (294, 26),
    "listmount": (458, 458),
}
FAMILIES = {"AF_NETLINK": 16, "AF_PACKET": 17, "AF_ALG": 38, "AF_VSOCK": 40, "AF_BLUETOOTH": 31, "AF_XDP": 44}


def attempt(work: Callable[..., Any], *args: Any) -> Any:
    """Return what some work gives, or the error's number."""
    try:
        return work(*args)
    except OSError as error:
        return {"errno": error.errno}


def denied_calls() -> dict[str, int]:
    """Return the error number of each call that must be denied; 0 where it was not."""
    column = 0 if os.uname().machine == "x86_64" else 1
    errors = {}
    for name, numbers in CALLS.items():
        # With these arguments none of them does anything where it is allowed.
        result = LIBC.syscall(numbers[column], 0x10000000 if name == "unshare" else -1, 0, 0, 0, 0, 0)
        errors[name] = ctypes.get_errno() if result < 0 else 0
    return errors


def capabilities() -> int:
    """Return the effective, permitted and inheritable capabilities, or'ed together."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if LIBC.capget(header, data) != 0:
        return -1
    return sum(data[at] for at in range(6))


def writable(root: str) -> list[str]:
    """Return the folders and files below `root` that this user may write, not looking below a writable folder or into /proc."""
    found: list[str] = []
    queue = [root]
    while queue and len(found) < 50:
        folder = queue.pop()
        if os.access(folder, os.W_OK) and attempt(leave, folder) is True:
            found.append(folder)
            continue
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            try:
                mode = entry.stat(follow_symlinks=False).st_mode
            except OSError:
                continue
            if stat.S_ISDIR(mode) and entry.path != "/proc":
                queue.append(entry.path)
            elif not stat.S_ISLNK(mode) and not stat.S_ISCHR(mode) and os.access(entry.path, os.W_OK):
                found.append(entry.path)
    return sorted(found)


def leave(folder: str) -> bool:
    """Make a file in a folder and remove it."""
    path = os.path.join(folder, "survey")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(path)
    return True


def devices() -> dict[str, list[int]]:
    """Return the device files that can be opened, with their numbers."""
    found = {}
    for name in os.listdir("/dev"):
        path = f"/dev/{name}"
        status = os.stat(path) if os.path.exists(path) else None
        if status is not None and (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            fd = attempt(os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if isinstance(fd, int):
                found[name] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
                os.close(fd)
    return found


def reach(address: Any, family: int) -> Any:
    """Return "connected", or why not."""
    with socket.socket(family) as end:
        end.settimeout(2)
        end.connect(address)
    return "connected"


def has_family(number: int) -> bool:
    """Return True where a socket of an address family can be made."""
    socket.socket(number, socket.SOCK_RAW).close()
    return True


def survey(known: dict[str, Any]) -> dict[str, Any]:
    """Return everything that was found."""
    return {
        "executable": sys.executable,
        "uid": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
        "capabilities": capabilities(),
        "no_new_privileges": LIBC.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
        "seccomp": LIBC.prctl(PR_GET_SECCOMP, 0, 0, 0, 0),
        "denied": denied_calls(),
        "families": {name: attempt(has_family, number) for name, number in FAMILIES.items()},
        "environment": dict(os.environ),
        "hostname": socket.gethostname(),
        "interfaces": attempt(lambda: [name for _, name in socket.if_nameindex()]),
        "tcp": attempt(reach, tuple(known["tcp"]), socket.AF_INET),
        "internet": attempt(reach, ("1.1.1.1", 53), socket.AF_INET),
        "unix": attempt(reach, known["unix"], socket.AF_UNIX),
        "abstract": attempt(reach, "\0" + known["abstract"], socket.AF_UNIX),
        "file": os.path.exists(known["file"]),
        "host_process": attempt(os.kill, known["pid"], 0),
        "first_process": attempt(os.kill, 1, 0),
        "writable": writable("/"),
        "devices": devices(),
        "others_environment": [attempt(variables_of, pid) for pid in others()],
        "setuid": attempt(os.setuid, 0),
    }


def variables_of(pid: str) -> list[str]:
    """Return the names of another process's variables."""
    with open(f"/proc/{pid}/environ") as file:
        return [entry.partition("=")[0] for entry in file.read().split("\0") if entry]


def others() -> list[str]:
    """Return the other processes that can be seen."""
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    return [name for name in names if name.isdigit() and int(name) != os.getpid()][:20]


if __name__ == "__main__":
    print(json.dumps(survey(json.loads(sys.stdin.read()))))
