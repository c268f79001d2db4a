"""Tasks from a Hugging Face data set: hub, folder or file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flywheel.config import DatasetConfig
from flywheel.errors import ConfigError
from flywheel.registry import closest
from flywheel.tasks.records import Check, Convert, record_task
from flywheel.types import Task

DATA_FILES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_COLUMN = re.compile(r"\{([^{}]+)\}")


def dataset_tasks(config: DatasetConfig, env: str, key: str, convert: Convert = dict, check: Check | None = None) -> list[Task]:
    """Return the rows of a data set as tasks, in order.

    Args:
        config: The recipe's section.
        env: The environment that they are for.
        key: The section's name, for messages.
        convert: Makes a task record of a row of another shape.
        check: Raises a `ValueError` for a task that the environment can't read.

    Raises:
        ConfigError: the data set can't be loaded, or a row makes no task.
    """
    try:
        rows = _rows(config)
    except Exception as error:  # datasets raises all sorts of things for what is not there
        why = error.__cause__ or error  # of a file that can't be read, datasets itself says no more than that
        raise ConfigError(f"{key}: {config.path!r} can't be loaded: {type(why).__name__}: {why}") from error
    tasks = []
    for number, row in enumerate(rows):
        try:
            tasks.append(row_task(config, row, env, convert, check))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{key}: row {number} of {config.path!r}: {error}") from None
    if not tasks:
        raise ConfigError(f"{key}: {config.path!r} has no rows")
    return tasks


def row_task(config: DatasetConfig, row: Mapping[str, Any], env: str, convert: Convert = dict, check: Check | None = None) -> Task:
    """Return one row's task.

    Raises:
        ValueError: a column that the section names is not there, or the row is not a task record.
    """
    if config.prompt is None and config.payload is None:
        record = {name: value for name, value in row.items() if value is not None}
        for name in ("payload", "params"):  # a column of mappings of different keys is kept as JSON
            if isinstance(record.get(name), str):
                record[name] = json.loads(record[name])
        return record_task(convert(record), env, check)
    prompt = _text(config.prompt or "{prompt}", row)
    return record_task({"prompt": prompt, "payload": _filled(config.payload or {}, row)}, env, check)


def _rows(config: DatasetConfig) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset, load_from_disk

    path = Path(config.path).expanduser()
    options = {"name": config.name, "split": config.split, "revision": config.revision}
    if path.is_file():
        if path.suffix not in DATA_FILES:
            raise ValueError(f"expected a file that ends in {', '.join(DATA_FILES)}")
        part = re.sub(r"^\w+", "train", config.split)  # a file is one split, whatever the recipe calls it; what is cut out of it counts
        rows = load_dataset(DATA_FILES[path.suffix], data_files=str(path), split=part)
    elif (path / "dataset_dict.json").is_file():
        splits = load_from_disk(str(path))
        if config.split not in splits:
            raise ValueError(f"no split {config.split!r}: {closest(config.split, list(splits))}")
        rows = splits[config.split]
    elif (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        rows = load_from_disk(str(path))
        if config.split not in ("train", known := str(rows.split or "train")):
            raise ValueError(f"no split {config.split!r}: the folder holds one data set, {known!r}")
    else:
        rows = load_dataset(str(path) if path.is_dir() else config.path, **options)
    chosen: Iterable[Mapping[str, Any]] = rows if config.limit is None else rows.select(range(min(config.limit, len(rows))))
    return chosen


def _filled(template: Any, row: Mapping[str, Any]) -> Any:
    """Return a template with its ``{column}`` filled in."""
    if isinstance(template, Mapping):
        return {name: _filled(value, row) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, row) for value in template]
    if not isinstance(template, str):
        return template
    whole = _COLUMN.fullmatch(template)
    return _column(whole[1], row) if whole is not None else _text(template, row)


def _text(template: str, row: Mapping[str, Any]) -> str:
    """Return a text with its ``{column}`` filled in; a column that says nothing would be the word None in it."""

    def said(found: re.Match[str]) -> str:
        if (value := _column(found[1], row)) is None:
            raise ValueError(f"column {found[1]!r} is empty, and {template!r} needs it; fill it, or leave the row out")
        return str(value)

    return _COLUMN.sub(said, template)


def _column(name: str, row: Mapping[str, Any]) -> Any:
    if name not in row:
        raise ValueError(f"no column {name!r}; it has {', '.join(sorted(row))}")
    return row[name]
