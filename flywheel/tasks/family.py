"""A family of tasks in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flywheel.contracts import TaskGenerator
from flywheel.tasks.env_generator import EnvGenerator
from flywheel.tasks.records import RecordGenerator
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
    def pinned(self) -> frozenset[str]:
        """The knobs that have one value only; nothing turns them."""
        return frozenset(name for name, (low, high) in self.whole_ranges.items() if low == high)

    @property
    def is_prose(self) -> bool:
        """Whether its tasks are texts of their own rather than instances of a template, as those that an environment draws are, too."""
        return not self.generator.knobs and not isinstance(self.generator, EnvGenerator)


def family_of(families: Sequence[Family], task: Task) -> Family | None:
    """Return the family that a task is of; None where none of its environment's, or more than one, can be.

    Records and the tasks that an environment draws bear the family's name that they like: a record is of the file that holds it. What
    no file holds is of the family of its name, of a file with records of that name, or of the environment's only family.
    """
    own = [family for family in families if family.env == task.env]
    files = [(family, family.generator) for family in own if isinstance(family.generator, RecordGenerator)]
    candidates = (
        [family for family, file in files if file.holds(task)],
        [family for family in own if family.generator.family == task.family],
        [family for family, file in files if task.family in file.families],
        [family for family in own if isinstance(family.generator, EnvGenerator)],
    )
    if (found := next(filter(None, candidates), None)) is not None:
        return found[0]
    return own[0] if len(own) == 1 else None
