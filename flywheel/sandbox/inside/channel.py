"""Messages inside a sandbox: length-prefixed bytes over a socket, and the numbered frames of a job's result channel."""

import json
import os
from typing import Any

from flywheel.sandbox.inside import plain

MAX_MESSAGE_BYTES = 8_000_000
MAX_READ = 1 << 20
_DECODER = json.JSONDecoder()
CHANNEL, PEER = 3, 4  # a job's descriptors after the standard streams


class PeerGoneError(BaseException):
    """Whoever is at the other end is gone; not an `Exception`, so that no test swallows it."""


def _read_exactly(fd: int, size: int) -> bytes:
    part = os.read(fd, size if size < MAX_READ else MAX_READ)
    if len(part) == size:
        return part
    parts = [part]
    while part:
        size -= len(part)
        if not size:
            return b"".join(parts)
        part = os.read(fd, min(size, MAX_READ))
        parts.append(part)
    raise PeerGoneError


def read_message(fd: int, max_bytes: int = 2**32) -> bytes:
    """Return the next message. Say `max_bytes` where a judged process may have written it.

    Raises:
        PeerGoneError: there is none.
        NotPlainError: it is longer than that.
    """
    (size,) = plain.HEAD.unpack(_read_exactly(fd, plain.HEAD.size))
    if size > max_bytes:
        raise plain.NotPlainError("too large")
    return _read_exactly(fd, size)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def from_json(text: str) -> Any:
    """Return what JSON that the host has sent stands for: `json.loads` with fewer steps."""
    return _DECODER.raw_decode(text)[0]


def inherit_streams() -> None:
    """Let the program that this process becomes have its standard streams."""
    for fd in range(3):
        os.set_inheritable(fd, True)


def receive_body(fd: int) -> dict[str, Any]:
    """Return the job that the host sent."""
    body: dict[str, Any] = from_json(read_message(fd).decode())
    return body


class Sender:
    """Numbered frames under the job's nonce, held until `write` or `close`."""

    __slots__ = ("_fd", "_held", "_nonce", "_number")

    def __init__(self, fd: int, nonce: str) -> None:
        self._fd, self._nonce, self._number = fd, nonce, 0
        self._held = b""

    def __call__(self, kind: str, data: Any = None) -> None:
        """Add one frame."""
        self._held += plain.pack(self._nonce, self._number, kind, data)
        self._number += 1

    def write(self) -> None:
        """Write what is held."""
        held, self._held = self._held, b""
        write_all(self._fd, held)

    def close(self, status: int) -> None:
        """Write what is held and the last word, and close every stream: the host needs not wait until this process is gone.

        Who forges it has said what it might have said by `os._exit`.
        """
        self._held += plain.last_word(status)
        self.write()
        os.closerange(1, PEER + 1)
