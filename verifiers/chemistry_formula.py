"""Molecular formulas as text."""

from __future__ import annotations

import re

from rdkit import Chem

_FORMULA = re.compile(r"((?:[A-Z][a-z]?(?:[1-9]\d*)?)+)([+-](?:[1-9]\d*)?)?")


def parse_formula(text: str) -> tuple[dict[str, int], int]:
    """Return the element counts and the charge of a formula such as ``C2H3O2-`` or ``Ca+2``.

    Raises:
        ValueError: it is not a formula.
    """
    match = _FORMULA.fullmatch(text)
    if match is None:
        raise ValueError(f"formula {text!r}: expected elements with counts, then a charge such as + or -2")
    counts: dict[str, int] = {}
    table = Chem.GetPeriodicTable()
    for symbol, digits in re.findall(r"([A-Z][a-z]?)(\d*)", match[1]):
        try:
            table.GetAtomicNumber(symbol)
        except RuntimeError as error:
            raise ValueError(f"formula {text!r}: no element {symbol!r}") from error
        counts[symbol] = counts.get(symbol, 0) + int(digits or 1)
    sign = match[2] or ""
    charge = 0 if not sign else int(sign[0] + (sign[1:] or "1"))
    return counts, charge
