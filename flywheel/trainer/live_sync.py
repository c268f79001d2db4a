"""Weights handed to the engine in GPU memory, on no disk: CUDA IPC on one shared device, or an NCCL broadcast to other devices.

Both write the ``update_info`` of vLLM's weight-transfer backend of that name to a file, which the engine posts to its server.
By ``ipc`` the server maps the trainer's own tensors, which live until it says that it has copied them. By ``nccl`` it receives
each tensor in the order of the file while the trainer broadcasts it.
"""

from __future__ import annotations

import base64
import concurrent.futures
import json
import pickle
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.multiprocessing.reductions import reduce_tensor

from flywheel.contracts import WeightUpdate
from flywheel.trainer.launch import free_port

Publish = Callable[[WeightUpdate], None]


def update_info(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, Any]:
    """Return the names, dtype names and shapes of the weights as they travel: floating-point ones in `dtype`."""
    kinds = [dtype if tensor.is_floating_point() else tensor.dtype for tensor in state.values()]
    return {
        "names": list(state),
        "dtype_names": [str(kind).rpartition(".")[2] for kind in kinds],
        "shapes": [list(tensor.shape) for tensor in state.values()],
    }


def publish_ipc(
    state: Mapping[str, torch.Tensor], path: Path, policy_version: str, device: torch.device, dtype: torch.dtype, publish: Publish
) -> None:
    """Share the weights, let `publish` make the engine take them, and let go of them when it returns.

    Args:
        state: Weights under their checkpoint names.
        path: Where ``update_info`` goes, and the pickled handles beside it.
        policy_version: Version of these weights.
        device: The shared device.
        dtype: Dtype in which they are served.
        publish: Returns when every new request uses them.
    """
    tensors = [_sent(tensor, device, dtype) for tensor in state.values()]
    handles = []
    for tensor in tensors:
        _, arguments = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
        handles.append({str(torch.cuda.get_device_properties(tensor.device).uuid): arguments})
    pickled = base64.b64encode(pickle.dumps(handles)).decode()
    _write(path, {**update_info(state, dtype), "ipc_handles_pickled": pickled})
    torch.cuda.synchronize(device)
    publish(WeightUpdate(policy_version=policy_version, method="ipc", path=path.resolve()))
    del tensors
    torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


class TransferGroup(Protocol):
    """The trainer's place in the group in which the server's workers receive."""

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send one tensor to every worker, without waiting for it to arrive."""
        ...

    def wait(self) -> None:
        """Return when everything sent has arrived."""
        ...


class NcclGroup:
    """The group of vLLM's NCCL weight transfer, joined as rank 0."""

    def __init__(self, init_info: dict[str, Any]) -> None:
        from flywheel.inference.vllm_transfer import join_transfer_group

        self._communicator = join_transfer_group(init_info)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send one tensor, after whatever this thread's stream still has to do."""
        self._communicator.broadcast(tensor, src=0, stream=torch.cuda.current_stream(tensor.device))

    def wait(self) -> None:
        """Return when this thread's stream is through."""
        torch.cuda.current_stream().synchronize()


class NcclPublisher:
    """Broadcasts weights from rank 0 of the trainer to the server's workers; their group is made at the first publication.

    Args:
        num_workers: The server's workers (its tensor-parallel size).
        device: Where the trainer's rank 0 is; no worker is on it.
        dtype: Dtype in which weights are served.
        join: Joins the group that an ``init_info`` describes.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        device: torch.device,
        dtype: torch.dtype,
        join: Callable[[dict[str, Any]], TransferGroup] = NcclGroup,
    ) -> None:
        self._device, self._dtype, self._join = device, dtype, join
        self._num_workers = num_workers
        self._init_info: dict[str, Any] = {}
        self._group: TransferGroup | None = None

    def publish(self, state: Mapping[str, torch.Tensor], path: Path, policy_version: str, publish: Publish) -> None:
        """Broadcast the weights while `publish` makes the engine receive them.

        Args:
            state: Weights under their checkpoint names.
            path: Where ``update_info`` goes, with the ``init_info`` of the group beside it.
            policy_version: Version of these weights.
            publish: Returns when every new request uses them.
        """
        if self._group is None:
            self._init_info = {
                "master_address": "127.0.0.1",
                "master_port": free_port(),
                "rank_offset": 1,
                "world_size": 1 + self._num_workers,
                "packed": False,
            }
        _write(path, {**update_info(state, self._dtype), "init_info": self._init_info})
        update = WeightUpdate(policy_version=policy_version, method="nccl", path=path.resolve())
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the broadcast's stream does not wait for the optimiser's
        # Each waits for the other inside NCCL. Where one fails the other may wait for ever, so its thread is left behind.
        both = [_in_thread(lambda: publish(update)), _in_thread(lambda: self._send(state))]
        ended, _ = concurrent.futures.wait(both, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in ended:
            future.result()

    def _send(self, state: Mapping[str, torch.Tensor]) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a thread's own setting
        if self._group is None:
            self._group = self._join(self._init_info)
        for tensor in state.values():
            self._group.broadcast(_sent(tensor, self._device, self._dtype))
        self._group.wait()


def _sent(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return the tensor as it travels: on the device, in the dtype of serving, in one piece."""
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None).contiguous()


def _write(path: Path, info: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(info))


def _in_thread(work: Callable[[], None]) -> concurrent.futures.Future[None]:
    """Run `work` in a thread that does not keep the process alive."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  it is raised again where the future is read
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="weight-transfer", daemon=True).start()
    return future
