"""The relay: descriptors through one byte stream, in order, with bounds on both sides."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from flywheel.sandbox.inside.relay import DATA, HEAD, MAX_FRAME, MESSAGE, WINDOW, Relay
from flywheel.sandbox.process import control_pair


class Line:
    """Two relays with a stream between them: `host` and `zygote` are the outer ends of their control sockets."""

    def __init__(self) -> None:
        self.host, host_side = control_pair()
        self.zygote, zygote_side = control_pair()
        self.stream = socket.socketpair()
        ends = ((host_side, self.stream[0], False), (zygote_side, self.stream[1], True))
        self.threads = [threading.Thread(target=self.relay, args=end) for end in ends]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def relay(control: socket.socket, stream: socket.socket, inside: bool) -> None:
        Relay(control, stream.fileno(), stream.fileno(), inside=inside).run()
        stream.shutdown(socket.SHUT_RDWR)  # as a process's end does

    def receive(self) -> tuple[bytes, list[int]]:
        """Return the next message that the zygote gets, and its descriptors."""
        data, ancillary, _, _ = self.zygote.recvmsg(4096, socket.CMSG_SPACE(64))
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        return data, list(fds)

    def close(self) -> None:
        self.host.close()
        for thread in self.threads:
            thread.join(timeout=30)
            assert not thread.is_alive()
        for end in (self.zygote, *self.stream):
            end.close()


@pytest.fixture
def line() -> Iterator[Line]:
    with contextlib.closing(Line()) as made:
        yield made


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_descriptors_come_out_as_their_likes(line: Line) -> None:
    stdout_r, stdout_w = os.pipe()
    ours, theirs = socket.socketpair()
    stdin = os.memfd_create("stdin")
    os.write(stdin, b"input" * 100_000)
    os.lseek(stdin, 0, os.SEEK_SET)
    socket.send_fds(line.host, [b"request"], [stdout_w, theirs.fileno(), stdin])
    for fd in (stdout_w, stdin):
        os.close(fd)
    theirs.close()
    message, (inner_stdout, inner_channel, inner_stdin) = line.receive()
    assert message == b"request"
    assert read_all(inner_stdin) == b"input" * 100_000
    ours.sendall(b"question")
    channel = socket.socket(fileno=inner_channel)
    assert channel.recv(100) == b"question"
    channel.sendall(b"answer")
    assert ours.recv(100) == b"answer"
    os.write(inner_stdout, b"output")
    os.close(inner_stdout)
    channel.close()
    assert read_all(stdout_r) == b"output"
    assert ours.recv(100) == b""
    ours.close()
    os.close(stdout_r)
    os.close(inner_stdin)


def test_a_report_comes_after_everything_that_was_written_before_it(line: Line) -> None:
    data = os.urandom(60_000)
    for _ in range(20):
        reader, writer = os.pipe()
        socket.send_fds(line.host, [b"request"], [writer])
        os.close(writer)
        _, (inner,) = line.receive()
        os.write(inner, data)
        os.close(inner)
        line.zygote.send(b"report")
        assert line.host.recv(100) == b"report"
        os.set_blocking(reader, False)
        got = b""
        while part := os.read(reader, 1 << 16):  # would raise BlockingIOError if something were still to come
            got += part
        assert got == data
        os.close(reader)


def test_what_nobody_reads_stops_its_writer_and_nothing_else(line: Line) -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    socket.send_fds(line.host, [b"request"], [writer, theirs.fileno()])
    os.close(writer)
    theirs.close()
    _, (inner, inner_channel) = line.receive()
    os.set_blocking(inner, False)
    written = 0
    channel = socket.socket(fileno=inner_channel)
    for _ in range(1000):  # the channel still answers however full the other stream is
        with contextlib.suppress(BlockingIOError):
            written += os.write(inner, bytes(10_000))
        channel.sendall(b"x")
        assert ours.recv(1) == b"x"
    assert written <= WINDOW + 3 * 2**16 + 10_000
    os.close(reader)
    os.close(inner)
    channel.close()
    ours.close()


def test_a_kill_overtakes_what_is_not_yet_read(line: Line) -> None:
    ours, theirs = socket.socketpair()
    socket.send_fds(line.host, [b"request"], [theirs.fileno()])
    theirs.close()
    _, (inner,) = line.receive()
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 16))
    line.host.send(b"kill")
    assert line.receive() == (b"kill", [])
    os.close(inner)
    ours.close()


@pytest.mark.parametrize(
    "said",
    [
        HEAD.pack(DATA, 0, MAX_FRAME + 1),
        HEAD.pack(DATA, 0, WINDOW) + bytes(WINDOW) + HEAD.pack(DATA, 0, WINDOW) + bytes(WINDOW),
    ],
)
def test_who_breaks_the_rules_is_cut_off(said: bytes) -> None:
    host, host_side = control_pair()
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=Relay(host_side, ours.fileno(), ours.fileno(), inside=False).run)
    thread.start()
    reader, writer = os.pipe()
    socket.send_fds(host, [b"request"], [writer])
    os.close(writer)
    head = HEAD.unpack(theirs.recv(HEAD.size, socket.MSG_WAITALL))
    assert head[0] == MESSAGE
    with contextlib.suppress(OSError):
        theirs.sendall(said)
    assert host.recv(10) == b""
    thread.join(timeout=30)
    assert not thread.is_alive()
    os.close(reader)
    for end in (host, ours, theirs):
        end.close()


def test_it_ends_when_either_side_is_gone() -> None:
    line = Line()
    line.zygote.close()
    assert line.host.recv(10) == b""
    line.close()
    line = Line()
    line.host.close()
    assert line.zygote.recv(10) == b""
    line.close()
