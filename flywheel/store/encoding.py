"""Records as the store keeps them: JSON without its token arrays, and those arrays packed beside it.

Attempts and batches are sequences of segments (turns, rows): prompt ids, completion ids, a mask and logprobs. Their arrays lie
end to end in three flat arrays, in the same form in SQLite (`Arrays.pack`) and in Parquet (list columns); the JSON says how long
each segment is. Logprobs are 64-bit, as they came, so that a batch replays bit for bit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.types import Batch, Experience, Row, Task, Trajectory, Verdict, to_json

_HEAD = struct.Struct("<II")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrays:
    """The token arrays of one record: `mask` is aligned with `ids`, `logprobs` follow the completions that have them."""

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
    logprobs: NDArray[np.float64]

    def pack(self) -> bytes:
        """Return the arrays as one blob."""
        head = _HEAD.pack(len(self.ids), len(self.logprobs))
        return b"".join((head, self.ids.tobytes(), self.mask.tobytes(), self.logprobs.tobytes()))

    @staticmethod
    def unpack(blob: bytes) -> Arrays:
        """Return what `pack` packed."""
        num_ids, num_logprobs = _HEAD.unpack_from(blob)
        at = _HEAD.size
        return Arrays(
            ids=np.frombuffer(blob, np.int32, num_ids, at),
            mask=np.frombuffer(blob, np.uint8, num_ids, at + 4 * num_ids),
            logprobs=np.frombuffer(blob, np.float64, num_logprobs, at + 5 * num_ids),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A record's JSON, and its arrays where it has any."""

    body: str
    arrays: Arrays | None


def encode(record: Any) -> Encoded:
    """Return a record in the store's form; whatever is neither an attempt nor a batch is plain JSON."""
    if isinstance(record, Experience):
        trajectory = record.trajectory
        turns = [
            {
                **_lengths(turn.prompt_ids, turn.completion_ids, turn.behavior_logprobs),
                "policy_version": turn.policy_version,
                "text": turn.text,
                "tool_calls": turn.tool_calls,
                "observation": turn.observation,
            }
            for turn in trajectory.turns
        ]
        flat = {
            "task_id": trajectory.task_id,
            "turns": turns,
            "stop_reason": trajectory.stop_reason,
            "answer": trajectory.answer,
            "env_return": trajectory.env_return,
            "seed": trajectory.seed,
        }
        body = {
            "task_id": record.task.id,
            "id": record.id,
            "group_id": record.group_id,
            "trajectory": flat,
            "verdict": record.verdict,
            "origin": record.origin,
        }
        arrays = _join((t.prompt_ids, t.completion_ids, (1,) * len(t.completion_ids), t.behavior_logprobs) for t in trajectory.turns)
        return Encoded(body=_text(body), arrays=arrays)
    if isinstance(record, Batch):
        rows = [
            {
                **_lengths(row.prompt_ids, row.completion_ids, row.behavior_logprobs),
                "experience_id": row.experience_id,
                "kind": row.kind,
                "advantage": row.advantage,
                "weight": row.weight,
            }
            for row in record.rows
        ]
        body = {"step": record.step, "rows": rows, "num_grpo_tokens": record.num_grpo_tokens, "num_ce_tokens": record.num_ce_tokens}
        arrays = _join((row.prompt_ids, row.completion_ids, row.loss_mask, row.behavior_logprobs) for row in record.rows)
        return Encoded(body=_text(body), arrays=arrays)
    return Encoded(body=_text(record), arrays=None)


def decode(body: str, arrays: Arrays | None) -> Any:
    """Return a record's JSON data, its arrays in their places in it."""
    data = json.loads(body)
    if arrays is None:
        return data
    is_batch = "rows" in data
    at = at_logprob = 0
    for segment in data["rows"] if is_batch else data["trajectory"]["turns"]:
        num_prompt, num_completion = segment.pop("num_prompt"), segment.pop("num_completion")
        middle, end = at + num_prompt, at + num_prompt + num_completion
        segment["prompt_ids"] = arrays.ids[at:middle].tolist()
        segment["completion_ids"] = arrays.ids[middle:end].tolist()
        if is_batch:
            segment["loss_mask"] = arrays.mask[middle:end].tolist()
        segment["behavior_logprobs"] = None
        if segment.pop("has_logprobs"):
            segment["behavior_logprobs"] = arrays.logprobs[at_logprob : at_logprob + num_completion].tolist()
            at_logprob += num_completion
        at = end
    return data


def experience_from(data: Mapping[str, Any], task: Task) -> Experience:
    """Return the attempt whose decoded data this is."""
    return Experience(
        id=data["id"],
        group_id=data["group_id"],
        task=task,
        trajectory=Trajectory.from_json(data["trajectory"]),
        verdict=Verdict.from_json(data["verdict"]),
        origin=data["origin"],
    )


def batch_from(data: Mapping[str, Any], journal_seq: int) -> Batch:
    """Return the batch whose decoded data this is."""
    return Batch(**{**data, "rows": tuple(Row.from_json(row) for row in data["rows"]), "journal_seq": journal_seq})


def _text(record: Any) -> str:
    # SQLite and Parquet hold UTF-8, which has no lone surrogates; a byte-level policy writes them now and then.
    return to_json(record).encode("utf-8", "backslashreplace").decode("utf-8")


def _lengths(prompt: Sequence[int], completion: Sequence[int], logprobs: Sequence[float] | None) -> dict[str, Any]:
    return {"num_prompt": len(prompt), "num_completion": len(completion), "has_logprobs": logprobs is not None}


def _join(segments: Iterator[tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[float] | None]]) -> Arrays:
    ids: list[int] = []
    mask = bytearray()
    logprobs: list[float] = []
    for prompt, completion, completion_mask, completion_logprobs in segments:
        ids += prompt
        ids += completion
        mask += bytes(len(prompt))
        mask += bytes(completion_mask)
        logprobs += completion_logprobs or ()
    return Arrays(ids=np.array(ids, np.int32), mask=np.frombuffer(bytes(mask), np.uint8), logprobs=np.array(logprobs, np.float64))
