"""What an audit says: findings, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flywheel.monitor.samples import plain_text

Level = Literal["ok", "warn", "fail"]
_SHOWN_IDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. `ids` are attempts or tasks that show it."""

    level: Level
    name: str
    text: str
    ids: tuple[str, ...] = ()


def shown(findings: Sequence[Finding]) -> str:
    """Return the report: a line a finding, failures last, where a person's eye is."""
    order: dict[Level, int] = {"ok": 0, "warn": 1, "fail": 2}
    lines = []
    for found in sorted(findings, key=lambda f: order[f.level]):
        some = f" [{', '.join(found.ids[:_SHOWN_IDS])}{', …' if len(found.ids) > _SHOWN_IDS else ''}]" if found.ids else ""
        lines.append(f"{found.level.upper():<5}{found.name:<20}{plain_text(found.text, 1000)}{some}")
    counts = {level: sum(f.level == level for f in findings) for level in order}
    return "\n".join([*lines, f"{counts['fail']} failed, {counts['warn']} warnings, {counts['ok']} fine"])
