"""Carries a sandbox's control socket, and every descriptor passed over it, through one byte stream.

Bubblewrap hands a socket to its sandbox; a container has only a stream of bytes. A relay at either end of that stream hides the
difference: the host's end looks to the host like a zygote, and the one inside looks to the zygote like its host. Both ends run this
file; the one inside is a process of its own, of another user than the zygote and what that forks.

A frame is a kind, a stream's number, a size and so many bytes. For each descriptor that comes with a control message the
receiving end makes a like one, passes that on, and keeps its other end. A sender has at most `WINDOW` bytes of a stream under way.
A control message from inside (a report) arrives after everything that was written before it.
"""

import array
import contextlib
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable

HEAD = struct.Struct(">cII")
MESSAGE, DATA, END, CREDIT = b"m", b"d", b"e", b"c"
DESCRIPTOR = struct.Struct(">cI")
PIPE, SOCKET, INPUT = b"p", b"s", b"i"  # is written to by the sandbox, both, is read by it
WINDOW = 1 << 18
PART = 1 << 15
MAX_OUTGOING = 1 << 20  # nothing more is read while so much waits to be sent
MAX_FRAME = 1 << 20
NAME = "\0flywheel"


class BrokenStreamError(Exception):
    """The other end is gone, or breaks the rules."""


