"""An asyncio loop in a thread of its own, for callers that block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from flywheel.errors import RunStopped

T = TypeVar("T")
_POLL_S = 0.2
_CANCEL_S = 5.0


class BackgroundLoop:
    """Runs coroutines for synchronous callers. `stop_requested` makes every waiting caller raise `RunStopped`.

    Args:
        stop_requested: One that several loops heed, one after another.
    """

    def __init__(self, stop_requested: threading.Event | None = None) -> None:
        self.stop_requested = stop_requested or threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flywheel-service", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `work` and return its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """Return the future's result.

        Raises:
            RunStopped: a stop was requested before the result was there; the work is cancelled.
        """
        while True:
            try:
                return future.result(_POLL_S)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                if self.stop_requested.is_set():
                    future.cancel()
                    raise RunStopped("stop requested") from None
            except KeyboardInterrupt:
                future.cancel()
                raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and return its result; see `wait`."""
        return self.wait(self.submit(work))

    def close(self, final: Coroutine[Any, Any, None] | None = None) -> None:
        """Run `final`, if there is one, to its end whatever was requested, then end what is left and the thread."""
        try:
            if final is not None:
                self.submit(final).result()
        finally:
            with contextlib.suppress(TimeoutError):  # something holds the loop itself
                self.submit(_cancel_the_rest()).result(timeout=2 * _CANCEL_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)


async def _cancel_the_rest() -> None:
    """Cancel every other task of the loop, so that none is destroyed half-way; one that does not heed it is left behind."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=_CANCEL_S)
