r"""The run folder's own figures: ``metrics.jsonl`` and ``tables/NAME.jsonl``, a line a record, flushed as it is written.

Files are only ever appended to. A resumed run writes ``{"superseded_after": k}`` before its first line, k being that line's
step: what the file says of later steps no longer holds, and `read_metrics` and `read_table` leave it out. Figures of step k
itself are replaced name by name. A run begun anew in an old folder writes k = -1: nothing before it holds. A half-written last
line (the process was killed) is ended when the file is opened again and skipped by the readers. A table's pictures are files in
``tables/pictures/``, and their cells the paths in the run folder.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from flywheel.errors import StoreError

METRICS_FILE = "metrics.jsonl"
TABLES_FOLDER = "tables"
PICTURES_FOLDER = "pictures"


class JsonlMonitor:
    """Appends to the run folder.

    Args:
        run_dir: The run folder.
        resume: The run goes on from a checkpoint, rather than anew.

    Raises:
        StoreError: a file can't be written.
    """

    def __init__(self, run_dir: Path, *, resume: bool) -> None:
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._files: dict[Path, BinaryIO] = {}
        if not resume:
            for path in (run_dir / METRICS_FILE, *sorted((run_dir / TABLES_FOLDER).glob("*.jsonl"))):
                self._write(path, -1, b"")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line ``{"step", "time_s", NAME: VALUE, …}``; a value that is not finite is null."""
        self._append(self._run_dir / METRICS_FILE, step, {name: float(value) for name, value in metrics.items()})

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append a line ``{"step", "time_s", "columns", "rows"}``."""
        self._append(table_path(self._run_dir, name), step, {"columns": list(columns), "rows": [list(row) for row in rows]})

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _append(self, path: Path, step: int, body: Mapping[str, Any]) -> None:
        self._write(path, step, strict_json({"step": step, "time_s": round(time.time(), 3), **body}))

    def _write(self, path: Path, step: int, line: bytes) -> None:
        with self._lock:
            try:
                preface = b"" if path in self._files else self._open(path, step)
                self._files[path].write(preface + line)
                self._files[path].flush()
            except OSError as error:
                raise StoreError(f"{path}: can't be written: {error.strerror}; is the disk full?") from error

    def _open(self, path: Path, step: int) -> bytes:
        """Open a file for appending and return what has to stand before the first new line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files[path] = file = path.open("a+b")
        size = file.seek(0, 2)
        if not size:
            return b""
        file.seek(size - 1)
        return (b"" if file.read(1) == b"\n" else b"\n") + strict_json({"superseded_after": step})


def table_path(run_dir: Path, name: str) -> Path:
    """Return the file that holds a table; characters that no file name should have become ``_``."""
    return run_dir / TABLES_FOLDER / f"{_file_name(name)}.jsonl"


def save_picture(run_dir: Path, name: str, png: bytes) -> Path:
    """Keep a table's picture and return its path in the run folder.

    Raises:
        StoreError: it can't be written.
    """
    path = Path(TABLES_FOLDER) / PICTURES_FOLDER / f"{_file_name(name)}.png"
    try:
        (run_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / path).write_bytes(png)
    except OSError as error:
        raise StoreError(f"{run_dir / path}: can't be written: {error.strerror}; is the disk full?") from error
    return path


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "_"


def read_metrics(run_dir: Path) -> dict[int, dict[str, float]]:
    """Return the figures by step, in order of steps, without what a resume has superseded and without nulls."""
    steps: dict[int, dict[str, float]] = {}
    for record in _records(run_dir / METRICS_FILE):
        if "superseded_after" in record:
            steps = {step: figures for step, figures in steps.items() if step <= record["superseded_after"]}
            continue
        step = record.pop("step")
        record.pop("time_s", None)
        steps.setdefault(step, {}).update({name: value for name, value in record.items() if isinstance(value, int | float)})
    return dict(sorted(steps.items()))


def read_table(run_dir: Path, name: str) -> dict[int, list[dict[str, Any]]]:
    """Return a table's rows by step, each a mapping from column to value, without what a resume has superseded."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for record in _records(table_path(run_dir, name)):
        if "superseded_after" in record:
            steps = {step: rows for step, rows in steps.items() if step <= record["superseded_after"]}
        else:
            steps[record["step"]] = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    return dict(sorted(steps.items()))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # half a line: the process was killed while it wrote
            if isinstance(record, dict) and ("step" in record or "superseded_after" in record):
                yield record


def strict_json(record: Any) -> bytes:
    """Return one line of strict JSON in UTF-8: what is not finite is null."""
    text = json.dumps(_finite(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    # A lone surrogate becomes \udXXX, which is how JSON spells it.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
