"""Hindsight experience replay (arXiv:1707.01495) for environments whose tasks are goals: what was achieved is asked for.

The strategies say which achieved states become goals: ``final``, the last one; ``future``, k of those that come after a random turn;
``episode``, k random ones of the whole attempt. Deviation: the paper relabels single transitions, each with goals of its own; here a
training sequence is an episode from its start, so the attempt is kept up to the turn that first achieves the goal. The episode has to
end when its goal is achieved.

An environment says ``relabellers()`` returns ``(GoalRelabeller(cls),)`` and has the two members of `GoalEnvironment`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from flywheel.errors import NotRelabelledError
from flywheel.types import Task, Trajectory, Verdict, content_id, derive_seed

Strategy = Literal["final", "future", "episode"]


class GoalEnvironment(Protocol):
    """What an environment says of its goals, usually in class methods. Goals are plain data; equal goals are the same goal."""

    def achieved_goals(self, task: Task, trajectory: Trajectory) -> Sequence[Any]:
        """Return the goal achieved before the first turn, then the one after each turn; None where there was none."""
        ...

    def with_goal(self, task: Task, goal: Any) -> Task:
        """Return the task that differs from another in nothing but its goal (``desired_goal``)."""
        ...


class GoalRelabeller:
    """See the module and `flywheel.contracts.Relabeller`.

    Args:
        environment: Says what was achieved.
        strategy: Which achieved goals are asked for.
        k: How many ``future`` and ``episode`` draw; the paper's best is 4.
    """

    name = "goals"

    def __init__(self, environment: GoalEnvironment, *, strategy: Strategy = "future", k: int = 4) -> None:
        self._environment = environment
        self._strategy = strategy
        self._k = k

    def relabel(self, task: Task, trajectory: Trajectory, verdict: Verdict) -> list[tuple[Task, Trajectory]]:
        """Return tasks for goals that were achieved on the way, each with the attempt up to there.

        Raises:
            NotRelabelledError: nothing was achieved that did not hold at the start.
            ValueError: the environment gives another number of goals than there are turns, plus one.
        """
        goals = list(self._environment.achieved_goals(task, trajectory))
        if len(goals) != len(trajectory.turns) + 1:
            raise ValueError(f"achieved_goals gave {len(goals)} goals for {len(trajectory.turns)} turns, expected one more than turns")
        names = [None if goal is None else content_id(goal) for goal in goals]
        rng = random.Random(derive_seed("goals", self._strategy, task.id, trajectory.seed, names))
        found: dict[str, int] = {}
        for place in self._places(len(trajectory.turns), names, rng):
            name = names[place]
            if name is not None and name != names[0]:
                found.setdefault(name, names.index(name))
        if not found:
            raise NotRelabelledError("nothing_achieved")
        return [self._pair(task, trajectory, goals[at], at) for at in found.values()]

    def _places(self, num_turns: int, names: Sequence[str | None], rng: random.Random) -> Iterator[int]:
        """Yield the numbers of turns, from 1, after which the state is asked for."""
        if self._strategy == "final":
            yield from [at for at in range(1, num_turns + 1) if names[at] is not None][-1:]
            return
        for _ in range(self._k if num_turns else 0):
            start = rng.randint(0, num_turns - 1) if self._strategy == "future" else 0
            yield rng.randint(start + 1, num_turns)

    def _pair(self, task: Task, trajectory: Trajectory, goal: Any, num_turns: int) -> tuple[Task, Trajectory]:
        child = self._environment.with_goal(task, goal).derived(task, f"hindsight:{self.name}")
        kept = dataclasses.replace(trajectory, task_id=child.id, turns=trajectory.turns[:num_turns], stop_reason="terminated", answer=None)
        return child, kept
