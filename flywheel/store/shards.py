"""Parquet shards: where the bodies of journalled records go once they are settled, zstd-compressed, a checksum each.

A shard appears whole: it is written under another name, synced, renamed and only then entered in the journal's ``shards`` table,
in the transaction that takes its bodies out of ``records``. A file that is not in the table is what a kill left behind.

Columns: seq, id, step, body (JSON), and of attempts and batches token_ids, loss_mask (1: sampled, or trained on) and
behavior_logprobs (see `flywheel.store.encoding`); attempts have the index's columns, too.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import StoreError
from flywheel.store.encoding import Arrays

ROWS_PER_GROUP = 256
# Columns of `experiences` in the SQLite index that a shard of attempts repeats, so that SQL need not open the bodies.
INDEX_COLUMNS: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("group_id", "task_id", "env", "family", "origin", "outcome"), pa.string()),
    "reward": pa.float64(),
    **dict.fromkeys(("tier", "content"), pa.string()),
    "num_tokens": pa.int64(),
    **dict.fromkeys(("verifier", "verifier_version"), pa.string()),
}
_TOKENS: Mapping[str, pa.DataType] = {"token_ids": pa.int32(), "loss_mask": pa.uint8(), "behavior_logprobs": pa.float64()}
_EMPTY = Arrays(ids=np.empty(0, np.int32), mask=np.empty(0, np.uint8), logprobs=np.empty(0))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRow:
    """A record as it lies in SQLite, with its index columns where it is an attempt."""

    seq: int
    id: str
    step: int
    body: str
    arrays: bytes | None
    index: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """A shard that is complete on the disk."""

    file: str
    num_bytes: int
    sha256: str


def to_table(kind: str, rows: Sequence[StoredRow]) -> pa.Table:
    """Return records of one kind as an Arrow table, with a shard's columns."""
    columns: dict[str, pa.Array] = {
        "seq": pa.array([row.seq for row in rows], pa.int64()),
        "id": pa.array([row.id for row in rows], pa.string()),
        "step": pa.array([row.step for row in rows], pa.int32()),
        "body": pa.array([row.body for row in rows], pa.string()),
    }
    if kind in ("experience", "batch"):
        # A body of version 1 has its arrays inside, and none here.
        unpacked = [_EMPTY if row.arrays is None else Arrays.unpack(row.arrays) for row in rows]
        absent = np.array([row.arrays is None for row in rows], bool)
        parts: tuple[Sequence[np.ndarray[Any, Any]], ...] = (
            [a.ids for a in unpacked],
            [a.mask for a in unpacked],
            [a.logprobs for a in unpacked],
        )
        for (name, kind_of), values in zip(_TOKENS.items(), parts, strict=True):
            columns[name] = _lists(values, absent, kind_of)
    if kind == "experience":
        for at, (name, kind_of) in enumerate(INDEX_COLUMNS.items()):
            columns[name] = pa.array([row.index[at] for row in rows], kind_of)
    return pa.table(columns)


def schema_of(kind: str) -> pa.Schema:
    """Return the columns of a kind's shards."""
    return to_table(kind, []).schema


class Shards:
    """A folder of shards.

    Args:
        folder: Made when the first shard is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, pq.ParquetFile] = {}
        self._last: tuple[str, int, pa.Table] | None = None  # the piece that was read last: neighbours are often asked for next
        self._lock = threading.Lock()  # a ParquetFile is read by one thread at a time

    def seal(self, file: str, kind: str, pieces: Iterator[Sequence[StoredRow]]) -> Sealed:
        """Write a shard under its name, in pieces of at most `ROWS_PER_GROUP` records; it is on the disk when this returns.

        Raises:
            OSError: the disk is full, or the folder can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{file}.writing"
        schema = schema_of(kind)
        has_tokens = "token_ids" in schema.names
        split = {"behavior_logprobs.list.element": "BYTE_STREAM_SPLIT"} if has_tokens else None
        whole = [name for name in schema.names if name not in ("body", "behavior_logprobs", "seq")]
        try:
            with pq.ParquetWriter(temporary, schema, compression="zstd", column_encoding=split, use_dictionary=whole) as writer:
                for rows in pieces:
                    writer.write_table(to_table(kind, rows))
            digest, num_bytes = _sync(temporary)
            temporary.rename(self.folder / file)
            _sync_folder(self.folder)
        finally:
            temporary.unlink(missing_ok=True)
        return Sealed(file=file, num_bytes=num_bytes, sha256=digest)

    def row(self, file: str, sha256: str, seq: int) -> tuple[str, Arrays | None]:
        """Return the body and the arrays of the record `seq` of a shard, which is checked the first time that it is read.

        Raises:
            StoreError: the shard is missing or damaged.
        """
        with self._lock:
            parquet = self._checked(file, sha256)
            for number in range(parquet.num_row_groups):
                bounds = parquet.metadata.row_group(number).column(0).statistics
                if bounds.min <= seq <= bounds.max:
                    table = self._piece(file, parquet, number)
                    at = int(np.searchsorted(table["seq"].to_numpy(), seq))
                    if table["seq"][at].as_py() == seq:
                        return table["body"][at].as_py(), _arrays(table, at)
        raise StoreError(f"{self.folder / file}: no record {seq} in this shard, though the journal says so")

    def _piece(self, file: str, parquet: pq.ParquetFile, number: int) -> pa.Table:
        if self._last is None or self._last[:2] != (file, number):
            self._last = (file, number, parquet.read_row_group(number, columns=["seq", "body", *_TOKENS]).combine_chunks())
        return self._last[2]

    def verify(self, file: str, sha256: str) -> None:
        """Read a whole shard and compare it with its checksum.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.folder / file
        try:
            with path.open("rb") as source:
                found = hashlib.file_digest(source, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(
                f"{path}: a sealed shard can't be read ({error.strerror}); put it back from a copy of the run folder"
            ) from error
        if found != sha256:
            raise StoreError(
                f"{path}: a sealed shard is damaged (sha256 {found[:16]}…, sealed as {sha256[:16]}…); put it back from a copy of the run "
                "folder. Only the records in it are lost: the run can go on, and --resume does not need it"
            )

    def remove_strays(self, known: set[str]) -> None:
        """Remove what a kill left behind: half-written shards, and whole ones that never got into the journal."""
        for path in self.folder.glob("*.parquet*") if self.folder.is_dir() else ():
            if path.name not in known:
                path.unlink()
        for path in self.folder.glob(".*.writing"):
            path.unlink()

    def _checked(self, file: str, sha256: str) -> pq.ParquetFile:
        if file not in self._open:
            self.verify(file, sha256)
            if len(self._open) > 32:
                self._open.clear()
            self._open[file] = pq.ParquetFile(self.folder / file)
        return self._open[file]


def _lists(values: Sequence[np.ndarray[Any, Any]], absent: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(values) + 1, np.int32)
    offsets[1:] = np.cumsum([len(value) for value in values])
    joined = np.concatenate(values) if values else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(joined, kind), mask=pa.array(absent))


def _arrays(table: pa.Table, at: int) -> Arrays | None:
    if "token_ids" not in table.column_names or not table["token_ids"][at].is_valid:
        return None
    ids, mask, logprobs = (table[name][at].values.to_numpy() for name in _TOKENS)
    return Arrays(ids=ids, mask=mask, logprobs=logprobs)


def _sync(path: Path) -> tuple[str, int]:
    """Put a file on the disk and return its checksum and size."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest, path.stat().st_size


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
