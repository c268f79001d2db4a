"""How many attempts a task gets, and how many tasks a step has.

``fixed`` makes `group_size` attempts at each of `groups_per_step` tasks; with ``backfill`` above 0 a group in which all attempts came
out alike is replaced, up to that share of further groups (arXiv:2503.14476, section 3.2).

``sequential`` makes attempts in stages of at least two. A group with both solved and unsolved attempts grows to `group_size`; one in
which all came out alike goes on only while the chance that the next stage is different is at least ``stop_below`` (a
Beta-Bernoulli prediction, whose prior is what the curriculum believes of the task). What is not spent there goes to further tasks:
the step has ``groups_per_step * group_size`` attempts, and whatever the last group needs above that.

Which groups a step has follows from their outcomes in the order of their start, never from how quickly they finish, or short
completions would be favoured: a group is started only when it belongs to the step however the earlier ones turn out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flywheel.config import RolloutConfig
from flywheel.rollout.groups import Collector, Ledger
from flywheel.types import Experience, Group, Task

PRIOR_STRENGTH = 2.0  # attempts that the prediction counts for
_SURE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialRule:
    """When a group's next stage is made. It looks at nothing but the attempts so far.

    Args:
        stage_size: Attempts a stage; a last stage of one joins the one before it.
        group_size: Most attempts.
        stop_below: See the module.
        predicted: The predicted solve rate.
    """

    stage_size: int
    group_size: int
    stop_below: float
    predicted: float = 0.5

    def next_stage(self, num_made: int, num_judged: int, num_solved: int) -> int:
        """Return how many attempts the next stage has; 0 ends the group."""
        left = self.group_size - num_made
        if left <= 0:
            return 0
        size = left if left < self.stage_size + 2 else self.stage_size
        is_mixed = 0 < num_solved < num_judged
        return size if is_mixed or num_judged == 0 or self.chance_of_change(num_judged, num_solved, size) >= self.stop_below else 0

    def chance_of_change(self, num_judged: int, num_solved: int, size: int) -> float:
        """Return the chance that `size` more attempts are not all like the ones so far, which were all alike."""
        rate = min(1 - _SURE, max(_SURE, self.predicted))
        alike = PRIOR_STRENGTH * (rate if num_solved else 1 - rate) + num_judged
        return 1 - math.prod((alike + at) / (PRIOR_STRENGTH + num_judged + at) for at in range(size))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGroups:
    """A step's groups in the order of their start, and what allocation did."""

    groups: list[Group]
    num_backfilled: int
    num_attempts_saved: int

    def figures(self) -> dict[str, float]:
        """Return the figures ``allocation/…`` (flywheel/monitor/figures.py)."""
        made = [len(group.experiences) for group in self.groups]
        return {
            "allocation/attempts_mean": sum(made) / max(1, len(made)),
            "allocation/groups": float(len(made)),
            "allocation/backfilled": float(self.num_backfilled),
            "allocation/attempts_saved": float(self.num_attempts_saved),
        }


async def collect_step(
    collector: Collector,
    config: RolloutConfig,
    draw: Callable[[int], Task],
    predicted: Callable[[Task], float | None],
    *,
    name: str,
    ledger: Ledger | None = None,
) -> StepGroups:
    """Collect the groups of one step.

    Args:
        collector: Makes attempts.
        config: ``[rollout]``.
        draw: Returns task number i of the step, from 0.
        predicted: Returns the predicted solve rate of a task, or None.
        name: Makes ids and seeds unique to the step.
        ledger: Knows groups that were finished already, and writes down the others.

    Raises:
        FlywheelError: the ledger's, or `draw`'s.
    """
    started: list[asyncio.Task[Group]] = []
    try:
        await _collect(started, collector, config, draw, predicted, name, ledger)
    except ExceptionGroup as errors:  # only the ledger and `draw` raise, and what they say of one group they say of all
        raise errors.exceptions[0] from errors
    groups = [group.result() for group in started]
    return StepGroups(
        groups=groups,
        num_backfilled=max(0, len(groups) - config.groups_per_step) if config.allocation == "fixed" else 0,
        num_attempts_saved=sum(config.group_size - len(group.experiences) for group in groups),
    )


async def _collect(
    started: list[asyncio.Task[Group]],
    collector: Collector,
    config: RolloutConfig,
    draw: Callable[[int], Task],
    predicted: Callable[[Task], float | None],
    name: str,
    ledger: Ledger | None,
) -> None:
    async with asyncio.TaskGroup() as running:
        while True:
            while _has_room(started, config):
                task = draw(len(started))
                stages = _stages(config, predicted(task))
                # A group of a run that was killed went on by what was believed then; how large its stages are does not depend on it.
                went_on = _stages(config.model_copy(update={"stop_below": 0.0}), None)
                made = collector.group(task, name=f"{name}/{len(started)}", next_stage=stages, went_on=went_on, ledger=ledger)
                started.append(running.create_task(made))
            waiting = [group for group in started if not group.done()]
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(group.done() and (group.cancelled() or group.exception()) for group in started):
                return  # the task group ends the others and raises


def _has_room(started: Sequence[asyncio.Task[Group]], config: RolloutConfig) -> bool:
    """Whether the next group belongs to the step, however those that still run turn out."""
    finished = [group.result() for group in started if group.done()]
    if config.allocation == "sequential":
        most = sum(len(group.experiences) for group in finished) + config.group_size * (len(started) - len(finished))
        return most < config.groups_per_step * config.group_size
    num_dead = sum(not _is_mixed(group.experiences) for group in finished)
    return len(started) < config.groups_per_step + min(num_dead, int(config.backfill * config.groups_per_step))


def _stages(config: RolloutConfig, predicted: float | None) -> Callable[[Sequence[Experience]], int]:
    if config.allocation == "fixed":
        return lambda made: 0 if made else config.group_size
    rule = SequentialRule(
        stage_size=config.stage_size,
        group_size=config.group_size,
        stop_below=config.stop_below,
        predicted=0.5 if predicted is None else predicted,
    )
    return lambda made: rule.next_stage(len(made), *_counts(made))


def _counts(experiences: Sequence[Experience]) -> tuple[int, int]:
    """Return how many attempts were judged, and how many of them solved the task."""
    outcomes = [e.verdict.outcome for e in experiences if e.verdict.outcome != "infra_error"]
    return len(outcomes), outcomes.count("solved")


def _is_mixed(experiences: Sequence[Experience]) -> bool:
    num_judged, num_solved = _counts(experiences)
    return 0 < num_solved < num_judged
