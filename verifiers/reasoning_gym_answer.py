"""Which answers may reach reasoning-gym's scorers: some of them pass the answer to Python's ``eval``, as it is or through sympy.

For those, what is not plain data or a plain formula is refused unseen. The lists are of reasoning-gym 0.1.25; a test reads the
installed sources and fails when a scorer that evaluates its answer is on neither.
"""

from __future__ import annotations

import ast
import re

MAX_CHARS = 20_000
MAX_FORMULA_CHARS = 500
# eval(answer), for lists of numbers or words
LITERALS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
# sympy's parse_expr(answer), which is eval after a little rewriting
FORMULAS = frozenset({"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"})
_FUNCTIONS: tuple[str, ...] = ("Abs", "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh")
_FUNCTIONS += ("exp", "log", "sqrt", "erf", "pi")
# No quotes, brackets, underscores or attribute access: a number, a letter, a known function, or an operator.
# Atomic and possessive: a hostile answer must not make the match itself slow.
_FORMULA = re.compile(rf"(?>\d+(?:\.\d*)?|\.\d+|(?:{'|'.join(_FUNCTIONS)})\b|[A-Za-z]\b|[-+*/^()=, ])*+", re.ASCII)
_WORDS = re.compile(r"(?>[A-Za-z0-9 ,.\n-]|(?<!\w)_(?!\w))*+", re.ASCII)


def refusal(dataset: str, answer: str) -> str | None:
    """Return why an answer is not scored, or None where it may be."""
    if len(answer) > MAX_CHARS:
        return f"{len(answer)} characters, at most {MAX_CHARS}"
    if dataset in LITERALS:
        return None if is_literal_or_words(answer) else "neither plain words nor a list of them"
    if dataset in FORMULAS and (len(answer) > MAX_FORMULA_CHARS or _FORMULA.fullmatch(answer) is None):
        return f"no plain formula of at most {MAX_FORMULA_CHARS} characters"
    return None


def is_literal_or_words(answer: str) -> bool:
    """Whether a text is a Python literal, or so plain that evaluating it could call nothing."""
    try:
        ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return _WORDS.fullmatch(answer) is not None
    return True
