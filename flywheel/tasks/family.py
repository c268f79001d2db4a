"""A family of tasks in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flywheel.contracts import TaskGenerator
from flywheel.types import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family in a run: its generator, its share among all families and the knob ranges that the run draws from.

    `demonstrated` is its share of demonstrations, where that is another.
    """

    env: str
    generator: TaskGenerator
    share: float
    ranges: Mapping[str, tuple[int, int]]
    demonstrated: float | None = None

    @property
    def name(self) -> str:
        """``ENV/FAMILY``."""
        return f"{self.env}/{self.generator.family}"

    @property
    def whole_ranges(self) -> dict[str, tuple[int, int]]:
        """The range of every knob, its default where the run sets none."""
        return {name: self.ranges.get(name, knob.default) for name, knob in sorted(self.generator.knobs.items())}

    @property
    def is_prose(self) -> bool:
        """Whether its tasks are texts of their own rather than instances of a template."""
        return not self.generator.knobs


def family_of(families: Sequence[Family], task: Task) -> Family | None:
    """Return the family that a task is of: the one of its name, else the only one of its environment (a file of records, say)."""
    own = [family for family in families if family.env == task.env]
    named = [family for family in own if family.generator.family == task.family]
    return named[0] if named else own[0] if len(own) == 1 else None
