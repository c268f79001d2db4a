"""The trainer's end of vLLM's NCCL weight transfer (vLLM 0.28 or newer). Run in the trainer's process, which imports vLLM for it only."""

from __future__ import annotations

from typing import Any


def join_transfer_group(init_info: dict[str, Any]) -> Any:
    """Join the transfer group as rank 0 on this thread's current CUDA device; returns when the server's workers have joined.

    Args:
        init_info: What the server is given: master_address, master_port, world_size, and more that is only for the workers.

    Returns:
        vLLM's communicator; its ``broadcast(tensor, src, stream)`` puts one tensor on its way.
    """
    from vllm.distributed.weight_transfer.nccl_common import trainer_init

    return trainer_init(init_info)
