"""Reads records: JSON objects, one a line, gzipped where a file's name says so. What a record means is the caller's business."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from flywheel.errors import ConfigError

T = TypeVar("T")


def parse_json(text: str) -> Any:
    """Return what JSON text says, where it says one thing: no key occurs twice in an object, and numbers are finite.

    Raises:
        ValueError: it is not such JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=finite, parse_float=finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice in one object")
    return data


def finite(text: str) -> float:
    """Return a JSON number; for `json`'s decoders, which else take NaN and what is too large for a float.

    Raises:
        ValueError: it is not a finite one.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def read_records(path: Path, make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Yield what `make` makes of each line's object, in order; empty lines are passed over.

    Raises:
        ConfigError: the file can't be read, or a line is not an object that `make` takes (it says so by a `ValueError`).
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as JSON lines: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            if not isinstance(record, dict):
                raise ValueError(f"got {type(record).__name__}, expected an object")
            made = make(record)
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        yield made
