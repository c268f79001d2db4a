"""The seccomp filters of a sandbox, as classic BPF programs built in plain Python.

The zygote puts the filter on itself before it forks anything, whichever backend started it.

A deny list over the kernel's whole interface: what namespaces and missing capabilities don't cover (kernel keys, io_uring, tracing,
shared-memory segments that outlive their process, new namespaces, sockets of families that no network namespace confines, such
as ``AF_VSOCK`` and ``AF_ALG``; and calls by which the kernel comes to hold memory that no limit counts). A denied call fails with
``EPERM``; a foreign architecture's calls kill the process.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Mapping
from typing import Literal

LOAD, JUMP_EQ, JUMP_GE, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x00050061
NUMBER_AT, ARCH_AT, ARGUMENT_AT = 0, 4, 16
NEW_NAMESPACE_FLAGS = 0x7E020080
CLONE_THREAD = 0x00010000
ALLOWED_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}

# name: (x86_64, aarch64); None where the architecture has no such call.
DENIED: Mapping[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    # kernel keys, tracing, programs in the kernel
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
    "syslog": (103, 116),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "sync": (162, 81),  # every file system of the host, as often as one likes
    "syncfs": (306, 267),
    # memory and messages that outlive a process or escape its memory limit
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "vmsplice": (278, 75),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    # what all processes of a user, or of the machine, share a number of
    "io_setup": (206, 0),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
}
# Denied as well to what the zygote forks, where the first argument is process 1: not every kernel protects that from its own namespace.
SIGNALS: Mapping[str, tuple[int, int]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
# The same by a descriptor, which a filter can't tell apart.
DENIED_TO_CHILDREN: Mapping[str, tuple[int | None, int | None]] = {"pidfd_send_signal": (424, 424)}
# Denied as well to a judged process, which may start threads and nothing else; one that is no Python may become its program.
# Connections that wait to be accepted hold memory, belong to no descriptor, and count towards no limit.
DENIED_TO_PROGRAM: Mapping[str, tuple[int | None, int | None]] = {
    **DENIED_TO_CHILDREN,
    "fork": (57, None),
    "vfork": (58, None),
    "listen": (50, 201),
}
DENIED_TO_ONE: Mapping[str, tuple[int | None, int | None]] = {**DENIED_TO_PROGRAM, "execve": (59, 221), "execveat": (322, 281)}
CLONE = (56, 220)
CLONE3 = (435, 435)
SOCKET = (41, 198)
PRLIMIT = (302, 261)
# A socket's buffers, which count towards no limit, stay as large as they are: level SOL_SOCKET, options SO_SNDBUF, SO_RCVBUF and by force.
SET_OPTION = (54, 208)
SOCKET_LEVEL, BUFFER_SIZES = 1, (7, 8, 32, 33)
# Which argument is the mode, and the bit that makes it a device: not every kernel asks for a capability.
MAKE_NODE: Mapping[str, tuple[int | None, int | None, int]] = {"mknod": (133, None, 1), "mknodat": (259, 33, 2)}
DEVICE_BIT = 0o020000
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
Kind = Literal["base", "many", "one", "program"]
KINDS: tuple[Kind, ...] = ("base", "many", "one", "program")


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


class _Program:
    """Instructions in order; every rule is self-contained and falls through to the next one."""

    def __init__(self) -> None:
        self.code = b""

    def add(self, code: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.code += _instruction(code, value, if_true, if_false)

    def deny(self, number: int, action: int = EPERM) -> None:
        self.add(JUMP_EQ, number, 0, 1)
        self.add(RETURN, action)

    def only_if(self, number: int, tests: bytes) -> None:
        """Run `tests` for one call; they end in a verdict."""
        self.add(JUMP_EQ, number, 0, len(tests) // 8)
        self.code += tests


def _argument(index: int) -> int:
    return ARGUMENT_AT + 8 * index


def _clone_rule(*, threads_only: bool) -> bytes:
    rule = _Program()
    rule.add(LOAD, _argument(0))
    rule.add(JUMP_SET, NEW_NAMESPACE_FLAGS, 0, 1)
    rule.add(RETURN, EPERM)
    if threads_only:
        rule.add(JUMP_SET, CLONE_THREAD, 1, 0)
        rule.add(RETURN, EPERM)
    rule.add(RETURN, ALLOW)
    return rule.code


def _socket_rule() -> bytes:
    rule = _Program()
    rule.add(LOAD, _argument(0))
    for family in ALLOWED_FAMILIES.values():
        rule.add(JUMP_EQ, family, 0, 1)
        rule.add(RETURN, ALLOW)
    rule.add(RETURN, EAFNOSUPPORT)
    return rule.code


def _option_rule() -> bytes:
    rule = _Program()
    rule.add(LOAD, _argument(1))
    rule.add(JUMP_EQ, SOCKET_LEVEL, 1, 0)
    rule.add(RETURN, ALLOW)
    rule.add(LOAD, _argument(2))
    for option in BUFFER_SIZES:
        rule.add(JUMP_EQ, option, 0, 1)
        rule.add(RETURN, EPERM)
    rule.add(RETURN, ALLOW)
    return rule.code


def _deny_where(argument: int, jump: int, value: int, *, holds: bool = True) -> bytes:
    """Deny a call where a test of one argument holds, or where it does not."""
    rule = _Program()
    rule.add(LOAD, _argument(argument))
    rule.add(jump, value, 0, 1)
    rule.add(RETURN, EPERM if holds else ALLOW)
    rule.add(RETURN, ALLOW if holds else EPERM)
    return rule.code


def build(kind: Kind, machine: str | None = None) -> bytes | None:
    """Return a filter's program, or None on an architecture that has no table here.

    Args:
        kind: ``base`` is every process of a sandbox; ``many`` is added for a command and what it starts, ``one`` for a judged Python
            process (no new processes and no programs), ``program`` for one that becomes another program (no new processes).
        machine: As `platform.machine` names it; this machine by default.
    """
    arch = ARCHES.get(machine or platform.machine())
    if arch is None:
        return None
    column, audit = arch
    program = _Program()
    program.add(LOAD, ARCH_AT)
    program.add(JUMP_EQ, audit, 1, 0)
    program.add(RETURN, KILL)
    program.add(LOAD, NUMBER_AT)
    if column == 0:  # the x32 interface has numbers of its own
        program.add(JUMP_GE, 0x40000000, 0, 1)
        program.add(RETURN, KILL)
    table = {"base": DENIED, "many": DENIED_TO_CHILDREN, "one": DENIED_TO_ONE, "program": DENIED_TO_PROGRAM}[kind]
    for numbers in table.values():
        number = numbers[column]
        if number is not None:
            program.deny(number)
    program.deny(CLONE3[column], ENOSYS)  # its flags lie in memory that a filter can't read; libc falls back to clone
    if kind == "base":
        program.only_if(SOCKET[column], _socket_rule())
        program.only_if(SET_OPTION[column], _option_rule())
        program.only_if(PRLIMIT[column], _deny_where(0, JUMP_EQ, 0, holds=False))  # nobody's limits but one's own
        for x86_64, aarch64, mode in MAKE_NODE.values():
            number = (x86_64, aarch64)[column]
            if number is not None:
                program.only_if(number, _deny_where(mode, JUMP_SET, DEVICE_BIT))
    else:
        for first in SIGNALS.values():
            program.only_if(first[column], _deny_where(0, JUMP_EQ, 1))
    program.only_if(CLONE[column], _clone_rule(threads_only=kind in ("one", "program")))
    program.add(RETURN, ALLOW)
    return program.code
