"""The fallback engine: transformers in a worker thread, nothing to install beside torch.

Requests that wait are sampled together as one left-padded batch with a KV cache; requests that come meanwhile make the next
batch. A completion's randomness is its own generator's, so a seeded request gives the same tokens in any batch, as far as
float32 sums allow; with ``run.deterministic`` each is sampled alone, which gives the same bits. Weights are swapped between batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flywheel.config import Recipe
from flywheel.contracts import Completion, Sampling, WeightSync, WeightUpdate
from flywheel.errors import InferenceError, InfraError
from flywheel.inference.chat import loading
from flywheel.inference.model_files import context_length, hub_options, stop_token_ids

# Shape suffixes: B rows of a batch, T prompt positions, V vocabulary.
# ruff: noqa: N803, N806

_GATHER_S = 0.002  # requests of one turn of the event loop arrive within this


@dataclass(eq=False, slots=True)
class _Request:
    prompt_ids: Sequence[int]
    sampling: Sampling
    result: asyncio.Future[Completion]
    loop: asyncio.AbstractEventLoop


@dataclass(eq=False, slots=True)
class _Swap:
    update: WeightUpdate
    result: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


_Message = _Request | _Swap | None  # None ends the thread


@dataclass(eq=False, slots=True)
class _Row:
    """A request being sampled."""

    request: _Request
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False

    @staticmethod
    def begin(request: _Request) -> _Row:
        """Return the row with a generator of its own, seeded by the request or else freshly."""
        generator = torch.Generator()
        if request.sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.sampling.seed)
        return _Row(request, generator)


class TransformersEngine:
    """Serves the policy with transformers' own forward pass, in this process.

    Attributes:
        policy_version: Of the weights that new requests use; ``initial`` before the first update.
        max_model_len: Longest context, completion included; known once started.
    """

    name = "transformers"

    def __init__(self, recipe: Recipe, model_dir: str | Path, log_dir: Path, weight_sync: WeightSync) -> None:
        if weight_sync not in ("disk", "lora"):
            raise InferenceError(f"the transformers engine takes weights by disk or lora, not {weight_sync!r}")
        self._recipe, self._model_name = recipe, str(model_dir)
        self.policy_version = "initial"
        self.max_model_len: int = 0
        self._num_adapters = 0
        self._device = _device(recipe)
        self._model: Any = None
        self._stop_ids: frozenset[int] = frozenset()
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    async def start(self) -> None:
        """Load the model and start the worker thread.

        Raises:
            InferenceError: the model can't be loaded.
        """
        try:
            await asyncio.to_thread(self._load_model)
        except (OSError, ValueError) as error:
            raise InferenceError(f"the transformers engine can't load {self._model_name!r}: {error}") from error
        self._thread = threading.Thread(target=self._work, name="transformers-engine", daemon=True)
        self._thread.start()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion.

        Raises:
            InfraError: the engine failed or is closed.
            InferenceError: the prompt is empty or leaves no room in the context.
        """
        room = self.max_model_len - len(prompt_ids)
        if room < 1 or not prompt_ids:
            raise InferenceError(f"a prompt of {len(prompt_ids)} tokens can't be continued in a context of {self.max_model_len}")
        self._check_usable()
        loop = asyncio.get_running_loop()
        request = _Request(prompt_ids, sampling, loop.create_future(), loop)
        self._inbox.put(request)
        return await request.result

    async def update_weights(self, update: WeightUpdate) -> None:
        """Swap weights between batches.

        Raises:
            InferenceError: they can't be loaded; nothing is served from then on.
        """
        self._check_usable()
        loop = asyncio.get_running_loop()
        swap = _Swap(update, loop.create_future(), loop)
        self._inbox.put(swap)
        await swap.result

    async def close(self) -> None:
        """End the worker thread; requests that still wait get an `InfraError`."""
        self._failure = self._failure or "the engine is closed"
        self._inbox.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._model = None

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise InfraError(f"the transformers engine serves no more: {self._failure}")

    # ------------------------------------------------------------ the worker thread

    def _work(self) -> None:
        messages: list[_Message] = []
        try:
            while True:
                messages = self._take()
                while messages:
                    if messages[0] is None:
                        return
                    if isinstance(messages[0], _Swap):
                        self._swap(messages[0].update)
                        _resolve(messages[0], None)
                        del messages[0]
                    else:
                        batch = [m for m in itertools.takewhile(lambda m: isinstance(m, _Request), messages) if isinstance(m, _Request)]
                        # Sums in float32 depend on the batch's shape, and which requests meet in one depends on timing.
                        batch = batch[: 1 if self._recipe.run.deterministic else self._recipe.engine.max_concurrency]
                        self._sample(batch)
                        del messages[: len(batch)]
        except Exception as error:  # noqa: BLE001  (the thread's one boundary: whatever broke must reach those who wait)
            self._failure = f"{type(error).__name__}: {error}"
            if messages and isinstance(messages[0], _Swap):
                _resolve(messages[0], InferenceError(f"can't load the weights of {messages[0].update.policy_version}: {self._failure}"))
        finally:
            while not self._inbox.empty():
                messages.append(self._inbox.get())
            for message in messages:
                if message is not None:
                    _resolve(message, InfraError(f"the transformers engine serves no more: {self._failure}"))

    def _take(self) -> list[_Message]:
        """Return what has arrived, after waiting for the first message and a moment for its companions."""
        messages = [self._inbox.get()]
        with contextlib.suppress(queue.Empty):
            while messages[-1] is not None:
                messages.append(self._inbox.get(timeout=_GATHER_S))
        return messages

    @torch.inference_mode()
    def _sample(self, batch: list[_Request]) -> None:
        """Sample every request of a batch to its end."""
        rows = [_Row.begin(request) for request in batch]
        length = max(len(row.request.prompt_ids) for row in rows)
        ids_BT = torch.zeros((len(rows), length), dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for b, row in enumerate(rows):
            ids_BT[b, length - len(row.request.prompt_ids) :] = torch.tensor(list(row.request.prompt_ids))
            mask_BT[b, length - len(row.request.prompt_ids) :] = 1
        ids_BT, mask_BT = ids_BT.to(self._device), mask_BT.to(self._device)
        position_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        cache = None
        while True:
            output = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=position_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            ids_B = self._draw(rows, output.logits[:, -1].float())
            live = [b for b, row in enumerate(rows) if not self._ended(row)]
            if not live:
                return
            ids_BT, position_BT = ids_B[:, None], position_BT[:, -1:] + 1
            if len(live) <= len(rows) // 2:
                kept_B = torch.tensor(live, device=self._device)
                cache.batch_select_indices(kept_B)
                rows = [rows[b] for b in live]
                ids_BT, position_BT, mask_BT = ids_BT[kept_B], position_BT[kept_B], mask_BT[kept_B]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones((len(rows), 1))], dim=1)

    def _draw(self, rows: list[_Row], logits_BV: torch.Tensor) -> torch.Tensor:
        """Draw each row's next token by inverting its cumulative distribution at its own generator's next number."""
        logprobs_BV = processed_logprobs(logits_BV, [row.request.sampling for row in rows])
        cdf_BV = logprobs_BV.double().exp().cumsum(-1)
        draws_B = torch.cat([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows]).to(self._device)
        ids_B1 = torch.searchsorted(cdf_BV, draws_B[:, None] * cdf_BV[:, -1:], right=True).clamp(max=logits_BV.shape[-1] - 1)
        drawn = zip(rows, ids_B1[:, 0].tolist(), logprobs_BV.gather(1, ids_B1)[:, 0].tolist(), strict=True)
        for row, token_id, logprob in drawn:
            if not row.ended:
                row.token_ids.append(token_id)
                row.logprobs.append(logprob)
        return ids_B1[:, 0]

    def _ended(self, row: _Row) -> bool:
        """Whether the row has ended; the first time that it has, its completion is handed over."""
        sampling = row.request.sampling
        stopped = row.token_ids[-1] in self._stop_ids and not sampling.ignore_eos
        limit = min(sampling.max_tokens, self.max_model_len - len(row.request.prompt_ids))
        if not row.ended and (stopped or len(row.token_ids) >= limit):
            row.ended = True
            completion = Completion(
                token_ids=tuple(row.token_ids),
                logprobs=tuple(row.logprobs),
                policy_version=self.policy_version,
                finish="stop" if stopped else "length",
            )
            _resolve(row.request, completion)
        return row.ended

    # ------------------------------------------------------------ weights

    def _load_model(self) -> None:
        policy = self._recipe.policy
        self.max_model_len = self._recipe.engine.max_model_len or context_length(self._model_name, policy)
        self._stop_ids = frozenset(stop_token_ids(self._model_name, policy))
        with loading(self._model_name):
            self._model = self._read(self._model_name, **hub_options(policy))

    def _read(self, source: str | Path, **options: Any) -> Any:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # it would write into the run's own display at every swap
        auto = torch.float32 if self._device.type == "cpu" else torch.bfloat16
        dtype = auto if self._recipe.policy.dtype == "auto" else getattr(torch, self._recipe.policy.dtype)
        model, info = AutoModelForCausalLM.from_pretrained(str(source), dtype=dtype, output_loading_info=True, **options)
        if info["missing_keys"] or info["mismatched_keys"]:
            raise InferenceError(f"{source}: missing {sorted(info['missing_keys'])[:5]}, of the wrong shape {info['mismatched_keys'][:5]}")
        return model.to(self._device).eval()

    def _swap(self, update: WeightUpdate) -> None:
        if update.path is None:
            raise InferenceError(f"the {update.method} weight update {update.policy_version} has no path")
        if update.method == "lora":
            self._swap_adapter(update.path)
        else:
            config = getattr(self._model, "base_model", self._model).config
            self._model = self._read(update.path, config=config)
        self.policy_version = update.policy_version

    def _swap_adapter(self, path: Path) -> None:
        from peft import PeftModel

        old, self._num_adapters = f"update{self._num_adapters}", self._num_adapters + 1
        new = f"update{self._num_adapters}"
        if isinstance(self._model, PeftModel):
            self._model.load_adapter(str(path), adapter_name=new)
            self._model.set_adapter(new)
            self._model.delete_adapter(old)
        else:
            self._model = PeftModel.from_pretrained(self._model, str(path), adapter_name=new).eval()


