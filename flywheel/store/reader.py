"""Reading the store: records by kind and id, attempts and batches as they were, and the index behind every question of lineage.

`Reader.open` never takes the run from whoever writes it and works on a run that is going on, on one in a read-only folder and on
files of older versions (which it brings up to date in memory). The writer is `flywheel.store.journal.Journal`, itself a `Reader`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from flywheel.errors import StoreError
from flywheel.store.encoding import Arrays, batch_from, decode, experience_from
from flywheel.store.schema import SCHEMA_VERSION, prepare
from flywheel.store.shards import INDEX_COLUMNS, Shards, StoredRow
from flywheel.types import Batch, Experience, Group, Origin, Outcome, Task, Tier

RecordKind = Literal[
    "attempt",
    "task",
    "experience",
    "relabelling",
    "route",
    "lesson",
    "batch",
    "step",
    "superseded",
    "evaluation",
    "snapshot",
    "tier",
    "retention",
]
JOURNAL_FILE = "journal.sqlite"
MAX_NAMED = 10
# Of a row `e` of the index: whether its record can still be read, because it lies in no shard that was dropped.
READABLE = "NOT EXISTS (SELECT 1 FROM records r JOIN shards s ON s.number = r.shard WHERE r.seq = e.seq AND s.dropped)"
_INFO = "id, step, group_id, task_id, env, family, origin, outcome, reward, tier, num_tokens, verifier, verifier_version"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptInfo:
    """What the index knows of an attempt. `num_uses` counts the cross-entropy rows that were made of it."""

    id: str
    step: int
    group_id: str
    task_id: str
    env: str
    family: str
    origin: Origin
    outcome: Outcome
    reward: float
    tier: Tier
    num_tokens: int
    verifier: str
    verifier_version: str
    num_uses: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A state that was kept (curriculum, bandit, dedup index) and the journal sequence number that it covers."""

    name: str
    seq: int
    state: Any


