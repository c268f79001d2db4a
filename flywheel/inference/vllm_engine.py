"""The vLLM engine: a server of its own (or one that runs already), many requests in flight, weights swapped between them.

Requests that arrive in the same turn of the event loop with the same sampling travel together. A swap closes the gate for new
requests, waits for those in flight until the deadline, aborts the rest (they are issued again under the new weights), loads,
and opens the gate. While the server sleeps (``placement.sleep_level``) the gate is closed until the next swap, which wakes it: first
the weights' memory and, when they are loaded, the cache's. A server that dies is restarted with the weights that were published
last, and every request in flight is issued again; so the folder of an update must stay until the next update has returned.

In a live transfer (``ipc``, ``nccl``) the update's path is a file: vLLM's ``update_info`` as JSON (names, dtype_names, shapes, and
for ``ipc`` the handles of the trainer's GPU memory), with an ``init_info`` beside it for ``nccl``, by which the server joins the
group in which the trainer broadcasts. Such weights are on no disk, so a server that dies under them ends the run.

Served weights can be wrong without an error (vLLM's CPU build keeps a stale packed copy of tied embeddings unless
``lm_head.weight`` is written out), which is what the served-against-trainer probe is for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.config import Recipe
from flywheel.contracts import Completion, Sampling, WeightSync, WeightUpdate
from flywheel.errors import InferenceError, InfraError
from flywheel.inference.model_files import context_length, stop_token_ids
from flywheel.inference.vllm_server import SERVED_NAME, VllmServer
from flywheel.inference.vllm_wire import Rejected, ServerLost, VllmClient

_LOG = logging.getLogger(__name__)
_POLL_S = 0.1


@dataclass(eq=False, slots=True)
class _Request:
    prompt_ids: Sequence[int]
    sampling: Sampling
    result: asyncio.Future[Completion]


class VllmEngine:
    """Serves the policy with vLLM. All methods are called from one event loop.

    Attributes:
        policy_version: Of the weights that new requests use; ``initial`` before the first update.
        max_model_len: Longest context, completion included; known once started.
    """

    name = "vllm"

    def __init__(self, recipe: Recipe, model_dir: str | Path, log_dir: Path, weight_sync: WeightSync) -> None:
        self._recipe, self._config, self._model = recipe, recipe.engine, model_dir
        self._log_dir, self._sync = log_dir, weight_sync
        self.policy_version = "initial"
        self.max_model_len: int = 0
        self._stop_ids: tuple[int, ...] = ()
        self._server: VllmServer | None = None
        self._client: VllmClient | None = None
        self._base_name = SERVED_NAME
        self._adapter: str | None = None
        self._update: WeightUpdate | None = None
        self._transfer_begun: dict[str, Any] | None = None  # the init_info that the server process has been given
        self._slots = asyncio.Semaphore(self._config.max_concurrency)
        self._queue: list[_Request] = []
        self._batches: set[asyncio.Task[None]] = set()
        self._swap = asyncio.Lock()
        self._is_open = False
        self._is_asleep = False
        self._flush_due = False
        self._epoch = 0  # of the server process: a loss that was seen in an older one has been dealt with
        self._num_restarts = 0
        self._recovery: asyncio.Task[None] | None = None
        self._failure: str | None = None

    @property
    def server_pid(self) -> int | None:
        """The server's process id (and group); None where it was not started here or does not run."""
        return self._server.pid if self._server is not None else None

    # ------------------------------------------------------------ the engine's contract

    async def start(self) -> None:
        """Start the server, or attach to ``engine.url``.

        Raises:
            InferenceError: it could not start; the message holds the end of its log.
        """
        policy = self._recipe.policy
        self.max_model_len = self._config.max_model_len or int(await asyncio.to_thread(context_length, self._model, policy))
        if self._config.url is None:
            self._server = VllmServer(self._recipe, self._model, self.max_model_len, self._log_dir, self._sync)
            self._server.launch()
            address = f"unix:{self._server.socket}"
        else:
            address = self._config.url.rstrip("/")
        self._client = VllmClient(address)
        self._stop_ids = await asyncio.to_thread(stop_token_ids, self._model, policy)
        await self._wait_healthy()
        if self._server is None:
            self._base_name = (await self._client.call("GET", "/v1/models"))["data"][0]["id"]
        self._open()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion; it waits while weights are swapped or the server restarts.

        Raises:
            InfraError: the engine failed beyond its restarts, or is closed.
            InferenceError: the request can't be served: its prompt leaves no room in the context, or vLLM refuses it.
        """
        room = self.max_model_len - len(prompt_ids)
        if room < 1:
            raise InferenceError(f"a prompt of {len(prompt_ids)} tokens leaves no room in a context of {self.max_model_len}")
        async with self._slots:
            self._check_usable()
            sampling = dataclasses.replace(sampling, max_tokens=min(sampling.max_tokens, room))
            request = _Request(prompt_ids, sampling, asyncio.get_running_loop().create_future())
            self._enqueue([request])
            return await request.result

    async def update_weights(self, update: WeightUpdate) -> None:
        """Swap weights between requests.

        Raises:
            InferenceError: the server could not load them; nothing is served from then on.
            InfraError: the server died and could not be restarted.
        """
        async with self._swap:
            self._check_usable()
            self._is_open = False
            try:
                await self._drain()
                self._update = update
                try:
                    await self._load(update)
                except ServerLost as error:
                    if update.method == "nccl":  # the trainer's group is with the server that died
                        raise InferenceError(f"the vLLM server died as it took {update.policy_version}: {error}; resume the run") from error
                    await self._restart(str(error))
            except (InferenceError, InfraError) as error:
                self._fail(str(error))
                raise
            self._open()

    async def sleep(self) -> None:
        """Give back GPU memory until the next update, as ``placement.sleep_level`` says.

        Raises:
            InferenceError: the server refused to, or died.
        """
        async with self._swap:
            self._check_usable()
            if self._server is None or not self._server.sleeps:
                return
            self._is_open = False
            try:
                await self._drain()
                await self._http.call("POST", "/sleep", level=str(self._recipe.placement.sleep_level), mode="abort")
                self._is_asleep = True
            except Rejected as error:
                self._fail(f"the vLLM server does not sleep: {error}")
                raise InferenceError(f"the vLLM server does not sleep: {error}; set placement.sleep_level = 0") from error
            except ServerLost as error:
                self._fail(str(error))  # a fresh one would take the memory that the trainer is about to use
                raise InferenceError(f"the vLLM server died as it was put to sleep: {error}; resume the run") from error

    async def close(self) -> None:
        """Stop the server; requests that still wait get an `InfraError`."""
        self._fail("the engine is closed")
        tasks = [*self._batches, *([self._recovery] if self._recovery else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
        if self._client is not None:
            await self._client.close()

    # ------------------------------------------------------------ requests

    def _enqueue(self, requests: Sequence[_Request]) -> None:
        self._queue += requests
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Issue what waits, one batch for each way of sampling."""
        self._flush_due = False
        if not self._is_open:
            return
        waiting, self._queue = self._queue, []
        batches: dict[Sampling, list[_Request]] = {}
        for request in waiting:
            if not request.result.done():
                batches.setdefault(request.sampling, []).append(request)
        for batch in batches.values():
            self._issue(batch)

    def _issue(self, batch: list[_Request]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _run(self, batch: list[_Request]) -> None:
        """Serve a batch; what is cut off goes back to the queue."""
        epoch, version = self._epoch, self.policy_version
        prompts = [request.prompt_ids for request in batch]
        try:
            async for sampled in self._http.complete(self._adapter or self._base_name, prompts, batch[0].sampling, self._stop_ids):
                completion = Completion(
                    token_ids=sampled.token_ids,
                    logprobs=sampled.logprobs,
                    policy_version=version,
                    finish="stop" if sampled.finish == "stop" else "length",
                )
                if not batch[sampled.prompt].result.done():
                    batch[sampled.prompt].result.set_result(completion)
        except Rejected as error:
            if len(batch) > 1:  # one bad request must not fail its neighbours
                for request in batch:
                    self._issue([request])
            else:
                batch[0].result.set_exception(InferenceError(f"vLLM refused a request: {error}"))
        except ServerLost as error:
            self._return(batch)
            self._lost(epoch, str(error))
        except asyncio.CancelledError:
            self._return(batch)
            raise

    def _return(self, batch: list[_Request]) -> None:
        unserved = [request for request in batch if not request.result.done()]
        if self._failure is None:
            self._enqueue(unserved)
        else:
            _refuse(unserved, self._failure)

    # ------------------------------------------------------------ the gate

    def _open(self) -> None:
        self._is_open = True
        self._enqueue([])

    async def _drain(self) -> None:
        """Wait for the batches in flight until the deadline, then abort them; they return to the queue."""
        if self._batches:
            await asyncio.wait(self._batches, timeout=self._config.swap_deadline_s)
        late = list(self._batches)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _fail(self, reason: str) -> None:
        self._is_open = False
        self._failure = self._failure or reason
        waiting, self._queue = self._queue, []
        _refuse(waiting, self._failure)

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise InfraError(f"the vLLM engine serves no more: {self._failure}")

    # ------------------------------------------------------------ weights

    async def _load(self, update: WeightUpdate) -> None:
        """Load new weights into a server with nothing in flight.

        Raises:
            InferenceError: the server refused them.
            ServerLost: it died.
        """
        try:
            if self._is_asleep:
                await self._http.call("POST", "/wake_up", tags="weights")  # the cache's memory can wait until they are loaded
            else:
                await self._http.call("POST", "/pause", mode="abort")  # whoever else may use the server; it also empties its caches
            if update.method == "disk":
                arguments = {"weights_path": str(_folder(update))}
                await self._http.call("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": arguments})
            elif update.method in ("ipc", "nccl"):
                await self._transfer(update)
            if self._is_asleep:
                await self._http.call("POST", "/wake_up", tags="kv_cache")
                self._is_asleep = False
            await self._http.call("POST", "/reset_prefix_cache")
            await self._http.call("POST", "/resume")
            await self._use_adapter(update if update.method == "lora" else None)
        except Rejected as error:
            if not await self._http.is_healthy():
                raise ServerLost(str(error)) from error
            raise InferenceError(f"the vLLM server could not take the weights of {update.policy_version}: {error}") from error
        self.policy_version = update.policy_version

    async def _use_adapter(self, update: WeightUpdate | None) -> None:
        """Load an adapter under a name of its own (or none), and unload the one before."""
        old, self._adapter = self._adapter, None
        if update is not None:
            name = f"{self._base_name}-{update.policy_version}-{self._epoch}"
            await self._http.call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(_folder(update))})
            self._adapter = name
        if old is not None:
            await self._http.call("POST", "/v1/unload_lora_adapter", {"lora_name": old})

    async def _transfer(self, update: WeightUpdate) -> None:
        """Let the server take weights from the trainer's GPU, as the update's file says."""
        info = json.loads(await asyncio.to_thread(_folder(update).read_text))
        begun = info.pop("init_info", {"packed": False})
        if begun != self._transfer_begun:
            await self._http.call("POST", "/init_weight_transfer_engine", {"init_info": begun})
            self._transfer_begun = begun
        await self._http.call("POST", "/start_weight_update")
        await self._http.call("POST", "/update_weights", {"update_info": info})
        await self._http.call("POST", "/finish_weight_update", {"weight_version": update.policy_version})

    # ------------------------------------------------------------ the server's life

    @property
    def _http(self) -> VllmClient:
        if self._client is None:
            raise InferenceError("the vLLM engine is not started: await start() first")
        return self._client

    async def _wait_healthy(self) -> None:
        deadline = time.monotonic() + self._config.start_timeout_s
        while not await self._http.is_healthy():
            if self._server is not None:
                self._server.check_alive()
            if time.monotonic() > deadline:
                tail = self._server.log_tail() if self._server is not None else f"no server answers at {self._config.url}"
                raise InferenceError(
                    f"the vLLM server was not ready within engine.start_timeout_s = {self._config.start_timeout_s}: {tail}"
                )
            await asyncio.sleep(_POLL_S)

    def _lost(self, epoch: int, problem: str) -> None:
        """Restart the server, unless that has been done or is under way."""
        if epoch == self._epoch and self._failure is None and (self._recovery is None or self._recovery.done()):
            self._is_open = False
            self._recovery = asyncio.get_running_loop().create_task(self._recover(epoch, problem))

    async def _recover(self, epoch: int, problem: str) -> None:
        async with self._swap:
            if epoch != self._epoch or self._failure is not None:
                return  # a swap met the loss first
            self._is_open = False
            try:
                if self._update is not None and self._update.method in ("ipc", "nccl"):
                    version = self._update.policy_version
                    raise InferenceError(f"the vLLM server died ({problem}), and {version} was never on disk: resume the run")
                await self._restart(problem)
            except (InferenceError, InfraError) as error:
                self._fail(str(error))
                return
            self._open()

    async def _restart(self, problem: str) -> None:
        """Start the server again with the weights that were published last; called with the gate closed.

        Raises:
            InfraError: beyond ``engine.max_restarts``.
        """
        while self._num_restarts < self._config.max_restarts:
            self._num_restarts += 1
            self._epoch += 1
            _LOG.warning("the vLLM server is restarted (%d of %d): %s", self._num_restarts, self._config.max_restarts, problem)
            try:
                if self._server is not None:
                    await asyncio.to_thread(self._server.launch)
                self._adapter = self._transfer_begun = None
                self._is_asleep = False
                await self._wait_healthy()
                if self._update is not None:
                    await self._load(self._update)
                return
            except (InferenceError, ServerLost) as error:
                problem = str(error)
        raise InfraError(f"the vLLM server died and engine.max_restarts = {self._config.max_restarts} is used up; at last: {problem}")


def _folder(update: WeightUpdate) -> Path:
    if update.path is None:
        raise InferenceError(f"the {update.method} weight update {update.policy_version} has no path")
    return update.path


def _refuse(requests: Sequence[_Request], reason: str) -> None:
    for request in requests:
        if not request.result.done():
            request.result.set_exception(InfraError(f"the vLLM engine serves no more: {reason}"))
