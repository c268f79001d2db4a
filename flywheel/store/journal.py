"""The journal: everything that happened in a run, append-only, in SQLite (WAL) with Parquet shards behind it.

One writer, the experience service. A record is acknowledged when an ``append…`` returns: it is then committed and synced.
The journal is one ordered sequence; a record's number is its `seq`, which checkpoints and snapshots refer to. Records that are
settled move to shards (`compact`); they are read as before (`flywheel.store.reader`), and asked in SQL by `flywheel.store.sql`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.errors import StoreError
from flywheel.store import schema
from flywheel.store.encoding import encode
from flywheel.store.reader import JOURNAL_FILE, Reader, RecordKind, read_records
from flywheel.store.shards import ROWS_PER_GROUP
from flywheel.types import Batch, Experience, Group, Tier

__all__ = ["Journal", "Relabelling", "read_records"]

SHARDED: tuple[RecordKind, ...] = ("task", "experience", "route", "lesson", "batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Relabelling:
    """What became of one attempt to relabel or repair: the attempt `parent_id` gave `child_id`, which was kept or dropped."""

    parent_id: str
    child_id: str
    relabeller: str
    kept: bool
    reason: str = ""


class Journal(Reader):
    """The open journal of the process that runs the run.

    Args:
        folder: The run folder; the file is ``journal.sqlite`` in it.

    Raises:
        StoreError: the folder can't be written, another process holds the run, or the file is not a journal of this version.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._owner = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{folder}: the run folder can't be written: {error.strerror}") from None
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            db = sqlite3.connect(folder / JOURNAL_FILE, check_same_thread=False, isolation_level=None)
            super().__init__(folder, db)
            with self._guard():
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # heeded by a file that is still empty
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                schema.prepare(db, self.path)
            self._shards.remove_strays({file for (file,) in self.query("SELECT file FROM shards")})
        except BlockingIOError:
            os.close(self._owner)
            raise StoreError(f"{folder}: another flywheel process is running this run; wait for it or stop it") from None
        except BaseException:
            os.close(self._owner)
            raise

    def close(self) -> None:
        """Close the file and give the run free."""
        super().close()
        os.close(self._owner)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------ appending

    def append(self, kind: RecordKind, records: Sequence[tuple[str, Any]], *, step: int) -> int:
        """Append ``(id, record)`` pairs in one transaction and return the last seq. A record that is there already stays as it is."""
        with self._transaction():
            for record_id, record in records:
                self._insert(kind, record_id, step, record)
        return self.last_seq

    def append_groups(self, groups: Sequence[Group], *, step: int) -> int:
        """Append whole groups, with their tasks, in one transaction: a group is there with all its attempts, or not at all."""
        return self.append_experiences([e for group in groups for e in group.experiences], step=step)

    def append_experiences(self, experiences: Sequence[Experience], *, step: int) -> int:
        """Append attempts and their tasks in one transaction."""
        with self._transaction() as db:
            for experience in experiences:
                task = experience.task
                if (seq := self._insert("task", task.id, step, task)) is not None:
                    schema.index_task(db, seq, task)
                if (seq := self._insert("experience", experience.id, step, experience)) is not None:
                    schema.index_experience(db, seq, step, experience)
        return self.last_seq

    def append_batch(self, batch: Batch, routes: Sequence[tuple[str, Any]] = (), lessons: Sequence[tuple[str, Any]] = ()) -> Batch:
        """Append the batch that a step is about to train on, its attempts' routes and its new lessons; return it with its number.

        A superseded batch of the same step keeps its own record.

        Raises:
            StoreError: an on-policy attempt would train in a second step.
        """
        with self._transaction() as db:
            for row in batch.rows if batch.step > 1 else ():
                if row.kind == "grpo":
                    self._refuse_second_use(row.experience_id, batch.step)
            for record_id, route in routes:
                self._insert("route", record_id, batch.step, route)
            for record_id, lesson in lessons:
                self._insert("lesson", record_id, batch.step, lesson)
            seq = self._insert("batch", f"{batch.step}.{self.count('batch')}", batch.step, batch)
            if seq is None:
                raise StoreError(f"{self.path}: two batches of the same name for step {batch.step}; is the journal whole?")
            schema.index_batch(db, seq, batch)
        return dataclasses.replace(batch, journal_seq=seq)

    def append_relabellings(self, relabellings: Sequence[Relabelling], *, step: int) -> int:
        """Append what became of relabelled and repaired attempts; the attempts themselves are appended on their own."""
        with self._transaction() as db:
            for found in relabellings:
                seq = self._insert("relabelling", f"{found.child_id}<{found.parent_id}", step, found)
                if seq is not None:
                    db.execute("INSERT INTO relabellings VALUES (?, ?, ?)", (seq, found.parent_id, found.child_id))
        return self.last_seq

    def append_snapshot(self, name: str, state: Any, *, seq: int, step: int) -> None:
        """Keep a state that covers the journal up to `seq`; see `Reader.snapshot`."""
        self.append("snapshot", [(f"{name}@{seq}", state)], step=step)

    def begin_attempt(self, about: Mapping[str, Any], *, after_step: int) -> int:
        """Record that the run starts, or goes on after the checkpoint of `after_step`; return the number of the attempt.

        Steps that earlier attempts took after that checkpoint are marked superseded: no policy has them in it any more.
        """
        attempt = self.count("attempt") + 1
        lost = self.query("SELECT id, step FROM records WHERE kind = 'step' AND step > ? ORDER BY seq", (after_step,))
        with self._transaction():
            self._insert("attempt", str(attempt), after_step, {**about, "after_step": after_step})
            for step_id, step in lost:
                mark = {"step_id": step_id, "by_attempt": attempt, "after_step": after_step}
                self._insert("superseded", step_id, step, mark)
        return attempt

    def raise_tiers(self, tiers: Mapping[str, Tier], *, why: str) -> None:
        """Raise attempts to better tiers; a tier never falls."""
        with self._transaction() as db:
            for experience_id, tier in tiers.items():
                raised = db.execute("UPDATE experiences SET tier = ? WHERE id = ? AND tier < ?", (tier, experience_id, tier)).rowcount
                if raised:
                    record = {"experience_id": experience_id, "tier": tier, "why": why}
                    self._insert("tier", f"{experience_id}:{tier}", 0, record)

    def _insert(self, kind: RecordKind, record_id: str, step: int, record: Any) -> int | None:
        """Insert a record, in a transaction that is open; None where it is there already."""
        encoded = encode(record)
        arrays = None if encoded.arrays is None else encoded.arrays.pack()
        done = self._db.execute(
            "INSERT OR IGNORE INTO records (kind, id, step, body, arrays) VALUES (?, ?, ?, ?, ?)",
            (kind, record_id, step, encoded.body, arrays),
        )
        return done.lastrowid if done.rowcount == 1 else None

    def _refuse_second_use(self, experience_id: str, step: int) -> None:
        asked = (
            "SELECT t.step FROM trained t JOIN experiences e ON e.id = t.experience_id "
            "WHERE t.experience_id = ? AND t.step != ? AND t.kind = 'grpo' AND e.origin = 'on_policy'"
        )
        if found := self.query(asked, (experience_id, step)):
            raise StoreError(
                f"{self.path}: attempt {experience_id} trained in step {found[0][0]} already, and step {step} asks for it again"
            )

    # ------------------------------------------------------------ shards

    def compact(self, *, up_to_step: int, min_bytes: int = 0) -> int:
        """Move the bodies of records up to a step into Parquet shards, a kind at a time; return how many moved.

        Args:
            up_to_step: Usually a checkpoint's: what came later may be read again soon.
            min_bytes: A kind with less than this to move stays.

        Raises:
            StoreError: a shard can't be written; nothing is lost and nothing has moved.
        """
        moved = 0
        for kind in SHARDED:
            waiting = "FROM records WHERE kind = ? AND step <= ? AND shard IS NULL"
            size, count = self.query(f"SELECT sum(length(body) + coalesce(length(arrays), 0)), count(*) {waiting}", (kind, up_to_step))[0]
            if not count or size < min_bytes:
                continue
            seqs = [seq for (seq,) in self.query(f"SELECT seq {waiting} ORDER BY seq", (kind, up_to_step))]
            self._seal(kind, seqs)
            moved += count
        with self._guard():
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
        return moved

    def drop_oldest(self, *, max_bytes: int, before_step: int) -> list[str]:
        """Drop the oldest shards of attempts and batches until all shards have at most `max_bytes`; return the dropped files.

        Shards that reach `before_step` stay: a resume may need them. What is dropped is recorded, and the index keeps its rows. Tasks,
        routes and lessons stay, too: they are small, and say what became of what.
        """
        dropped = []
        total = int(self.query("SELECT coalesce(sum(num_bytes), 0) FROM shards WHERE NOT dropped")[0][0])
        asked = (
            "SELECT number, file, num_bytes FROM shards WHERE kind IN ('experience', 'batch') AND NOT dropped AND last_step < ? "
            "ORDER BY number"
        )
        for number, file, num_bytes in self.query(asked, (before_step,)):
            if total <= max_bytes:
                break
            with self._transaction() as db:
                db.execute("UPDATE shards SET dropped = 1 WHERE number = ?", (number,))
                self._insert("retention", file, before_step, {"file": file, "num_bytes": num_bytes, "max_bytes": max_bytes})
            (self._shards.folder / file).unlink(missing_ok=True)
            total -= num_bytes
            dropped.append(file)
        return dropped

    def _seal(self, kind: RecordKind, seqs: Sequence[int]) -> None:
        number = int(self.query("SELECT coalesce(max(number), 0) + 1 FROM shards")[0][0])
        pieces = (seqs[at : at + ROWS_PER_GROUP] for at in range(0, len(seqs), ROWS_PER_GROUP))
        try:
            sealed = self._shards.seal(f"{kind}-{number:06}.parquet", kind, (self.stored_rows(kind, piece) for piece in pieces))
        except OSError as error:
            raise StoreError(
                f"{self._shards.folder}: a shard can't be written: {error.strerror or error}; is the disk full? "
                "The journal still has everything"
            ) from error
        with self._transaction() as db:
            first, last = self.query(
                "SELECT min(step), max(step) FROM records WHERE seq BETWEEN ? AND ? AND kind = ?", (seqs[0], seqs[-1], kind)
            )[0]
            row = (number, kind, sealed.file, first, last, len(seqs), sealed.num_bytes, sealed.sha256)
            db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", row)
            db.executemany("UPDATE records SET body = '', arrays = NULL, shard = ? WHERE seq = ?", ((number, seq) for seq in seqs))
