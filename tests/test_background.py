"""The loop of a caller that is interrupted, or leaves work behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from flywheel.background import BackgroundLoop


def test_ctrl_c_ends_the_work_that_is_waited_for_and_what_it_has_started() -> None:
    ended: list[str] = []

    async def attempt(name: str) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(name)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(attempt(name))
            await asyncio.sleep(0)  # they have begun
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()

    async def final() -> None:
        ended.append("final")

    background = BackgroundLoop()
    left = background.submit(attempt("left"))
    with pytest.raises(KeyboardInterrupt):
        background.call(work())
    background.close(final())
    assert sorted(ended) == ["a", "b", "c", "final", "left"]
    assert left.cancelled()
    assert not background._thread.is_alive()
