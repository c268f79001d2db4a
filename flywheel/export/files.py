"""Rows become a file: JSON lines, Parquet, or a Hugging Face data set folder; row by row, and there only when it is whole.

A name's ending says which: ``.jsonl`` and ``.parquet`` (``datasets.load_dataset`` reads them), anything else is a folder
(``datasets.load_from_disk``).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.arrow_writer import ArrowWriter, ParquetWriter

from flywheel.errors import ConfigError
from flywheel.run_folder import writing

# Nobody who ends a name so means a folder.
_NO_FOLDER = (".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".zip")


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, or that can't be.

    Raises:
        ConfigError: the message says why.
    """
    if out.suffix in _NO_FOLDER:
        raise ConfigError(f"{out}: no such format {out.suffix!r}; expected a name that ends in .jsonl or .parquet, or a folder's")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: its folder can't be made: {error.strerror}; name another place") from None
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already: name another place, or say --overwrite")
    if out.is_dir() != (out.suffix not in (".jsonl", ".parquet")) and out.exists():
        raise ConfigError(f"{out} is {'a folder' if out.is_dir() else 'a file'}, which this export is not: name another place")
    if out.is_dir() and not (out / "dataset_info.json").is_file() and any(out.iterdir()):
        raise ConfigError(f"{out} is a folder that holds no data set, so it is not replaced: name another place")


def write_rows(rows: Iterable[dict[str, Any]], features: Features, out: Path) -> int:
    """Write rows to `out`, which appears (or is replaced) by one rename when all are written; return their number.

    Without a row nothing is written.

    Raises:
        StoreError: the disk is full, or the folder can't be written.
    """
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            made = scratch / out.name
            write = {".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(out.suffix, _write_folder)
            num_rows = write(rows, features, made)
            if num_rows:
                if out.is_dir():
                    out.rename(scratch / "replaced")
                made.rename(out)
            return num_rows
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _write_jsonl(rows: Iterable[dict[str, Any]], features: Features, path: Path) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            num_rows += 1
            file.write(json.dumps({name: row[name] for name in features}, ensure_ascii=False, separators=(",", ":")) + "\n")
    return num_rows


def _write_parquet(rows: Iterable[dict[str, Any]], features: Features, path: Path) -> int:
    return _write_arrow(ParquetWriter(path=str(path), features=features), rows, features)


def _write_folder(rows: Iterable[dict[str, Any]], features: Features, path: Path) -> int:
    plain = path.with_name("rows.arrow")
    num_rows = _write_arrow(ArrowWriter(path=str(plain), features=features), rows, features)
    if num_rows:
        shown = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            Dataset.from_file(str(plain)).save_to_disk(path)
        finally:
            if shown:
                enable_progress_bars()
    return num_rows


def _write_arrow(writer: ArrowWriter, rows: Iterable[dict[str, Any]], features: Features) -> int:
    num_rows = 0
    try:
        for row in rows:
            num_rows += 1
            writer.write(features.encode_example(row))
        if num_rows:
            writer.finalize()
    finally:
        writer.close()
    return num_rows
