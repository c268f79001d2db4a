"""How the engine is asked: a call that breaks is made again, the time in which anything is asked is measured, and threads may ask, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from flywheel.contracts import Completion, Engine, Sampling, WeightUpdate
from flywheel.errors import InfraError

BACKOFF_S = 0.1
MAX_BACKOFF_S = 30.0


def backoff_s(retry: int) -> float:
    """Return the pause before a retry, counted from 0: doubled each time, up to a limit."""
    return min(BACKOFF_S * 2.0**retry, MAX_BACKOFF_S)


class AskedEngine:
    """An engine whose broken calls are retried with the same seed. It is itself an `Engine`.

    Args:
        engine: Who answers.
        max_retries: Further calls after an `InfraError`.
        clock: Seconds that only go forward.
    """

    def __init__(self, engine: Engine, *, max_retries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = engine.name
        self.num_retries = 0
        self._engine = engine
        self._max_retries = max_retries
        self._clock = clock
        self._in_flight = 0
        self._since = 0.0
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds, so far, in which at least one completion was being waited for."""
        return self._busy_s + (self._clock() - self._since if self._in_flight else 0.0)

    async def start(self) -> None:
        """Start serving."""
        await self._engine.start()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion.

        Raises:
            InfraError: it broke at every try.
        """
        if not self._in_flight:
            self._since = self._clock()
        self._in_flight += 1
        try:
            for retry in range(self._max_retries):
                try:
                    return await self._engine.generate(prompt_ids, sampling)
                except InfraError:
                    self.num_retries += 1
                    await asyncio.sleep(backoff_s(retry))
            return await self._engine.generate(prompt_ids, sampling)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._busy_s += self._clock() - self._since

    async def update_weights(self, update: WeightUpdate) -> None:
        """Swap weights between requests."""
        await self._engine.update_weights(update)

    async def close(self) -> None:
        """Stop what `start` started."""
        await self._engine.close()


class EngineForThreads:
    """An engine that may be asked in any thread and event loop: it answers in the loop where it was made, which must go on running.

    Args:
        engine: Who answers.
    """

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.num_tokens = 0
        self._engine = engine
        self._loop = asyncio.get_running_loop()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion.

        Raises:
            InfraError: the engine's own.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answered(prompt_ids, sampling), self._loop))

    async def _answered(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        completion = await self._engine.generate(prompt_ids, sampling)
        self.num_tokens += len(completion.token_ids)
        return completion

    async def start(self) -> None:
        """Whose engine it is starts it."""

    async def update_weights(self, update: WeightUpdate) -> None:
        """Whose engine it is gives it weights."""

    async def close(self) -> None:
        """Whose engine it is ends it."""
