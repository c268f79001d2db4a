"""Groups: sibling attempts at one task, each with its verdict; a broken attempt is made again and then masked."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flywheel.contracts import Engine, Sampling
from flywheel.errors import InfraError
from flywheel.inference.chat import ChatFormat
from flywheel.judge import judge
from flywheel.rollout.asking import backoff_s
from flywheel.rollout.episode import Limits, run_episode
from flywheel.rollout.stage import Stage
from flywheel.types import Experience, Group, Outcome, Task, Trajectory, Verdict, content_id, derive_seed


@dataclass(slots=True)
class Traffic:
    """What is going on right now and since `restart`, for the progress display and the step's figures."""

    waiting: int = 0
    in_flight: int = 0
    attempts: int = 0
    solved: int = 0
    tokens: int = 0
    retried: int = 0
    verify_s: float = 0.0
    started: float = field(default_factory=time.monotonic)
    solved_families: set[str] = field(default_factory=set)
    changed: Callable[[], None] = field(default=lambda: None)

    def restart(self) -> None:
        """Begin to count anew."""
        self.attempts = self.solved = self.tokens = self.retried = 0
        self.verify_s = 0.0
        self.started = time.monotonic()

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens per second since `restart`."""
        return self.tokens / max(1e-6, time.monotonic() - self.started)


class Ledger(Protocol):
    """Where whole groups are written down as they are finished, so that what was paid for once is not collected again."""

    def known(self, group_id: str) -> Group | None:
        """Return the group where it was written down before."""
        ...

    def write(self, group: Group) -> Awaitable[None]:
        """Write a finished group down."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Collector:
    """Collects groups with bounded concurrency."""

    stage: Stage
    engine: Engine
    chat: ChatFormat
    limits: Limits
    sampling: Sampling
    max_retries: int
    places: asyncio.Semaphore
    traffic: Traffic

    async def collect(self, tasks: Sequence[Task], group_size: int, *, name: str, ledger: Ledger | None = None) -> list[Group]:
        """Return one group a task, in order.

        Args:
            tasks: What to attempt.
            group_size: Attempts a task.
            name: Makes ids and seeds unique to the batch (run and step).
            ledger: Knows groups that were finished already, and writes down the others.

        Raises:
            FlywheelError: the ledger's.
        """
        try:
            async with asyncio.TaskGroup() as running:
                made = [
                    running.create_task(
                        self.group(task, name=f"{name}/{i}", next_stage=lambda made: 0 if made else group_size, ledger=ledger)
                    )
                    for i, task in enumerate(tasks)
                ]
        except ExceptionGroup as errors:  # only the ledger raises, and what it says of one group it says of all
            raise errors.exceptions[0] from errors
        return [group.result() for group in made]

    async def group(
        self,
        task: Task,
        *,
        name: str,
        next_stage: Callable[[Sequence[Experience]], int],
        went_on: Callable[[Sequence[Experience]], int] | None = None,
        ledger: Ledger | None = None,
    ) -> Group:
        """Return the attempts at one task, made in stages until `next_stage`, given the attempts so far, says 0.

        Args:
            task: What to attempt.
            name: Makes ids and seeds unique to the group.
            next_stage: Returns how many attempts come next.
            went_on: The same, of a group that the ledger knows to have gone on; `next_stage` where absent.
            ledger: May know the group already; else it is written down.

        Raises:
            FlywheelError: the ledger's.
        """
        group_id = content_id("group", name, task.id)
        if ledger is not None and (known := ledger.known(group_id)) is not None:
            return dataclasses.replace(known, stages=_stages_of(known.experiences, went_on or next_stage))
        experiences: list[Experience] = []
        stages: list[int] = []
        while size := next_stage(experiences):
            self.traffic.waiting += size
            siblings = range(len(experiences), len(experiences) + size)
            async with asyncio.TaskGroup() as running:
                made = [running.create_task(self._attempt(task, group_id, sibling)) for sibling in siblings]
            experiences += [attempt.result() for attempt in made]
            stages.append(size)
        group = Group(id=group_id, task=task, experiences=tuple(experiences), stages=tuple(stages))
        if ledger is not None:
            await ledger.write(group)
        return group

    async def _attempt(self, task: Task, group_id: str, sibling: int) -> Experience:
        async with self.places:
            self.traffic.waiting -= 1
            self.traffic.in_flight += 1
            trajectory, verdict = await self._tried(task, derive_seed(group_id, sibling))
            self.traffic.in_flight -= 1
        self.traffic.attempts += 1
        self.traffic.solved += verdict.outcome == "solved"
        if verdict.outcome == "solved":
            self.traffic.solved_families.add(task.family)
        self.traffic.tokens += trajectory.num_completion_tokens
        self.traffic.verify_s += verdict.duration_s
        self.traffic.changed()
        attempt_id = content_id("experience", group_id, sibling)
        return Experience(id=attempt_id, group_id=group_id, task=task, trajectory=trajectory, verdict=verdict, origin="on_policy")

    async def _tried(self, task: Task, seed: int) -> tuple[Trajectory, Verdict]:
        for attempt in range(self.max_retries + 1):
            if attempt:
                self.traffic.retried += 1
                await asyncio.sleep(backoff_s(attempt - 1))
            try:
                trajectory = await run_episode(
                    task,
                    stage=self.stage,
                    engine=self.engine,
                    chat=self.chat,
                    limits=self.limits,
                    sampling=self.sampling,
                    seed=derive_seed(seed, attempt),
                )
            except Exception as error:  # noqa: BLE001 - the one boundary: an environment's bug must not end the run
                evidence = str(error) if isinstance(error, InfraError) else traceback.format_exc(limit=-5)
                continue
            verdict = await self._judged(task, trajectory)
            if verdict.outcome != "infra_error":
                return trajectory, verdict
            evidence = verdict.evidence
        broken = Trajectory(task_id=task.id, turns=(), stop_reason="infra_error", answer=None, seed=seed)
        return broken, plain_verdict("infra_error", evidence)

    async def _judged(self, task: Task, trajectory: Trajectory) -> Verdict:
        if trajectory.stop_reason != "terminated":
            return plain_verdict("truncated", f"stopped by {trajectory.stop_reason}")
        started = time.monotonic()
        try:
            verdict: Verdict = await self.stage.call(judge, self.stage.verifiers[task.env], task, trajectory)
        except Exception as error:  # noqa: BLE001 - `judge` raises for a malformed task only: nobody's answer is wrong
            return plain_verdict("infra_error", f"{error} (after {time.monotonic() - started:.1f} s)")
        return verdict


def _stages_of(experiences: Sequence[Experience], next_stage: Callable[[Sequence[Experience]], int]) -> tuple[int, ...]:
    """Return the stages that attempts were made in: what the rule said of those before each."""
    stages: list[int] = []
    while size := next_stage(experiences[: sum(stages)]):
        stages.append(size)
        if sum(stages) >= len(experiences):
            break
    return tuple(stages)


def plain_verdict(outcome: Outcome, evidence: str) -> Verdict:
    """Return a verdict that no verifier had to give: the attempt never got to an answer."""
    return Verdict(outcome=outcome, reward=0.0, checks=(), evidence=evidence, verifier="rollout", verifier_version="1")
