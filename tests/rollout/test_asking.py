"""Broken calls of the engine are made again with the same seed, and the time in which anything is asked is counted once."""

from __future__ import annotations

import asyncio

import pytest

from flywheel.contracts import Sampling
from flywheel.errors import InfraError
from flywheel.rollout.asking import MAX_BACKOFF_S, AskedEngine, backoff_s
from tests.scripted import ScriptedPolicy, make_chat

CHAT = make_chat()


def test_a_broken_call_is_made_again_with_the_same_seed() -> None:
    policy = ScriptedPolicy(CHAT, lambda context: "yes", broken={0, 1})
    asked = AskedEngine(policy, max_retries=2)
    asyncio.run(asked.generate([1], Sampling(max_tokens=4, seed=7)))
    assert (policy.num_requests, asked.num_retries) == (3, 2)
    assert [request.sampling.seed for request in policy.asked] == [7]


def test_what_stays_broken_is_said() -> None:
    policy = ScriptedPolicy(CHAT, lambda context: "yes", broken=range(9))
    with pytest.raises(InfraError, match="request 1 was to break"):
        asyncio.run(AskedEngine(policy, max_retries=1).generate([1], Sampling(max_tokens=4)))
    assert policy.num_requests == 2


def test_busy_time_counts_overlapping_requests_once() -> None:
    now = 10.0

    class Slow(ScriptedPolicy):
        async def generate(self, prompt_ids, sampling):  # type: ignore[no-untyped-def]
            nonlocal now
            found = await super().generate(prompt_ids, sampling)
            now += 3.0
            return found

    asked = AskedEngine(Slow(CHAT, lambda context: "yes"), max_retries=0, clock=lambda: now)

    async def both() -> None:
        await asyncio.gather(*(asked.generate([1], Sampling(max_tokens=2)) for _ in range(2)))

    asyncio.run(both())
    assert asked.busy_s == 6.0
    now += 50.0
    assert asked.busy_s == 6.0
    asyncio.run(both())
    assert asked.busy_s == 12.0


def test_pauses_double_up_to_a_limit() -> None:
    assert [backoff_s(retry) for retry in range(3)] == [0.1, 0.2, 0.4]
    assert backoff_s(100) == MAX_BACKOFF_S
