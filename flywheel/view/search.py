"""Full-text search over a run's attempts: an SQLite FTS5 index of its own, filled bit by bit from the store.

It lies in the run's folder (``view.sqlite``; delete it at will), or in memory where that can't be written. It keeps no text, only
which attempt has which word.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

from flywheel.errors import StoreError
from flywheel.store.reader import Reader

FILE = "view.sqlite"
_PIECE = 500
_MAX_HITS = 20_000
_SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5 (body, content='', tokenize="unicode61 tokenchars '_'");
CREATE TABLE IF NOT EXISTS progress (last_seq INTEGER NOT NULL);
INSERT INTO progress SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM progress);
"""


class TextIndex:
    """The index of one run.

    Args:
        run_dir: The run folder.
        reader: Its store.
    """

    def __init__(self, run_dir: Path, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._db = _opened(run_dir / FILE)
        if self.last_seq > reader.last_seq:  # it was made of another journal that lay here
            self._db.executescript(f"DROP TABLE texts; DROP TABLE progress; {_SCHEMA}")

    @property
    def last_seq(self) -> int:
        """The record that the index reaches."""
        with self._lock:
            return int(self._db.execute("SELECT last_seq FROM progress").fetchone()[0])

    def update(self) -> bool:
        """Index the next few attempts; return whether there were any."""
        last_seq = self.last_seq
        found = self._reader.bodies("experience", after_seq=last_seq, limit=_PIECE)
        prompts = {task_id: self._prompt(task_id) for task_id in {data["task_id"] for _, data in found if data is not None}}
        rows = [(seq, _text(data, prompts[data["task_id"]])) for seq, data in found if data is not None]
        if found:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                # Another window on the same run may have indexed the same attempts meanwhile.
                if self._db.execute("UPDATE progress SET last_seq = ? WHERE last_seq = ?", (found[-1][0], last_seq)).rowcount:
                    self._db.executemany("INSERT INTO texts (rowid, body) VALUES (?, ?)", rows)
                self._db.execute("COMMIT")
        return bool(found)

    def find(self, words: str) -> list[int]:
        """Return the record numbers of attempts that hold every word, as the beginning of one, newest first."""
        terms = re.findall(r"\w+", words)
        if not terms:
            return []
        question = " ".join(f'"{term}"*' for term in terms)  # quoted, so that nothing in it is an operator
        with self._lock:
            rows = self._db.execute("SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rowid DESC LIMIT ?", (question, _MAX_HITS))
            return [seq for (seq,) in rows]

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._db.close()

    def _prompt(self, task_id: str) -> str:
        try:
            task = self._reader.get("task", task_id)
        except StoreError:  # in a damaged shard
            task = None
        return "" if task is None else f"{task_id} {task['env']} {task['family']} {task['prompt']}"


def _text(data: dict[str, Any], prompt: str) -> str:
    trajectory = data["trajectory"]
    turns = [f"{turn['text']}\n{turn['observation'] or ''}" for turn in trajectory["turns"]]
    whole = "\n".join([data["id"], prompt, *turns, trajectory["answer"] or "", data["verdict"]["evidence"]])
    return whole.encode("utf-8", "replace").decode("utf-8")


def _opened(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(sqlite3.Error):
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")  # it can be made again
            db.executescript(_SCHEMA)
            db.execute("UPDATE progress SET last_seq = last_seq")
            return db
        except sqlite3.Error:
            db.close()
    db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    db.executescript(_SCHEMA)
    return db