def processed_logprobs(logits_BV: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Return the logprobs that are sampled from: after temperature, then top-k, then top-p, normalised again."""
    device = logits_BV.device
    temperature_B1 = torch.tensor([max(s.temperature, 1e-5) for s in samplings], device=device)[:, None]
    scaled_BV = logits_BV / temperature_B1
    if any(s.top_k > 0 or s.top_p < 1 for s in samplings):
        vocabulary = logits_BV.shape[-1]
        top_k_B1 = torch.tensor([s.top_k if s.top_k > 0 else vocabulary for s in samplings], device=device)[:, None]
        top_p_B1 = torch.tensor([s.top_p for s in samplings], device=device)[:, None]
        sorted_BV, order_BV = scaled_BV.sort(dim=-1, descending=True, stable=True)
        sorted_BV = sorted_BV.masked_fill(torch.arange(vocabulary, device=device) >= top_k_B1, -torch.inf)
        probs_BV = sorted_BV.softmax(-1)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        sorted_BV = sorted_BV.masked_fill((before_BV >= top_p_B1) & (top_p_B1 < 1), -torch.inf)
        scaled_BV = torch.empty_like(scaled_BV).scatter_(1, order_BV, sorted_BV)
    return scaled_BV.log_softmax(-1)


def _device(recipe: Recipe) -> torch.device:
    wanted = recipe.trainer.device
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _resolve(waiter: _Request | _Swap, value: Any) -> None:
    """Hand a value or an exception to whoever awaits it in the event loop."""

    def hand_over() -> None:
        if waiter.result.done():
            return
        if isinstance(value, Exception):
            waiter.result.set_exception(value)
        else:
            waiter.result.set_result(value)

    waiter.loop.call_soon_threadsafe(hand_over)
