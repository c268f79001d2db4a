"""Sessions: files, commands, limits, reset."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from flywheel.config import SandboxConfig
from flywheel.errors import ConfigError, SandboxError
from flywheel.sandbox import Limits, Sandbox, Session
from flywheel.sandbox.session import WorkerSandbox


def in_session(work: Callable[[Session], Awaitable[None]]) -> None:
    async def main() -> None:
        backend: Sandbox = WorkerSandbox()
        session: Session = await backend.create()
        try:
            await work(session)
        finally:
            await session.close()

    asyncio.run(main())


def test_files_and_commands() -> None:
    async def work(session: Session) -> None:
        await session.put({"a/b.txt": b"one\ntwo\n", "run.sh": b"cat a/b.txt; cat; echo x > new; echo $WORD >&2; exit 7"}, mode=0o700)
        result = await session.exec(["sh", "./run.sh"], stdin=b"in", env={"WORD": "word"})
        assert (result.exit_code, result.stdout, result.stderr, result.limit) == (7, b"one\ntwo\nin", b"word\n", None)
        assert await session.get("new") == b"x\n"
        assert (await session.exec(["no-such-program"])).exit_code == 127

    in_session(work)


def test_reset_gives_a_fresh_sandbox() -> None:
    async def work(session: Session) -> None:
        await session.put({"left": b"behind"})
        await session.reset()
        assert (await session.exec(["ls", "-A"])).stdout == b""

    in_session(work)


def test_nothing_outlives_a_command() -> None:
    async def work(session: Session) -> None:
        await session.exec(["sh", "-c", "(while :; do echo x >> ticks; sleep 0.01; done) & sleep 0.05"])
        first = await session.get("ticks")
        await asyncio.sleep(0.1)
        assert await session.get("ticks") == first

    in_session(work)


def test_limits_of_commands() -> None:
    async def work(session: Session) -> None:
        limits = Limits(cpu_s=0.3, output_bytes=1000, num_processes=8)
        assert (await session.exec(["sh", "-c", "while :; do :; done"], limits=limits)).limit == "cpu"
        behind = ["sh", "-c", "for i in 1 2 3; do (while :; do :; done) & done; wait"]
        assert (await session.exec(behind, limits=limits)).limit == "cpu"
        assert (await session.exec(["yes"], limits=limits)).limit == "output"
        assert (await session.exec(["sleep", "60"], limits=Limits(wall_s=0.1))).limit == "wall"
        bomb = await session.exec(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; echo all"], limits=limits)
        assert b"all" not in bomb.stdout

    in_session(work)


def test_what_can_not_be_written_or_read() -> None:
    async def work(session: Session) -> None:
        with pytest.raises(SandboxError):
            await session.put({"/usr/x": b""})
        with pytest.raises(SandboxError):
            await session.get("missing")
        await session.put({"big": bytes(2000)})
        with pytest.raises(SandboxError, match="larger than 1000 bytes"):
            await session.get("big", max_bytes=1000)
        await session.put({"bigger": bytes(5 * 2**20)})
        assert len(await session.get("bigger", max_bytes=5 * 2**20)) == 5 * 2**20
        with pytest.raises(SandboxError, match="larger than 1048576 bytes"):
            await session.get("bigger")
        assert (await session.exec(["sh", "-c", "ln -s /dev/zero z"])).exit_code == 0
        with pytest.raises(SandboxError):
            await session.get("z")

    in_session(work)


def test_sessions_that_are_kept_ready_are_fresh_and_end_with_their_sandbox() -> None:
    async def main() -> None:
        backend = WorkerSandbox(num_ready=2)
        sessions = [await backend.create() for _ in range(3)]
        for session in sessions:
            assert (await session.exec(["ls", "-A"])).stdout == b""
            await session.put({"left": b"behind"})
        spare = [session for session, _ in backend._ready]
        assert len(spare) == 2
        assert not set(sessions) & set(spare)
        for session in (*sessions, *sessions):
            await session.close()
        await backend.close()
        for session in spare:
            with pytest.raises(SandboxError, match="closed"):
                await session.get("left")

    asyncio.run(main())


def test_a_closed_session_says_so() -> None:
    async def main() -> None:
        session = await WorkerSandbox().create()
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await session.exec(["true"])

    asyncio.run(main())


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError):
        WorkerSandbox(SandboxConfig(backend="none"))
