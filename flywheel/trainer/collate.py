"""Turns a batch's rows into padded micro-batches, each rank's own share of them.

Rows of about one length meet in a micro-batch. All padding stands on the right, where causal attention never looks: the
"prompt" part is cut to the shortest prompt of the micro-batch and what remains of longer ones joins the completion part with
loss mask 0. So there is one kind of padding, positions count from 0, and no attention mask is needed.
Shapes: B rows, P prompt tokens, T completion tokens.
"""

# ruff: noqa: N815, N806

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from flywheel.errors import FlywheelError
from flywheel.types import Batch, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward pass. `scales_B` are the rows' factors on the per-token objective (advantage or CE weight, times weight)."""

    prompt_ids_BP: torch.Tensor
    completion_ids_BT: torch.Tensor
    loss_mask_BT: torch.Tensor
    behavior_logprobs_BT: torch.Tensor
    has_behavior_B: torch.Tensor
    is_ce_B: torch.Tensor
    scales_B: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return self.prompt_ids_BP.numel() + self.completion_ids_BT.numel()


MAX_PADDING = 0.1

_INERT = Row(
    experience_id="",
    kind="grpo",
    prompt_ids=(0,),
    completion_ids=(0,),
    loss_mask=(0,),
    behavior_logprobs=None,
    advantage=0.0,
)


def plan(lengths: Sequence[int], micro_batch_size: int, world_size: int, max_tokens: int | None = None) -> list[list[list[int]]]:
    """Return row indices as [rank][micro-batch][row]; every rank has equally many micro-batches (collectives need that).

    A micro-batch holds at most `micro_batch_size` rows and is empty where rows are too few to go round. With `max_tokens` it also holds at
    most that many tokens, a tenth of them padding, unless it is one row; without, micro-batches have equally many rows.
    """
    order = sorted(range(len(lengths)), key=lambda at: (lengths[at], at))
    if max_tokens is None:
        count = math.ceil(len(lengths) / (micro_batch_size * world_size)) * world_size
        bounds = [len(order) * at // count for at in range(count + 1)] if count else [0]
        chunks = [order[start:end] for start, end in pairwise(bounds)]
    else:
        chunks = _buckets(order, lengths, micro_batch_size, max_tokens)
        while len(chunks) % world_size:
            chunks = _one_more(chunks)
    return [chunks[rank::world_size] for rank in range(world_size)]


def _buckets(order: Sequence[int], lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Return the rows, which come shortest first, as micro-batches: from the longest down, one ends where its limits or its padding say."""
    chunks: list[list[int]] = []
    held = 0  # tokens of the last chunk's rows
    for at in reversed(order):
        chunk = chunks[-1] if chunks else []
        size = lengths[chunk[0]] * (len(chunk) + 1) if chunk else 0
        if not chunk or len(chunk) == max_rows or size > max_tokens or size - held - lengths[at] > MAX_PADDING * size:
            chunks.append([])
            held = 0
        chunks[-1].append(at)
        held += lengths[at]
    return [chunk[::-1] for chunk in reversed(chunks)]


def _one_more(chunks: list[list[int]]) -> list[list[int]]:
    """Return one micro-batch more: that with most rows in two, or an empty one beside them."""
    at = max(range(len(chunks)), key=lambda at: len(chunks[at]))
    half = len(chunks[at]) // 2
    return [*chunks[:at], chunks[at][:half], chunks[at][half:], *chunks[at + 1 :]] if half else [[], *chunks]


def padding_share(lengths: Sequence[int], planned: Sequence[Sequence[Sequence[int]]]) -> float:
    """Return the share of all tokens in the forward passes of a plan, over all ranks, that is padding."""
    total = sum(len(chunk) * max(lengths[at] for at in chunk) for rank in planned for chunk in rank if chunk)
    return 1 - sum(lengths) / total if total else 0.0


def row_lengths(batch: Batch) -> list[int]:
    """Return the rows' token counts.

    Raises:
        FlywheelError: a row's parts don't fit together.
    """
    for row in batch.rows:
        _check(row)
    return [len(row.prompt_ids) + len(row.completion_ids) for row in batch.rows]


def micro_batches(batch: Batch, own: Sequence[Sequence[int]], ce_scale: float) -> list[MicroBatch]:
    """Return the micro-batches of one rank.

    Args:
        batch: The global batch, the same on every rank.
        own: The rank's part of the plan.
        ce_scale: Factor on cross-entropy rows that turns the GRPO normaliser into theirs.
    """
    return [collate([batch.rows[at] for at in indices] or [_INERT], ce_scale) for indices in own]


def collate(rows: Sequence[Row], ce_scale: float) -> MicroBatch:
    """Return the rows as one micro-batch."""
    shared = min(len(row.prompt_ids) for row in rows)
    longest = max(len(row.prompt_ids) - shared + len(row.completion_ids) for row in rows)
    size = (len(rows), longest)
    completion_ids_BT = torch.zeros(size, dtype=torch.long)
    loss_mask_BT = torch.zeros(size, dtype=torch.long)
    behavior_BT = torch.zeros(size)
    for at, row in enumerate(rows):
        start = len(row.prompt_ids) - shared
        end = start + len(row.completion_ids)
        completion_ids_BT[at, :end] = torch.tensor(row.prompt_ids[shared:] + row.completion_ids)
        loss_mask_BT[at, start:end] = torch.tensor(row.loss_mask)
        if row.behavior_logprobs is not None:
            behavior_BT[at, start:end] = torch.tensor(row.behavior_logprobs)
    return MicroBatch(
        prompt_ids_BP=torch.tensor([row.prompt_ids[:shared] for row in rows]),
        completion_ids_BT=completion_ids_BT,
        loss_mask_BT=loss_mask_BT,
        behavior_logprobs_BT=behavior_BT,
        has_behavior_B=torch.tensor([row.kind == "grpo" and row.behavior_logprobs is not None for row in rows]),
        is_ce_B=torch.tensor([row.kind == "ce" for row in rows]),
        scales_B=torch.tensor([row.weight * (ce_scale if row.kind == "ce" else row.advantage) for row in rows], dtype=torch.float32),
    )


def _check(row: Row) -> None:
    sizes = {"completion_ids": len(row.completion_ids), "loss_mask": len(row.loss_mask)}
    if row.behavior_logprobs is not None:
        sizes["behavior_logprobs"] = len(row.behavior_logprobs)
    if not row.prompt_ids or len(set(sizes.values())) > 1 or not row.completion_ids:
        raise FlywheelError(
            f"row {row.experience_id!r}: expected a prompt and equally long parts, got {len(row.prompt_ids)} prompt ids, {sizes}"
        )
    numbers = [row.advantage, row.weight, *(row.behavior_logprobs or ())]
    if not all(map(math.isfinite, numbers)):
        raise FlywheelError(
            f"row {row.experience_id!r}: advantage {row.advantage}, weight {row.weight} or a behaviour logprob is not finite; "
            "logprobs that are missing are None, not NaN"
        )
