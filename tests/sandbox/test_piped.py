"""A program spoken to over pipes: what it is shown, what it is kept from, and how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flywheel.errors import SandboxError
from flywheel.sandbox.bubblewrap import interpreter_inside
from flywheel.sandbox.piped import PipedProcess


def said(process: PipedProcess, sent: bytes = b"") -> str:
    """Return everything that a program writes until it ends."""
    left, output, ended = memoryview(sent), b"", False
    try:
        while not ended:
            left, data, ended = process.exchange(left, 30.0)
            output += data
        process.wait(30.0)
        return output.decode()
    finally:
        process.kill()


def shell(script: str, **options: object) -> PipedProcess:
    return PipedProcess(["/bin/sh", "-c", script], **options)  # type: ignore[arg-type]


def test_it_answers_what_is_sent() -> None:
    assert said(shell("read line; echo got $line"), b"hello\n") == "got hello\n"
    assert said(shell("read line; echo got $line", backend="unsafe"), b"hello\n") == "got hello\n"


def test_it_sees_what_it_is_shown_and_can_change_nothing(tmp_path: Path) -> None:
    shown, other = tmp_path / "shown", tmp_path / "other"
    for folder in (shown, other):
        folder.mkdir()
        (folder / "file").write_text("words\n")
    script = f"cat {shown}/file; cat {other}/file; echo x >> {shown}/file; echo x > /new; id -u; echo y > $HOME/own && cat $HOME/own"
    process = shell(script, show=[shown], env={"WHO": "me"})
    assert said(process) == "words\n65534\ny\n"
    assert (shown / "file").read_text() == "words\n"


def test_it_has_no_network_no_host_and_no_namespaces() -> None:
    secret = os.environ.get("HOME", "/root")
    script = f"ls {secret} /sys /etc/passwd 2>/dev/null; unshare -U true 2>/dev/null && echo namespaces; cat /proc/1/environ; echo end"
    assert said(shell(script)) == "end\n"


def test_it_finds_itself_where_a_program_looks() -> None:
    assert said(shell("readlink /proc/self/exe /proc/1/exe /proc/2/exe")) == "/bin/sh\n" * 3
    assert said(shell("readlink /proc/self/exe", program="/opt/lean")) == "/opt/lean\n"


def test_its_memory_is_limited_and_its_use_is_known() -> None:
    grow = "import sys; print('began', flush=True); b = bytearray(1 << 29); print('grown')"
    assert said(PipedProcess([interpreter_inside(), "-I", "-S", "-c", grow], memory_bytes=1 << 27)) == "began\n"
    process = shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; read line")
    left, output = memoryview(b""), b""
    while b"done" not in output:
        left, data, _ = process.exchange(left, 30.0)
        output += data
    cpu_s, memory = process.usage()
    assert 0.0 < cpu_s < 60.0
    assert 1 << 16 < memory < 1 << 30
    process.kill()
    assert process.usage() == (0.0, 0)


def test_what_is_no_program_ends_and_what_can_not_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(PipedProcess(["/nowhere/program"])) == ""
    monkeypatch.setattr("flywheel.sandbox.bubblewrap.interpreter", lambda: "/nowhere/python")
    with pytest.raises(SandboxError, match="can't start"):
        shell("true", backend="unsafe")
