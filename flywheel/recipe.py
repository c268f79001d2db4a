"""Reads a recipe: TOML by name or path, ``extends``, dotted overrides; every mistake is reported in one go.

``extends = "NAME"`` (or a path, looked up beside the file first) takes over all that the file doesn't say itself, section by
section; only ``environments`` are replaced as a whole.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from flywheel.config import Recipe
from flywheel.errors import ConfigError
from flywheel.registry import closest


def shipped_recipes() -> dict[str, str]:
    """Return the recipes that come with flywheel: name and the comment on the file's first line."""
    folder = resources.files("flywheel.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): f.read_text("utf-8").splitlines()[0].lstrip("# ") for f in files}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe `name` (shipped, or a path to a TOML file) with command-line overrides applied.

    Args:
        name: A shipped recipe's name, or a path.
        overrides: ``--key.path value`` or ``--key.path=value`` words; a value is read as TOML where it is TOML, else as text (so
            is what a key of text takes: a revision of digits, say).

    Raises:
        ConfigError: everything that is wrong with it, one message each.
    """
    data = _read(name, ())
    problems: list[str] = []
    texts = {tuple(key.split(".")): text for key, text in _pairs(overrides, problems)}
    for path, text in texts.items():
        _set(data, path, _value(text), problems)
    for path in _misread(data):
        if path in texts:
            _set(data, path, texts[path], problems)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += map(_explain, error.errors())
        raise ConfigError(*problems) from None
    if problems:
        raise ConfigError(*problems)
    return recipe


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with sections or keys changed, as a recipe that ``extends`` it would.

    Raises:
        ConfigError: everything that is wrong with the result.
    """
    data = _merge(recipe.model_dump(mode="json", exclude_none=True), changes)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(*map(_explain, error.errors())) from None


def load_section(name: str, overrides: Sequence[str]) -> Any:
    """Return one section of a recipe, for a command that takes no recipe: its defaults, with ``--NAME.key value`` words applied.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    data: dict[str, Any] = {name: {}}
    problems: list[str] = []
    for key, text in _pairs(overrides, problems):
        if not key.startswith(f"{name}."):
            problems.append(f"unknown option --{key}: expected --{name}.key value")
        else:
            _set(data, key.split("."), _value(text), problems)
    section: Any = Recipe.model_fields[name].annotation
    try:
        made = section.model_validate(data[name])
    except ValidationError as error:
        problems += (_explain({**e, "loc": (name, *e["loc"])}) for e in error.errors())
    if problems:
        raise ConfigError(*problems)
    return made


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a command line's own words, and its overrides: ``--key.path value`` or ``--key.path=value``, wherever they stand."""
    own: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, has_value, _ = word.partition("=")
        if word.startswith("--") and "." in key:
            overrides += [word] if has_value or not rest else [word, rest.pop(0)]
        else:
            own.append(word)
    return own, overrides


def closest_option(name: str, options: Sequence[str]) -> str:
    """Return what an unknown ``--NAME`` may have meant, in words: one of a command's own options, or a key without its section."""
    shown = {option: [f"--{option}"] for option in options}
    for section in Recipe.model_fields:
        for key in _keys_at((section,)):
            shown.setdefault(key, []).append(f"--{section}.{key}")
    match = difflib.get_close_matches(name, shown, n=1)
    return f"did you mean {' or '.join(shown[match[0]])}?" if match else "overrides are --section.key value"


def to_toml(recipe: Recipe) -> str:
    """Return the resolved recipe as TOML that `load_recipe` reads back."""
    return "\n".join(_lines(recipe.model_dump(mode="json", exclude_none=True), ())) + "\n"


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ConfigError(f"extends goes in a circle: {' -> '.join((*seen, name))}")
    known = shipped_recipes()
    source = resources.files("flywheel.recipes").joinpath(f"{name}.toml") if name in known else Path(name)
    if name not in known and not Path(name).is_file():
        raise ConfigError(f"no recipe {name!r}: {closest(name, list(known))} (or give the path of a TOML file)")
    try:
        data = tomllib.loads(source.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{name}: not a readable TOML file: {error}") from None
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{name}: extends is {base!r}, expected a recipe's name or path")
    beside = Path(name).parent / base
    inherited = _read(str(beside) if name not in known and beside.is_file() else base, (*seen, name))
    if "environments" in data:
        inherited.pop("environments", None)  # a recipe that names environments names all of them
    return _merge(inherited, data)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merge(base[k], v) for k, v in top.items() if isinstance(v, Mapping) and isinstance(base.get(k), Mapping)}
    return {**base, **top, **both}


def _pairs(words: Sequence[str], problems: list[str]) -> list[tuple[str, str]]:
    """Return the overrides' keys and values, as they were written."""
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        key, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            problems.append(f"unexpected argument {word!r}: overrides are --section.key value")
        elif not has_value and not rest:
            problems.append(f"--{key} has no value")
        else:
            pairs.append((key, value if has_value else rest.pop(0)))
    return pairs


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _misread(data: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return the keys that take text and have something else."""
    try:
        Recipe.model_validate(data)
    except ValidationError as error:
        return [e["loc"] for e in error.errors() if e["type"] in ("string_type", "path_type")]
    return []


def _set(data: dict[str, Any], path: Sequence[str], value: Any, problems: list[str]) -> None:
    for i, name in enumerate(path[:-1]):
        found = data.setdefault(name, {})
        if path[0] == "stages" and isinstance(found, list):  # stages are tables with names
            found = {stage["name"]: stage for stage in found if isinstance(stage, dict) and "name" in stage}
            if path[1] not in found:
                problems.append(f"--{'.'.join(path)}: no stage {path[1]!r}: {closest(path[1], list(found))}")
                return
            if len(path) == 2:
                problems.append(f"--{'.'.join(path)}: a stage is not a value; expected --stages.NAME.section.key")
                return
        data = found
        if not isinstance(data, dict):
            problems.append(f"--{'.'.join(path)}: {'.'.join(path[: i + 1])} is a value, not a section")
            return
    data[path[-1]] = value


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {path!r}: {closest(str(error['loc'][-1]), _keys_at(error['loc'][:-1]))}"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{path} is a section, not a value (got {error['input']!r})"
    got = "" if error["type"] in {"missing", "value_error"} else f" (got {error['input']!r})"
    said = error["msg"].removeprefix("Value error, ")
    return said if path and said.startswith(path) else f"{path}: {said}{got}".removeprefix(": ")


def _keys_at(path: Sequence[Any]) -> list[str]:
    """Return the keys that the schema knows at `path`, walking through ``dict[str, Section]`` fields."""
    model: Any = Recipe
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[part].annotation if part in model.model_fields else None
        else:
            model = get_args(model)[-1] if get_args(model) else None
        if isinstance(model, UnionType):  # an optional section
            model = get_args(model)[0]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _lines(section: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    tables = {k: v for k, v in section.items() if not path and isinstance(v, list)}  # the stages: no section stands in a list
    plain = {k: v for k, v in section.items() if not isinstance(v, Mapping) and k not in tables}
    lines = ([f"\n[{'.'.join(map(_key, path))}]"] if path and (plain or not section) else []) + [
        f"{_key(k)} = {_literal(v)}" for k, v in plain.items()
    ]
    for key, value in section.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*path, key))
    for key, rows in tables.items():
        lines += [line for row in rows for line in (f"\n[[{key}]]", *(f"{_key(k)} = {_literal(v)}" for k, v in row.items()))]
    return lines


def _key(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else _literal(name)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list):
        return f"[{', '.join(_literal(v) for v in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_literal(v)}" for k, v in value.items()) + "}"
    return repr(value)
