"""Attempts and batches for tests of the store: as many as asked for, of any length, the same for the same arguments."""

from __future__ import annotations

import random
from collections.abc import Sequence

from flywheel.router import grpo_row
from flywheel.types import Batch, Check, Experience, Group, Origin, Outcome, Task, ToolCall, Trajectory, Turn, Verdict, content_id


def make_task(number: int, *, parent_id: str | None = None, split: str = "train") -> Task:
    return Task.create(
        env="toy",
        family=f"family-{number % 3}",
        prompt=f"task {number}",
        payload={"secret": number},
        params={"size": number % 5},
        seed=number,
        parent_id=parent_id,
        split=split,
    )


def make_experience(
    task: Task,
    sibling: int,
    *,
    num_tokens: int = 12,
    outcome: Outcome | None = None,
    origin: Origin = "on_policy",
    answer: str | None = None,
    version: str = "1.0",
) -> Experience:
    rng = random.Random(f"{task.id}/{sibling}")
    group_id = content_id("group", task.id)
    first = num_tokens // 2
    turns = tuple(
        Turn(
            prompt_ids=tuple(rng.choices(range(30_000), k=4)),
            completion_ids=tuple(rng.choices(range(30_000), k=length)),
            behavior_logprobs=tuple(-rng.random() for _ in range(length)),
            policy_version=version,
            text=f"turn {number} of {task.prompt}/{sibling}",
            tool_calls=(ToolCall(name="submit", arguments={"answer": sibling}),),
            observation="noted",
        )
        for number, length in enumerate((first, num_tokens - first))
    )
    outcome = outcome or ("solved" if sibling % 2 else "failed")
    said = f"{task.id} answer {sibling}" if answer is None else answer
    return Experience(
        id=content_id("experience", group_id, sibling, origin),
        group_id=group_id,
        task=task,
        trajectory=Trajectory(task_id=task.id, turns=turns, stop_reason="terminated", answer=said, env_return=0.0, seed=sibling),
        verdict=Verdict(
            outcome=outcome,
            reward=float(outcome == "solved"),
            checks=(Check(name="right", passed=outcome == "solved"),),
            evidence=f"it said {sibling}",
            verifier="toy",
            verifier_version="1",
            duration_s=0.01,
        ),
        origin=origin,
    )


def make_group(number: int, size: int = 4, *, num_tokens: int = 12, version: str = "1.0") -> Group:
    task = make_task(number)
    siblings = tuple(make_experience(task, sibling, num_tokens=num_tokens, version=version) for sibling in range(size))
    return Group(id=siblings[0].group_id, task=task, experiences=siblings)


def make_batch(step: int, groups: Sequence[Group]) -> Batch:
    rows = tuple(grpo_row(e, 1.0 if e.verdict.outcome == "solved" else -1.0) for group in groups for e in group.experiences)
    return Batch.create(step, rows)
