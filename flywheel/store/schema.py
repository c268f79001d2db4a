"""The journal's SQLite schema, and how a file of an older version becomes one of this version.

``records`` is the journal itself. The other tables are an index over it, written in the same transaction, which every question
about lineage is answered from; ``shards`` says which Parquet file holds the bodies that are no longer in ``records``.

Version 1 had ``records`` alone, with token arrays inside the JSON. Such bodies stay as they are: the decoder reads both.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from flywheel.errors import StoreError
from flywheel.store.encoding import batch_from, experience_from
from flywheel.store.tiers import content_of, tier_of
from flywheel.types import Batch, Experience, Task

SCHEMA_VERSION = 2

_RECORDS = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    step INTEGER NOT NULL,
    body TEXT NOT NULL,
    arrays BLOB,
    shard INTEGER,
    UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS records_by_step ON records (kind, step);
CREATE INDEX IF NOT EXISTS records_unsealed ON records (kind, step) WHERE shard IS NULL;
"""
_INDEX = """
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, env TEXT NOT NULL, family TEXT NOT NULL, parent_id TEXT, operator TEXT NOT NULL,
    split TEXT NOT NULL
);
CREATE INDEX tasks_by_id ON tasks (id);
CREATE INDEX tasks_by_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;
CREATE TABLE experiences (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, step INTEGER NOT NULL, group_id TEXT NOT NULL, task_id TEXT NOT NULL, env TEXT NOT NULL,
    family TEXT NOT NULL, origin TEXT NOT NULL, outcome TEXT NOT NULL, reward REAL NOT NULL, tier TEXT NOT NULL, content TEXT NOT NULL,
    num_tokens INTEGER NOT NULL, verifier TEXT NOT NULL, verifier_version TEXT NOT NULL
);
CREATE INDEX experiences_by_id ON experiences (id);
CREATE INDEX experiences_by_step ON experiences (step);
CREATE INDEX experiences_by_group ON experiences (group_id);
CREATE INDEX experiences_by_task ON experiences (task_id);
CREATE INDEX experiences_by_content ON experiences (content);
CREATE TABLE trained (
    batch_seq INTEGER NOT NULL, step INTEGER NOT NULL, experience_id TEXT NOT NULL, kind TEXT NOT NULL, advantage REAL NOT NULL,
    weight REAL NOT NULL, num_tokens INTEGER NOT NULL
);
CREATE INDEX trained_by_step ON trained (step);
CREATE INDEX trained_by_experience ON trained (experience_id);
CREATE TABLE relabellings (seq INTEGER PRIMARY KEY, parent_id TEXT NOT NULL, child_id TEXT NOT NULL);
CREATE INDEX relabellings_by_parent ON relabellings (parent_id);
CREATE INDEX relabellings_by_child ON relabellings (child_id);
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, file TEXT NOT NULL, first_step INTEGER NOT NULL, last_step INTEGER NOT NULL,
    num_records INTEGER NOT NULL, num_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, dropped INTEGER NOT NULL DEFAULT 0
);
"""


def prepare(db: sqlite3.Connection, path: object) -> None:
    """Bring a file, new or old, to this version of the schema, in one transaction.

    Raises:
        StoreError: it is of a version that this flywheel does not know.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version not in (0, 1):
        raise StoreError(f"{path}: schema version {version}, this flywheel reads {SCHEMA_VERSION}; open it with a newer flywheel")
    db.execute("BEGIN IMMEDIATE")
    try:
        if version == 1:
            db.execute("ALTER TABLE records ADD COLUMN arrays BLOB")
            db.execute("ALTER TABLE records ADD COLUMN shard INTEGER")
        for statement in (*_statements(_RECORDS), *_statements(_INDEX)):
            db.execute(statement)
        if version == 1:
            _fill_index(db)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise


def index_task(db: sqlite3.Connection, seq: int, task: Task) -> None:
    """Add a task to the index."""
    row = (seq, task.id, task.env, task.family, task.parent_id, task.operator, task.split)
    db.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def index_experience(db: sqlite3.Connection, seq: int, step: int, experience: Experience) -> None:
    """Add an attempt to the index, with the tier that its evidence gives it; a repeated answer is no new evidence."""
    task, verdict, content = experience.task, experience.verdict, content_of(experience)
    is_new = db.execute("SELECT 1 FROM experiences WHERE content = ? LIMIT 1", (content,)).fetchone() is None
    row = (
        *(seq, experience.id, step, experience.group_id, task.id, task.env, task.family, experience.origin),
        *(verdict.outcome, verdict.reward, tier_of(experience, is_new=is_new), content),
        *(experience.trajectory.num_completion_tokens, verdict.verifier, verdict.verifier_version),
    )
    db.execute("INSERT INTO experiences VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def index_batch(db: sqlite3.Connection, seq: int, batch: Batch) -> None:
    """Add a batch's rows to the index."""
    rows = [(seq, batch.step, r.experience_id, r.kind, r.advantage, r.weight, sum(r.loss_mask)) for r in batch.rows]
    db.executemany("INSERT INTO trained VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]


def _fill_index(db: sqlite3.Connection) -> None:
    tasks: dict[str, Task] = {}
    for seq, body in db.execute("SELECT seq, body FROM records WHERE kind = 'task' ORDER BY seq").fetchall():
        task = Task(**json.loads(body))
        tasks[task.id] = task
        index_task(db, seq, task)
    for seq, step, body in _all(db, "experience"):
        data = json.loads(body)
        index_experience(db, seq, step, experience_from(data, tasks[data["task_id"]]))
    for seq, _, body in _all(db, "batch"):
        index_batch(db, seq, batch_from(json.loads(body), seq))


def _all(db: sqlite3.Connection, kind: str) -> list[Any]:
    return db.execute("SELECT seq, step, body FROM records WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