class _Stream:
    """One descriptor under way: what is still to be written to it, and how much more of it may be sent."""

    def __init__(self, fd: int, kind: bytes, *, reads: bool) -> None:
        self.fd, self.kind = fd, kind
        self.reads, self.writes = reads or kind == SOCKET, not reads or kind == SOCKET
        self.credit = WINDOW
        self.pending = bytearray()
        self.ended = False  # the other end sends no more
        os.set_blocking(fd, False)

    def close_writing(self) -> None:
        self.writes = False
        self.pending.clear()
        if self.kind == SOCKET:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.fd)) as half:
                half.shutdown(socket.SHUT_WR)
        else:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Relay:
    """One end. `run` returns when the other end, or whoever holds the control socket, is gone.

    Args:
        control: This end's side of the control socket.
        source: The stream's descriptor to read.
        sink: The stream's descriptor to write.
        inside: Whether this is the end in the sandbox.
        unwrap: What takes the stream's payload out of the bytes read.
    """

    def __init__(
        self, control: socket.socket, source: int, sink: int, *, inside: bool, unwrap: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        self._control, self._source, self._sink = control, source, sink
        self._inside, self._unwrap = inside, unwrap
        self._streams: dict[int, _Stream] = {}
        self._next = 0
        self._incoming, self._outgoing = bytearray(), bytearray()
        self._held: bytes | None = None
        for fd in (source, sink):
            os.set_blocking(fd, False)

    def run(self) -> None:
        """Carry everything until one side is gone."""
        try:
            while True:
                self._step()
        except (BrokenStreamError, OSError):
            pass
        finally:
            self._drop_streams()
            self._control.close()

    def _step(self) -> None:
        poll = select.poll()
        room = len(self._outgoing) < MAX_OUTGOING
        poll.register(self._control, select.POLLIN if room and self._held is None else 0)
        poll.register(self._source, select.POLLIN if self._inside or self._held is None else 0)
        if self._outgoing:
            poll.register(self._sink, select.POLLOUT | (select.POLLIN if self._sink == self._source else 0))
        for stream in self._streams.values():
            events = (select.POLLIN if stream.reads and stream.credit and room else 0) | (select.POLLOUT if stream.pending else 0)
            if events:
                poll.register(stream.fd, events)
        ready = dict(poll.poll())
        if ready.get(self._control.fileno(), 0):
            self._take_message()
        if ready.get(self._source, 0) & ~select.POLLOUT:
            self._take_frames()
        for number, stream in list(self._streams.items()):
            events = ready.get(stream.fd, 0) if stream.fd >= 0 else 0
            if events & (select.POLLOUT | select.POLLERR) and stream.pending:
                self._write(number, stream)
            if events & (select.POLLIN | select.POLLHUP) and stream.reads:
                self._read(number, stream)
        self._release()
        self._flush()

    # ------------------------------------------------------------ from this side to the other

    def _send(self, kind: bytes, number: int, data: bytes = b"") -> None:
        self._outgoing += HEAD.pack(kind, number, len(data)) + data

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = os.write(self._sink, self._outgoing[: 1 << 16])
            except BlockingIOError:
                return
            del self._outgoing[:sent]

    def _take_message(self) -> None:
        try:
            data, ancillary, _, _ = self._control.recvmsg(1 << 16, socket.CMSG_SPACE(64), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            raise BrokenStreamError
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if self._inside:
            self._held = data
            return
        listed = b""
        for fd in fds:
            mode = os.fstat(fd).st_mode
            kind = SOCKET if stat.S_ISSOCK(mode) else PIPE if stat.S_ISFIFO(mode) else INPUT
            listed += DESCRIPTOR.pack(kind, self._next)
            self._streams[self._next] = _Stream(fd, kind, reads=kind == INPUT)
            self._next += 1
        self._send(MESSAGE, len(fds), listed + data)

    def _read(self, number: int, stream: _Stream) -> bool:
        """Read once; whether there may be more."""
        size = min(stream.credit, PART)
        if not size:
            return True
        try:
            data = os.read(stream.fd, size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            stream.reads = False
            self._send(END, number)
            return False
        stream.credit -= len(data)
        self._send(DATA, number, data)
        return True

    # ------------------------------------------------------------ from the other side to this one

    def _take_frames(self) -> None:
        try:
            data = os.read(self._source, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            raise BrokenStreamError
        self._incoming += self._unwrap(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._held is None or self._inside:
            if len(self._incoming) < HEAD.size:
                return
            kind, number, size = HEAD.unpack_from(self._incoming)
            if size > MAX_FRAME:
                raise BrokenStreamError
            if len(self._incoming) < HEAD.size + size:
                return
            body = bytes(self._incoming[HEAD.size : HEAD.size + size])
            del self._incoming[: HEAD.size + size]
            self._handle(kind, number, body)

    def _handle(self, kind: bytes, number: int, body: bytes) -> None:
        stream = self._streams.get(number)
        if kind == MESSAGE and self._inside:
            self._pass_on(number, body)
        elif kind == MESSAGE:
            self._held = body
        elif stream is None:
            pass  # of an execution that is over
        elif kind == DATA:
            if len(stream.pending) + len(body) > WINDOW:
                raise BrokenStreamError
            if stream.writes:
                stream.pending += body
                self._write(number, stream)
            else:
                self._send(CREDIT, number, len(body).to_bytes(4, "big"))
        elif kind == END:
            stream.ended = True
            if stream.writes and not stream.pending:
                stream.close_writing()
        elif kind == CREDIT:
            stream.credit = min(WINDOW, stream.credit + int.from_bytes(body, "big"))

    def _write(self, number: int, stream: _Stream) -> None:
        try:
            written = os.write(stream.fd, stream.pending)
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            written = len(stream.pending)
            stream.writes = False
        del stream.pending[:written]
        self._send(CREDIT, number, written.to_bytes(4, "big"))
        if stream.ended and stream.writes and not stream.pending:
            stream.close_writing()

    def _pass_on(self, count: int, body: bytes) -> None:
        """Give the zygote a message of the host's, with new descriptors in the place of those that came with it."""
        given = []
        for at in range(count):
            kind, number = DESCRIPTOR.unpack_from(body, at * DESCRIPTOR.size)
            if kind == SOCKET:
                mine, theirs = (end.detach() for end in socket.socketpair())
            else:
                mine, theirs = os.pipe() if kind == PIPE else os.pipe()[::-1]
            self._streams[number] = _Stream(mine, kind, reads=kind == PIPE)
            given.append(theirs)
        socket.send_fds(self._control, [body[count * DESCRIPTOR.size :]], given)
        for fd in given:
            os.close(fd)

    # ------------------------------------------------------------ reports

    def _release(self) -> None:
        """Let a held message go once what was written before it has gone; it ends an execution, so its streams end too."""
        if self._held is None:
            return
        if self._inside:
            for number, stream in self._streams.items():
                while stream.reads and len(self._outgoing) < MAX_OUTGOING and stream.credit and self._read(number, stream):
                    pass
                if stream.reads and not (stream.credit and len(self._outgoing) < MAX_OUTGOING):
                    return
            self._send(MESSAGE, 0, self._held)
        else:
            if any(stream.pending for stream in self._streams.values()):
                return
            self._control.send(self._held)
        self._drop_streams()
        self._held = None
        self._deliver()

    def _drop_streams(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()


def connect(timeout_s: float = 30.0) -> socket.socket:
    """Return the control socket of the zygote that listens in this sandbox.

    Raises:
        OSError: none does.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            control.connect(NAME)
            return control
        except OSError:
            control.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def main() -> None:
    """Be the end inside: the stream is standard input and output."""
    Relay(connect(), 0, 1, inside=True).run()
