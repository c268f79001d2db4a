"""Who owns what a sandbox leaves where the kernel does not take it away: this process, by a name that no later process shares.

A name holds the boot, the process namespace, the process id and its start time. The next start takes away what belongs to a process
that is gone, and nothing else: what another container's process owns can't be judged from here and stays.
"""

from __future__ import annotations

import os
from pathlib import Path


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino:x}"


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks, or None where there is no such process (or only its corpse)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def this() -> str:
    """Return this process's name."""
    return f"{_place()}.{os.getpid()}.{_started(os.getpid())}"


def is_gone(name: str) -> bool:
    """Whether a name is that of a process that lived here and does so no more."""
    boot, _, rest = name.partition(".")
    namespace, _, rest = rest.partition(".")
    pid, _, started = rest.partition(".")
    return f"{boot}.{namespace}" == _place() and pid.isdigit() and _started(int(pid)) != started
