"""Who writes tasks: any OpenAI-compatible endpoint, or the run's own serving engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import httpx

from flywheel.contracts import Engine, Sampling
from flywheel.errors import InferenceError
from flywheel.inference.chat import ChatFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A model's answer and what it cost."""

    text: str
    num_tokens: int


class ChatModel(Protocol):
    """Answers one message."""

    async def reply(self, message: str, *, seed: int) -> Reply:
        """Return the answer.

        Raises:
            FlywheelError: there is none to be had.
        """
        ...


class EndpointModel:
    """A model behind ``POST {url}/chat/completions``.

    Args:
        url: The base address, ``/v1`` included.
        model: The model's name there.
        api_key: Sent as a bearer token.
        max_tokens: Longest answer.
        temperature: Of sampling.
        timeout_s: For one answer.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        max_tokens: int = 2048,
        temperature: float = 1.0,
        timeout_s: float = 300.0,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s)
        self._options = {"model": model, "max_tokens": max_tokens, "temperature": temperature}

    async def reply(self, message: str, *, seed: int) -> Reply:
        """Return the answer.

        Raises:
            InferenceError: the endpoint does not answer, or not as it should.
        """
        body = {**self._options, "messages": [{"role": "user", "content": message}], "seed": seed}
        try:
            answer = await self._client.post("/chat/completions", json=body)
            answer.raise_for_status()
            data = answer.json()
            num_tokens = int((data.get("usage") or {}).get("completion_tokens", 0))
            return Reply(text=str(data["choices"][0]["message"]["content"] or ""), num_tokens=num_tokens)
        except httpx.HTTPStatusError as error:
            raise InferenceError(f"{self._client.base_url}: {error.response.status_code}: {error.response.text[:300]}") from error
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InferenceError(f"{self._client.base_url}: no usable answer ({said}); is it OpenAI-compatible?") from error

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()


class EngineModel:
    """The policy that a run serves.

    Args:
        engine: The run's engine.
        chat: Its chat format.
        max_tokens: Longest answer.
        temperature: Of sampling.
    """

    def __init__(self, engine: Engine, chat: ChatFormat, *, max_tokens: int, temperature: float = 1.0) -> None:
        self._engine = engine
        self._chat = chat
        self._max_tokens = max_tokens
        self._temperature = temperature

    async def reply(self, message: str, *, seed: int) -> Reply:
        """Return the answer.

        Raises:
            InfraError: the engine broke.
        """
        sampling = Sampling(max_tokens=self._max_tokens, temperature=self._temperature, seed=seed)
        prompt = self._chat.render_task(message, [])
        completion = await self._engine.generate(prompt, sampling)
        parsed = self._chat.parse(completion.token_ids, prompt=prompt)
        text = parsed.content if parsed.reasoning else self._chat.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        return Reply(text=text, num_tokens=len(completion.token_ids))
