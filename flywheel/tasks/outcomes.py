"""What a step's groups say of the tasks: how many attempts were judged and solved, and one failure to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flywheel.types import Group, Task, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One group's. `failure` is the verdict on the failed attempt that passed most checks, if one failed."""

    task: Task
    num_solved: int
    num_judged: int
    failure: Verdict | None = None

    @property
    def is_mixed(self) -> bool:
        """Whether the group had both solved and unsolved attempts: the ones that teach by contrast."""
        return 0 < self.num_solved < self.num_judged

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `flywheel.types.to_json` wrote."""
        failure = data["failure"]
        return Outcome(**{**data, "task": Task(**data["task"]), "failure": None if failure is None else Verdict.from_json(failure)})


def outcomes_of(groups: Iterable[Group]) -> list[Outcome]:
    """Return the outcomes of all groups, in the order of task ids (then of groups)."""
    found = []
    for group in groups:
        verdicts = [e.verdict for e in group.experiences if e.verdict.outcome != "infra_error"]
        num_solved = sum(v.outcome == "solved" for v in verdicts)
        failures = [v for v in verdicts if v.outcome != "solved"]
        failure = max(failures, key=lambda v: sum(check.passed for check in v.checks), default=None)
        found.append(Outcome(task=group.task, num_solved=num_solved, num_judged=len(verdicts), failure=failure))
    return sorted(found, key=lambda outcome: outcome.task.id)
