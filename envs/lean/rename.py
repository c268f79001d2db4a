"""Other names for what a theorem binds: the same theorem and the same proof in other letters."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence

IDENTIFIER = r"(?<![\w.'«]){}(?![\w'»])"
_NAME = re.compile(r"[^\W\d][\w']*")


def replace_name(text: str, name: str, new: str) -> str:
    """Return a text with a name replaced wherever it stands as a whole."""
    return re.sub(IDENTIFIER.format(re.escape(name)), lambda _: new, text)


def renamed(names: Sequence[str], texts: Sequence[str], rng: random.Random) -> list[str]:
    """Return texts with these names replaced by others that occur in none of them.

    A letter gives way to a letter while there are any, a longer name to two signs; what is not ASCII (a type's Greek letter) stays.

    Raises:
        ValueError: there are more names than letters.
    """
    used = {name for text in texts for name in _NAME.findall(text)}
    letters = rng.sample(string.ascii_lowercase, 26)
    single = [letter for letter in letters if letter not in used]
    longer = [f"{letter}{digit}" for letter in letters for digit in range(1, 10) if f"{letter}{digit}" not in used]
    made = list(texts)
    for name in names:
        pool = single if len(name) == 1 and single else longer
        if not pool:
            raise ValueError(f"no letter is left for {name!r}")
        if name.isascii():
            new = pool.pop()
            made = [replace_name(text, name, new) for text in made]
    return made
