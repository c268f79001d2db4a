"""Finds environments, verifiers, engines and sandbox backends by name, without importing what is not asked for.

A name is looked up in the folder's own literal table (`flywheel.envs.TABLE`, …), then among installed entry points (group
``flywheel.envs`` and so on), and may be a raw ``module:attribute``.
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from flywheel.errors import ConfigError

Kind = Literal["envs", "verifiers", "inference", "sandbox"]
_WHAT = {"envs": "environment", "verifiers": "verifier", "inference": "engine", "sandbox": "backend"}


def names(kind: Kind) -> dict[str, str]:
    """Return every known name of a kind and the ``module:attribute`` it stands for."""
    table: dict[str, str] = importlib.import_module(f"flywheel.{kind}").TABLE
    plugged = {point.name: point.value for point in entry_points(group=f"flywheel.{kind}")}
    return {**plugged, **table}


def closest(name: str, known: list[str]) -> str:
    """Return a phrase that names the closest known name, or all of them; or says that there is none."""
    if not known:
        return "there is none"
    match = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {match[0]!r}?" if match else f"known: {', '.join(sorted(known))}"


def resolve(kind: Kind, name: str) -> Any:
    """Return the object that `name` stands for.

    Raises:
        ConfigError: no such name, or its module can't be imported.
    """
    known = names(kind)
    target = known.get(name, name)
    if ":" not in target:
        raise ConfigError(f"unknown {_WHAT[kind]} {name!r}: {closest(name, list(known))} (or give 'module:attribute')")
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f"{_WHAT[kind]} {name!r}: can't import {module!r} ({error}); is it installed and on PYTHONPATH?") from error
    except AttributeError as error:
        raise ConfigError(f"{_WHAT[kind]} {name!r}: module {module!r} has no {attribute!r}") from error
