"""A step's batch: journalled before it is handed out, group by group, so that a second try collects only what is missing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flywheel.batches import BatchMaker, MadeBatch
from flywheel.errors import InfraError
from flywheel.store.journal import Journal
from flywheel.types import Group, Task
from tests.rollout.rooms import room_task
from tests.scripted import ScriptedPolicy, call, make_chat, make_collector, make_recipe

CHAT = make_chat()


class Tasks:
    """A source of room tasks."""

    def __init__(self, mood: str = "") -> None:
        self.mood = mood

    def drawer(self, step: int) -> Callable[[int], Task]:
        return lambda at: room_task(seed=10 * step + at, mood=self.mood)

    def predicted(self, task: Task) -> float | None:
        return None

    def barred(self, task: Task) -> str | None:
        return None


def unstaged(groups: list[Group]) -> list[Group]:
    """Return groups as the journal keeps them: the stages follow from the rule that made them."""
    return [dataclasses.replace(group, stages=()) for group in groups]


def red_or_blue(number: list[int]) -> str:
    number[0] += 1
    return call("submit", word="red" if number[0] % 2 else "blue")


def made(folder: Path, step: int, *, mood: str = "", broken: Any = (), **rollout: Any) -> tuple[MadeBatch, ScriptedPolicy]:
    """Make a step's batch with a journal of its own; attempts are solved and failed in turn."""
    number = [0]
    look = mood != ""
    policy = ScriptedPolicy(CHAT, lambda context: call("look") if look else red_or_blue(number), broken=broken)
    recipe = make_recipe("tests.rollout.rooms:Room", groups_per_step=3, group_size=2, **rollout)
    journal = Journal(folder)

    async def make() -> MadeBatch:
        collector = make_collector(policy, recipe, places=1)
        try:
            return await BatchMaker(recipe, journal, Tasks(mood), collector).make(step)  # type: ignore[arg-type]
        finally:
            collector.stage.close()

    try:
        return asyncio.run(make()), policy
    finally:
        journal.close()


def test_a_batch_is_in_the_journal_with_all_that_made_it(tmp_path: Path) -> None:
    found, _ = made(tmp_path, 1)
    journal = Journal(tmp_path)
    assert journal.batch(1) == found.batch
    assert found.batch.journal_seq == journal.last_seq
    assert sorted(g.id for g in journal.groups(1)) == sorted(g.id for g in found.groups)
    assert [journal.group(g.id) for g in found.groups] == unstaged(found.groups)
    assert {record["destination"] for record in journal.select("route")} == {"grpo"}
    assert journal.count("route") == 6
    journal.close()
    assert found.journal_s is not None
    assert found.rollout_s is not None


def test_groups_that_are_journalled_are_not_collected_again(tmp_path: Path) -> None:
    first, policy = made(tmp_path, 1)
    assert policy.num_requests == 6
    journal = Journal(tmp_path)  # as after a kill between the second group and the batch
    for kind in ("route", "batch"):
        journal._db.execute("DELETE FROM records WHERE kind = ?", (kind,))
    journal._db.execute("DELETE FROM trained")
    last = first.groups[2].id
    journal._db.execute("DELETE FROM records WHERE id IN (SELECT id FROM experiences WHERE group_id = ?)", (last,))
    journal._db.execute("DELETE FROM experiences WHERE group_id = ?", (last,))
    journal.close()
    second, policy = made(tmp_path, 1)
    assert policy.num_requests == 2
    assert second.groups[:2] == first.groups[:2]
    assert [g.id for g in second.groups] == [g.id for g in first.groups]
    rows = [(row.experience_id, row.advantage) for row in second.batch.rows]
    assert rows == [(row.experience_id, row.advantage) for row in first.batch.rows]


def test_another_step_or_run_seed_has_groups_of_its_own(tmp_path: Path) -> None:
    first, _ = made(tmp_path, 1)
    second, policy = made(tmp_path, 2)
    assert policy.num_requests == 6
    assert not {g.id for g in first.groups} & {g.id for g in second.groups}


def test_a_step_in_which_everything_broke_ends_the_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="step 1: every one of 6 attempts broke; the first: the room's sandbox died"):
        made(tmp_path, 1, mood="dead", max_retries=0)
    journal = Journal(tmp_path)
    assert journal.last_seq == 0  # so a resume tries again
    journal.close()


def test_a_group_that_broke_as_a_whole_is_journalled_with_its_batch_and_trains_nothing(tmp_path: Path) -> None:
    found, _ = made(tmp_path, 1, broken={0, 1}, max_retries=0)
    outcomes = [[e.verdict.outcome for e in group.experiences] for group in found.groups]
    assert outcomes.count(["infra_error", "infra_error"]) == 1
    journal = Journal(tmp_path)
    assert [journal.group(g.id) for g in found.groups] == unstaged(found.groups)
    reasons = {record["reason"]: record["destination"] for record in journal.select("route")}
    assert reasons["infra_error"] == "quarantine"
    assert len(found.batch.rows) == 4
    journal.close()
