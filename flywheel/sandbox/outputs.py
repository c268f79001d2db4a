"""How a program's output is compared with the expected one, outside the judged process.

``exact`` is the default: the same lines, but for white space at their ends and empty lines at the end. ``numbers`` is what programming
sites and the problem sets made from them mean (APPS, TACO): white space and empty lines only part words, and a word may be another
one for the same number. Where the expected number has a point or an exponent, it may be off by ``1e-8 + 1e-5 * |expected|``
(``numpy.allclose``, with which APPS compares); a whole number must be hit, and ``nan`` and ``inf`` are words like any other.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Literal, get_args

Comparison = Literal["exact", "numbers"]
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)
RELATIVE, ABSOLUTE = 1e-5, 1e-8
# Not what `float` takes: no underscores, no digits of other scripts, no infinity, no exponent that takes long to work with.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_SPACE = re.compile(r"[ \t\r\f\v]+")


def same_output(got: str, expected: str, comparison: Comparison = "exact") -> bool:
    """Whether a program printed what it should have."""
    if comparison == "exact":
        return normalise(got) == normalise(expected)
    lines, wanted = _words(got), _words(expected)
    if [len(line) for line in lines] != [len(line) for line in wanted]:
        return False
    pairs = ((word, other) for line, right in zip(lines, wanted, strict=True) for word, other in zip(line, right, strict=True))
    return all(_same_word(word, other) for word, other in pairs)


def normalise(text: str) -> list[str]:
    """Return lines without trailing white space, and without empty lines at the end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip().split("\n")


def _words(text: str) -> list[list[str]]:
    """Return the words of every line that has any."""
    lines = (_SPACE.sub(" ", line).strip(" ") for line in text.split("\n"))
    return [line.split(" ") for line in lines if line]


def _same_word(got: str, expected: str) -> bool:
    if got == expected:
        return True
    if not _NUMBER.fullmatch(got) or not _NUMBER.fullmatch(expected):
        return False
    if Decimal(got) == Decimal(expected):
        return True
    value, wanted = float(got), float(expected)
    if _WHOLE.fullmatch(expected) or not math.isfinite(value) or not math.isfinite(wanted):
        return False
    return abs(value - wanted) <= ABSOLUTE + RELATIVE * abs(wanted)
