"""The journal: everything that happened in a run, append-only, in SQLite (WAL).

One writer, the experience service. A record is acknowledged when `append` returns: it is then committed and synced.
The journal is one ordered sequence; a record's number is its `seq`, which checkpoints refer to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from flywheel.errors import StoreError
from flywheel.types import Batch, Experience, Row, Task, Trajectory, Verdict, to_json

SCHEMA_VERSION = 1
RecordKind = Literal["attempt", "task", "experience", "route", "batch", "step", "evaluation"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    step INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS records_by_step ON records (kind, step);
"""


class Journal:
    """An open journal.

    Args:
        folder: The run folder; the file is ``journal.sqlite`` in it.

    Raises:
        StoreError: the folder can't be written, another process holds the run, or the file is not a journal of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.sqlite"
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._owner = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._owner)
            raise StoreError(f"{folder}: another flywheel process is running this run; wait for it or stop it") from None
        except OSError as error:
            raise StoreError(f"{folder}: the run folder can't be written: {error.strerror}") from None
        try:
            with self._guard():
                self._open()
        except BaseException:
            os.close(self._owner)
            raise

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise StoreError(f"{self.path}: schema version {version}, this flywheel reads {SCHEMA_VERSION}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}; is the disk full, or the file damaged?") from error

    def append(self, kind: RecordKind, records: Sequence[tuple[str, Any]], *, step: int) -> int:
        """Append ``(id, record)`` pairs in one transaction and return the last seq. A record that is there already stays as it is."""
        rows = [(kind, record_id, step, to_json(record)) for record_id, record in records]
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO records (kind, id, step, body) VALUES (?, ?, ?, ?)", rows)
                last = self._db.execute("SELECT max(seq) FROM records").fetchone()[0]
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return int(last or 0)

    def get(self, kind: RecordKind, record_id: str) -> Any | None:
        """Return one record's JSON data, or None."""
        with self._guard():
            row = self._db.execute("SELECT body FROM records WHERE kind = ? AND id = ?", (kind, record_id)).fetchone()
        return None if row is None else json.loads(row[0])

    def select(self, kind: RecordKind, *, since_step: int = 0) -> Iterator[Any]:
        """Yield the JSON data of every record of a kind from `since_step` on, in order of writing."""
        with self._guard():
            rows = self._db.execute("SELECT body FROM records WHERE kind = ? AND step >= ? ORDER BY seq", (kind, since_step)).fetchall()
        for (body,) in rows:
            yield json.loads(body)

    def count(self, kind: RecordKind) -> int:
        """Return how many records of a kind there are."""
        with self._guard():
            return int(self._db.execute("SELECT count(*) FROM records WHERE kind = ?", (kind,)).fetchone()[0])

    def append_experiences(self, experiences: Sequence[Experience], *, step: int) -> int:
        """Append attempts and their tasks."""
        self.append("task", [(e.task.id, e.task) for e in experiences], step=step)
        return self.append("experience", [(e.id, _flat(e)) for e in experiences], step=step)

    def experience(self, experience_id: str) -> Experience:
        """Return an attempt as it was journalled.

        Raises:
            StoreError: there is no such attempt.
        """
        data = self.get("experience", experience_id)
        if data is None:
            raise StoreError(f"{self.path}: no experience {experience_id!r}")
        task = Task(**(self.get("task", data.pop("task_id")) or {}))
        return Experience(
            task=task,
            trajectory=Trajectory.from_json(data.pop("trajectory")),
            verdict=Verdict.from_json(data.pop("verdict")),
            **data,
        )

    def append_batch(self, batch: Batch) -> None:
        """Append the batch that a step is about to train on; a superseded one of the same step keeps its own record."""
        self.append("batch", [(f"{batch.step}.{self.count('batch')}", batch)], step=batch.step)

    def batch(self, step: int) -> Batch | None:
        """Return the newest batch journalled for a step."""
        with self._guard():
            row = self._db.execute(
                "SELECT body FROM records WHERE kind = 'batch' AND step = ? ORDER BY seq DESC LIMIT 1", (step,)
            ).fetchone()
        if row is None:
            return None
        data = json.loads(row[0])
        return Batch(**{**data, "rows": tuple(Row.from_json(r) for r in data["rows"])})

    def close(self) -> None:
        """Close the file and give the run free."""
        with self._guard():
            self._db.close()
        os.close(self._owner)


def _flat(experience: Experience) -> dict[str, Any]:
    names = ("id", "group_id", "trajectory", "verdict", "origin")
    return {"task_id": experience.task.id, **{name: getattr(experience, name) for name in names}}


def read_records(folder: Path, kind: RecordKind) -> list[Any]:
    """Return the JSON data of every record of a kind, in order of writing, without taking the run from whoever writes it.

    Raises:
        StoreError: there is no journal, or it can't be read.
    """
    path = folder / "journal.sqlite"
    if not path.is_file():
        raise StoreError(f"{path}: no journal; is {folder} a run folder?")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return [json.loads(body) for (body,) in db.execute("SELECT body FROM records WHERE kind = ? ORDER BY seq", (kind,))]
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; is it a journal of this version?") from error
