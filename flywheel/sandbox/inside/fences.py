"""Finds the program in an answer that was written as Markdown: prose, and code between fences. Used on both sides."""

import re
from collections.abc import Collection

# Possessive wherever it can be: linear in hostile text.
_BLOCK = re.compile(r"^[ \t]*+(`{3,}+)[ \t]*+(\w*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t\r]*+$|\Z)", re.MULTILINE | re.DOTALL)


def unfenced(text: str, tags: Collection[str], *, is_program: bool) -> str:
    """Return what stands between the fences that name the language, or else between those that name none; empty if there are none.

    Of several blocks a program is the last one. Functions are all of them in order: the later definition of a name holds, as in a
    notebook, and examples of their use do no harm.
    """
    found = [(match[2].lower(), match[3]) for match in _BLOCK.finditer(text)]
    blocks = [block for tag, block in found if tag in tags] or [block for tag, block in found if not tag]
    return "\n".join(blocks[-1:] if is_program else blocks)
