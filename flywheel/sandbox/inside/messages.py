"""The two messages about an execution, of a fixed size: what its limits are, and how it ended. Used on both sides.

They are no JSON because the first process of a sandbox handles them: every page of memory that it writes to between two forks is copied.
"""

import struct
from typing import NamedTuple

KINDS = (b"many", b"one", b"program")  # of child, by the seccomp filter that it waits with
LIMITS = ("", "cpu", "disk", "host", "memory", "processes", "wall")
_REQUEST = struct.Struct("=dddQQII4?")
_REPORT = struct.Struct("=iB?")


class Request(NamedTuple):
    """What one execution may use, and what its process is. The descriptors that come with it are stdout, stderr, channel, peer, stdin."""

    cpu_s: float
    idle_s: float
    wall_s: float
    memory_bytes: int
    file_bytes: int
    num_processes: int
    num_files: int
    is_session: bool  # keeps its files, and may have processes
    becomes_program: bool
    has_peer: bool
    has_stdin: bool

    @property
    def kind(self) -> bytes:
        """One of `KINDS`."""
        return b"many" if self.is_session else b"program" if self.becomes_program else b"one"

    def pack(self) -> bytes:
        """Return the message."""
        return _REQUEST.pack(*self)


class Report(NamedTuple):
    """How an execution ended. `limit` is one of `LIMITS`, and `is_clean` says that nothing of it is left."""

    exit_code: int
    limit: str
    is_clean: bool


def unpack_request(data: bytes) -> Request:
    """Return what a message says.

    Raises:
        struct.error: it is none.
    """
    return tuple.__new__(Request, _REQUEST.unpack(data))


def pack_report(exit_code: int, limit: str, is_clean: bool) -> bytes:
    """Return the message of a report."""
    return _REPORT.pack(exit_code, LIMITS.index(limit), is_clean)


def unpack_report(data: bytes) -> Report:
    """Return what a message says.

    Raises:
        struct.error: it is none.
    """
    exit_code, limit, is_clean = _REPORT.unpack(data)
    return Report(exit_code, LIMITS[limit], is_clean)
