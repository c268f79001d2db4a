"""Files of records: what is read, and how a file that can't be is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from flywheel.errors import ConfigError
from flywheel.records import read_records

LINE = b'{"a": 1}\n'
BROKEN_GZIP = bytearray(gzip.compress(LINE * 1000))
BROKEN_GZIP[20] ^= 0xFF


@pytest.mark.parametrize(
    ("name", "data"),
    [("r.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n  {"a": 2}'), ("r.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n'))],
)
def test_objects_are_read_line_by_line(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert list(read_records(tmp_path / name, lambda record: record["a"])) == [1, 2]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("r.jsonl", LINE + b"[1]\n", ":2: got list, expected an object"),
        ("r.jsonl", LINE + b'{"a": 1, "a": 2}', ":2: the key 'a' occurs twice in one object"),
        ("r.jsonl", b'{"a": {"b": NaN}}', ":1: NaN is not a finite number"),
        ("r.jsonl", b'{"a": -1e999}', ":1: -1e999 is not a finite number"),
        ("r.jsonl", b"[" * 100_000, ":1: maximum recursion depth exceeded"),
        ("r.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ":1: Exceeds the limit"),
        ("r.jsonl", '{"a": 1}'.encode("utf-16"), ": can't be read as JSON lines: 'utf-8' codec"),
        ("r.jsonl.gz", LINE, ": can't be read as JSON lines: Not a gzipped file"),
        ("r.jsonl.gz", gzip.compress(LINE)[:-9], ": can't be read as JSON lines: Compressed file ended"),
        ("r.jsonl.gz", bytes(BROKEN_GZIP), ": can't be read as JSON lines: Error -3 while decompressing data"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(name: str, data: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        list(read_records(file, dict))
    assert str(caught.value).startswith(f"{file}{why}")
