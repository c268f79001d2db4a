"""What is said to a vLLM server over HTTP, and how its answers and failures are read.

Many prompts travel in one streamed completion request. On a small model that gives 6,500 tokens/s where one request each gives
1,300 to 4,000, and streaming returns each completion as soon as it ends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import httpx

from flywheel.contracts import Sampling

_TIMEOUT = httpx.Timeout(connect=30, read=600, write=60, pool=None)
# vLLM drops connections that were idle for 5 s; one that is reused at that very moment looks like a dead server.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)


class ServerLost(Exception):  # noqa: N818
    """The server died, hung, or failed inside."""


class Rejected(Exception):  # noqa: N818
    """The server refused a request as wrong."""


class Sampled(NamedTuple):
    """One finished completion, and the place of its prompt in the request."""

    prompt: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str


class VllmClient:
    """Talks to the server at ``unix:PATH`` or ``http://…``."""

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            transport = httpx.AsyncHTTPTransport(uds=address.removeprefix("unix:"), limits=_LIMITS)
            self._http = httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=_TIMEOUT)
        else:
            self._http = httpx.AsyncClient(base_url=address, limits=_LIMITS, timeout=_TIMEOUT)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return (await self._http.get("/health", timeout=10)).status_code == 200
        except httpx.TransportError:
            return False

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """Make one request and return its JSON answer (or its text).

        Raises:
            Rejected: the server answered with an error; the message holds what it said.
            ServerLost: it did not answer.
        """
        try:
            response = await self._http.request(method, path, json=body, params=query or None)
        except httpx.TransportError as error:
            raise ServerLost(f"{method} {path}: {error!r}") from error
        if response.is_error:
            raise Rejected(f"{method} {path}: status {response.status_code}: {response.text[:2000]}")
        return response.json() if response.headers.get("content-type", "").startswith("application/json") else response.text

    async def complete(
        self, model: str, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_token_ids: Sequence[int]
    ) -> AsyncIterator[Sampled]:
        """Yield the completion of each prompt as it ends.

        Raises:
            Rejected: the request is wrong; no completion was sampled.
            ServerLost: the server died or failed before every completion had ended.
        """
        body = {
            "model": model,
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "ignore_eos": sampling.ignore_eos,
            "stop_token_ids": [] if sampling.ignore_eos else list(stop_token_ids),
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stream": True,
            **({} if sampling.seed is None else {"seed": sampling.seed}),
        }
        token_ids: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        num_open = len(prompts)
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as response:
                if response.is_error:
                    text = (await response.aread()).decode(errors="replace")[:2000]
                    raise (ServerLost if response.is_server_error else Rejected)(f"status {response.status_code}: {text}")
                async for event in _events(response):
                    for choice in _choices(event):
                        index = choice["index"]
                        token_ids[index] += choice.get("token_ids") or []
                        logprobs[index] += (choice.get("logprobs") or {}).get("token_logprobs") or []
                        finish = choice.get("finish_reason")
                        if finish == "abort":
                            raise ServerLost("the server aborted a request")
                        if finish is not None:
                            num_open -= 1
                            yield Sampled(index, tuple(token_ids[index]), tuple(logprobs[index]), finish)
        except httpx.TransportError as error:
            raise ServerLost(repr(error)) from error
        if num_open:
            raise ServerLost(f"the answer ended with {num_open} of {len(prompts)} completions missing")


async def _events(response: httpx.Response) -> AsyncIterator[Any]:
    """Yield the server-sent events; lines end at a line feed only (a completion's text may hold other line separators)."""
    rest = b""
    async for chunk in response.aiter_raw():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def _choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    if "error" in event:
        error = event["error"]
        code = error.get("code") if isinstance(error, dict) else None
        raise (Rejected if isinstance(code, int) and 400 <= code < 500 else ServerLost)(json.dumps(error)[:2000])
    choices: list[dict[str, Any]] = event.get("choices", [])
    return choices
