"""Messages inside a sandbox: length-prefixed bytes over a socket, and the numbered frames of a job's result channel."""

import json
import os
import struct
from typing import Any

from flywheel.sandbox.inside import plain

MAX_MESSAGE_BYTES = 8_000_000


class PeerGoneError(BaseException):
    """Whoever is at the other end is gone; not an `Exception`, so that no test swallows it."""


def _read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise PeerGoneError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_message(fd: int, max_bytes: int = 2**32) -> bytes:
    """Return the next message. Say `max_bytes` where a judged process may have written it.

    Raises:
        PeerGoneError: there is none.
        NotPlainError: it is longer than that.
    """
    (size,) = struct.unpack(">I", _read_exactly(fd, 4))
    if size > max_bytes:
        raise plain.NotPlainError("too large")
    return _read_exactly(fd, size)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def receive_body(fd: int) -> dict[str, Any]:
    """Return the job that the host sent."""
    body: dict[str, Any] = json.loads(read_message(fd))
    return body


class Sender:
    """Writes numbered frames under the job's nonce."""

    def __init__(self, fd: int, nonce: str) -> None:
        self._fd, self._nonce, self._number = fd, nonce, 0

    def __call__(self, kind: str, data: Any = None) -> None:
        """Send one frame."""
        write_all(self._fd, plain.pack(self._nonce, self._number, kind, data))
        self._number += 1