class Reader:
    """An open store; see `open`.

    Args:
        folder: The run folder.
        db: Its journal.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder = folder
        self.path = folder / JOURNAL_FILE
        self._db = db
        self._lock = threading.RLock()
        self._shards = Shards(folder / "store")

    @classmethod
    def open(cls, folder: Path) -> Reader:
        """Open a run's store for reading.

        Raises:
            StoreError: there is no journal, or it can't be read.
        """
        path = folder / JOURNAL_FILE
        if not path.is_file():
            runs = sorted(inner.parent.name for inner in folder.glob(f"*/{JOURNAL_FILE}"))
            named = ", ".join(runs[:MAX_NAMED] + ["…"] * (len(runs) > MAX_NAMED))
            raise StoreError(f"{path}: no journal; is {folder} a run folder?" + (f" It holds those of {named}; name one." if runs else ""))
        address = path.resolve().as_uri()
        try:
            db = sqlite3.connect(f"{address}?mode=ro", uri=True, check_same_thread=False, isolation_level=None)
            try:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                db.execute("SELECT 1 FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:
                # A WAL file's reader needs to write beside it, unless nobody can have it open: a folder that is read-only.
                db.close()
                if path.with_name(f"{JOURNAL_FILE}-wal").exists():
                    raise
                db = sqlite3.connect(f"{address}?immutable=1", uri=True, check_same_thread=False, isolation_level=None)
                version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA_VERSION:
                memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
                db.backup(memory)
                db.close()
                prepare(db := memory, path)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}; is it a journal of this version?") from error
        return Reader(folder, db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._guard():
            self._db.close()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}; is the disk full, or the file damaged?") from error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a question to the SQLite index (see `flywheel.store.schema`)."""
        with self._guard():
            return self._db.execute(sql, parameters).fetchall()

    # ------------------------------------------------------------ records

    def get(self, kind: RecordKind, record_id: str) -> Any | None:
        """Return one record's JSON data, or None."""
        rows = self.query("SELECT seq, body, arrays, shard FROM records WHERE kind = ? AND id = ?", (kind, record_id))
        return self._data(*rows[0]) if rows else None

    def select(self, kind: RecordKind, *, since_step: int = 0) -> Iterator[Any]:
        """Yield the JSON data of every record of a kind from `since_step` on, in order of writing."""
        yield from self._each("WHERE kind = ? AND step >= ?", (kind, since_step))

    def of_step(self, kind: RecordKind, step: int) -> Iterator[Any]:
        """Yield the JSON data of every record of a kind and a step, in order of writing."""
        yield from self._each("WHERE kind = ? AND step = ?", (kind, step))

    def _each(self, where: str, parameters: Sequence[Any]) -> Iterator[Any]:
        for (seq,) in self.query(f"SELECT seq FROM records {where} ORDER BY seq", parameters):
            (row,) = self.query("SELECT seq, body, arrays, shard FROM records WHERE seq = ?", (seq,))
            yield self._data(*row)

    def bodies(self, kind: RecordKind, *, after_seq: int, limit: int) -> list[tuple[int, Any | None]]:
        """Return number and JSON data of the next records of a kind that were not dropped, in order of writing.

        The data is None where the record's shard is damaged.
        """
        asked = (
            "SELECT r.seq, r.body, r.arrays, r.shard FROM records r LEFT JOIN shards s ON s.number = r.shard "
            "WHERE r.kind = ? AND r.seq > ? AND NOT coalesce(s.dropped, 0) ORDER BY r.seq LIMIT ?"
        )
        found: list[tuple[int, Any | None]] = []
        damaged: set[int] = set()
        for seq, body, arrays, shard in self.query(asked, (kind, after_seq, limit)):
            try:
                found.append((seq, None if shard in damaged else self._data(seq, body, arrays, shard)))
            except StoreError:
                damaged.add(shard)
                found.append((seq, None))
        return found

    def count(self, kind: RecordKind) -> int:
        """Return how many records of a kind there are."""
        return int(self.query("SELECT count(*) FROM records WHERE kind = ?", (kind,))[0][0])

    @property
    def last_seq(self) -> int:
        """The newest record's number; 0 in an empty journal."""
        return int(self.query("SELECT coalesce(max(seq), 0) FROM records")[0][0])

    def _data(self, seq: int, body: str, arrays: bytes | None, shard: int | None) -> Any:
        if shard is None:
            return decode(body, None if arrays is None else Arrays.unpack(arrays))
        file, sha256, dropped = self.query("SELECT file, sha256, dropped FROM shards WHERE number = ?", (shard,))[0]
        if dropped:
            raise StoreError(f"{self.folder / 'store' / file}: dropped, as store.max_gb asked; the index still knows what was in it")
        return decode(*self._shards.row(file, sha256, seq))

    # ------------------------------------------------------------ what they are

    def task(self, task_id: str) -> Task:
        """Return a task.

        Raises:
            StoreError: there is no such task.
        """
        data = self.get("task", task_id)
        if data is None:
            raise StoreError(f"{self.path}: no task {task_id!r}")
        return Task(**data)

    def experience(self, experience_id: str) -> Experience:
        """Return an attempt as it was journalled.

        Raises:
            StoreError: there is no such attempt.
        """
        data = self.get("experience", experience_id)
        if data is None:
            raise StoreError(f"{self.path}: no experience {experience_id!r}")
        return experience_from(data, self.task(data["task_id"]))

    def info(self, experience_id: str) -> AttemptInfo:
        """Return what the index knows of an attempt.

        Raises:
            StoreError: there is no such attempt.
        """
        found = self._infos("WHERE id = ?", (experience_id,))
        if not found:
            raise StoreError(f"{self.path}: no experience {experience_id!r}")
        return found[0]

    def attempts(self, *, task_id: str | None = None, step: int | None = None, readable: bool = False) -> list[AttemptInfo]:
        """Return the attempts at a task, or of a step, or all, in order of writing; `readable` leaves out what was dropped."""
        asked = {"task_id": task_id, "step": step}
        given = {name: value for name, value in asked.items() if value is not None}
        terms = [*(f"{name} = ?" for name in given), *([READABLE] if readable else [])]
        return self._infos(f"WHERE {' AND '.join(terms)}" if terms else "", tuple(given.values()))

    def solved(self, *, env: str | None = None) -> list[AttemptInfo]:
        """Return the solved attempts at training tasks that can still be read, in order of writing."""
        where = f"WHERE outcome = 'solved' AND task_id IN (SELECT id FROM tasks WHERE split = 'train') AND {READABLE}"
        return self._infos(f"{where} AND env = ?" if env else where, (env,) if env else ())

    def _infos(self, where: str, parameters: Sequence[Any]) -> list[AttemptInfo]:
        uses = "(SELECT count(*) FROM trained t WHERE t.experience_id = e.id AND t.kind = 'ce')"
        names = (*_INFO.split(", "), "num_uses")
        rows = self.query(f"SELECT {_INFO}, {uses} FROM experiences e {where} ORDER BY seq", parameters)
        return [AttemptInfo(**dict(zip(names, row, strict=True))) for row in rows]

    def group(self, group_id: str) -> Group | None:
        """Return a group as it was journalled, whole, or None."""
        ids = [e for (e,) in self.query("SELECT id FROM experiences WHERE group_id = ? ORDER BY seq", (group_id,))]
        attempts = tuple(self.experience(experience_id) for experience_id in ids)
        return Group(id=group_id, task=attempts[0].task, experiences=attempts) if attempts else None

    def groups(self, step: int) -> list[Group]:
        """Return a step's on-policy groups, in order of writing."""
        asked = "SELECT group_id FROM experiences WHERE step = ? AND origin = 'on_policy' GROUP BY group_id ORDER BY min(seq)"
        found = (self.group(group_id) for (group_id,) in self.query(asked, (step,)))
        return [group for group in found if group is not None]

    def batch(self, step: int) -> Batch | None:
        """Return the newest batch journalled for a step."""
        newest = "WHERE kind = 'batch' AND step = ? ORDER BY seq DESC LIMIT 1"
        rows = self.query(f"SELECT seq, body, arrays, shard FROM records {newest}", (step,))
        return batch_from(self._data(*rows[0]), rows[0][0]) if rows else None

    def has_batch(self, step: int) -> bool:
        """Whether a batch is journalled for a step."""
        return bool(self.query("SELECT 1 FROM records WHERE kind = 'batch' AND step = ? LIMIT 1", (step,)))

    def snapshot(self, name: str, *, at_seq: int | None = None) -> Snapshot | None:
        """Return the newest snapshot of a name that covers no more than `at_seq`; what came after it is to be replayed."""
        numbers = [
            int(i.rpartition("@")[2]) for (i,) in self.query("SELECT id FROM records WHERE kind = 'snapshot' AND id GLOB ?", (f"{name}@*",))
        ]
        usable = [number for number in numbers if at_seq is None or number <= at_seq]
        if not usable:
            return None
        return Snapshot(name=name, seq=max(usable), state=self.get("snapshot", f"{name}@{max(usable)}"))

    def superseded(self) -> set[str]:
        """Return the ids (``attempt.step``) of the steps that trained before a lost checkpoint and so are in no policy any more."""
        return {step_id for (step_id,) in self.query("SELECT id FROM records WHERE kind = 'superseded'")}

    def stored_rows(self, kind: RecordKind, seqs: Sequence[int]) -> list[StoredRow]:
        """Return records of one kind, whose bodies are still in SQLite, as they lie there."""
        marks = ",".join("?" * len(seqs))
        index = ", ".join(f"e.{name}" for name in INDEX_COLUMNS)
        extra, joined = (f", {index}", "JOIN experiences e ON e.seq = r.seq") if kind == "experience" else ("", "")
        rows = self.query(
            f"SELECT r.seq, r.id, r.step, r.body, r.arrays{extra} FROM records r {joined} WHERE r.seq IN ({marks}) ORDER BY r.seq", seqs
        )
        return [StoredRow(seq=r[0], id=r[1], step=r[2], body=r[3], arrays=r[4], index=tuple(r[5:])) for r in rows]

    def check(self) -> list[str]:
        """Return everything that is damaged: the SQLite file, and shards that are missing or not what was sealed."""
        problems = [f"{self.path}: {said}" for (said,) in self.query("PRAGMA quick_check") if said != "ok"]
        return problems + list(self.damaged_shards().values())

    def damaged_shards(self) -> dict[str, str]:
        """Return the file names of shards that are missing or not what was sealed, and what is wrong with each."""
        problems = {}
        for file, sha256 in self.query("SELECT file, sha256 FROM shards WHERE NOT dropped ORDER BY number"):
            try:
                self._shards.verify(file, sha256)
            except StoreError as error:
                problems[file] = str(error)
        return problems


def read_records(folder: Path, kind: RecordKind) -> list[Any]:
    """Return the JSON data of every record of a kind, in order of writing, without taking the run from whoever writes it.

    Raises:
        StoreError: there is no journal, or it can't be read.
    """
    with Reader.open(folder) as reader:
        return list(reader.select(kind))
