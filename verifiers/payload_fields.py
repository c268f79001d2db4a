"""A payload's names that no field has: another program's business, or a slip."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_MISSPELT = 0.85


def refuse_misspelt(payload: Mapping[str, Any], fields: tuple[str, ...], what: str) -> None:
    """Leave other names alone, unless they look like a misspelt one of `fields`.

    Raises:
        ValueError: one does.
    """
    for name in sorted(set(payload) - set(fields), key=str):
        if meant := _meant(str(name), fields):
            raise ValueError(f"{what} payload: unknown field {name!r}; did you mean {meant!r}?")


@lru_cache(maxsize=1024)
def _meant(name: str, fields: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, fields, n=1, cutoff=_MISSPELT)), None)
