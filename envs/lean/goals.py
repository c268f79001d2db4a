"""How goals and errors are shown to a policy: short, in one form, the same for every backend."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_GOALS = 3
MAX_GOAL_CHARS = 600
MAX_ERROR_CHARS = 300
NOTHING_LEFT = "no goals left: submit"


def show_goals(goals: Sequence[str]) -> str:
    """Return goals as text: the first few, each cut in its middle where it is long."""
    if not goals:
        return NOTHING_LEFT
    shown = [_cut(normalize(goal), MAX_GOAL_CHARS) for goal in goals[:MAX_GOALS]]
    if len(goals) > MAX_GOALS:
        shown.append(f"(and {len(goals) - MAX_GOALS} more)")
    return "\n\n".join(shown)


def normalize(goal: str) -> str:
    """Return a goal with one hypothesis a line, single spaces, and no marks that only a screen needs."""
    lines: list[str] = []
    for line in goal.replace("\t", " ").split("\n"):
        text = " ".join(line.split())
        if not text:
            continue
        if line.startswith(" ") and lines:  # a long hypothesis goes on
            lines[-1] += " " + text
        else:
            lines.append(text)
    return "\n".join(lines)


def show_error(error: str) -> str:
    """Return what Lean says against a tactic: its first lines, without positions."""
    text = re.sub(r"^(<[^>]*>|\S+\.lean):\d+:\d+: ", "", error.strip())
    return "Error: " + _cut("\n".join(line.rstrip() for line in text.split("\n") if line.strip()), MAX_ERROR_CHARS)


def _cut(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    head = size // 2
    return f"{text[:head]} … {text[head + 3 - size :]}"
