"""Reads files of records: JSON lines, gzipped where the name says so. What a record means is the caller's business."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from flywheel.errors import ConfigError

T = TypeVar("T")


def read_records(path: Path, make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Yield what `make` makes of each line's object, in order; empty lines are passed over.

    Raises:
        ConfigError: the file can't be read, or a line is not an object that `make` takes (it says so by a `ValueError`).
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as JSON lines: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"got {type(record).__name__}, expected an object")
            made = make(record)
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        yield made
