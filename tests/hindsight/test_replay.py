"""Replay: an own earlier success joins a group that failed as a whole, and not its baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.config import LearningConfig
from flywheel.hindsight.replay import SuccessMemory
from flywheel.router import TAMPER_REWARD, grpo_row
from flywheel.store.journal import Journal
from flywheel.store.lineage import fate_of_attempt
from flywheel.types import Batch, Experience, Group
from tests.hindsight.lessons import make_group


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


def memory(journal: Journal, **changes: object) -> SuccessMemory:
    return SuccessMemory(journal, LearningConfig.model_validate({"retry_size": 4, "replay_staleness": 10, "max_uses": 2, **changes}))


def solved(journal: Journal, number: int = 1, *, step: int = 2) -> Experience:
    """Journal a group of a task that trained in a step; return its one success."""
    group = make_group(number, "failed", "solved", step=step)
    journal.append_groups([group], step=step)
    journal.append_batch(Batch.create(step, tuple(grpo_row(e, 0.5) for e in group.experiences)))
    return group.experiences[1]


def test_the_advantage_is_the_reward_minus_the_groups_mean(journal: Journal) -> None:
    """Rewards 0, 0.3 (partial credit) and -0.5 (an attack): the mean is -1/15, so the success has 1 + 1/15."""
    success = solved(journal)
    group = make_group(1, "failed", "failed", "tampered", "infra_error", step=5)
    partial = dataclasses.replace(group.experiences[1], verdict=dataclasses.replace(group.experiences[1].verdict, reward=0.3))
    group = dataclasses.replace(group, experiences=(group.experiences[0], partial, *group.experiences[2:]))
    (found,) = memory(journal).replayed([group], 5)
    assert found.row.advantage == pytest.approx(1 - (0 + 0.3 + TAMPER_REWARD) / 3)
    assert (found.experience.origin, found.route.destination) == ("replay", "replay")
    assert found.row.behavior_logprobs == grpo_row(success, 0.0).behavior_logprobs
    assert found.row.completion_ids == grpo_row(success, 0.0).completion_ids


def test_it_trains_though_the_first_attempt_did_and_is_traced_to_it(journal: Journal) -> None:
    success = solved(journal)
    (found,) = memory(journal).replayed([make_group(1, "failed", "failed", step=5)], 5)
    journal.append_experiences([found.experience], step=5)
    journal.append_relabellings([found.relabelling], step=5)
    journal.append_batch(Batch.create(5, (found.row,)), [(found.experience.id, found.route)])
    fate = fate_of_attempt(journal, journal.info(found.experience.id))
    assert (fate.destination, fate.came_from, [use.step for use in fate.uses]) == ("replay", (success.id,), [5])
    assert [group.id for group in journal.groups(5)] == []  # no attempt of this step


def replay(journal: Journal, step: int, **changes: object) -> int:
    found = memory(journal, **changes).replayed([make_group(1, "failed", "failed", step=step)], step)
    journal.append_experiences([r.experience for r in found], step=step)
    journal.append_relabellings([r.relabelling for r in found], step=step)
    return len(found)


def test_it_has_so_many_uses_and_no_more_and_one_step_made_twice_is_one_use(journal: Journal) -> None:
    solved(journal)
    assert [replay(journal, step) for step in (3, 4, 4, 5)] == [1, 1, 1, 0]
    assert replay(journal, 6, max_uses=3) == 1


@pytest.mark.parametrize(("step", "count"), [(2, 0), (3, 1), (12, 1), (13, 0)])
def test_it_is_an_earlier_one_and_not_too_old(journal: Journal, step: int, count: int) -> None:
    solved(journal, step=2)
    assert replay(journal, step) == count


def test_one_that_the_store_has_dropped_is_not_missed(journal: Journal) -> None:
    solved(journal, step=1)
    journal.compact(up_to_step=1)
    assert len(memory(journal).replayed([make_group(1, "failed", "failed", step=3)], 3)) == 1
    journal.drop_oldest(max_bytes=0, before_step=2)
    assert replay(journal, 3) == 0


def test_what_joins_only_groups_that_failed_as_a_whole(journal: Journal) -> None:
    solved(journal)
    for outcomes in (("solved", "failed"), ("failed", "infra_error")):
        group = make_group(1, *outcomes, step=5)
        assert memory(journal).replayed([group], 5) == []
    assert memory(journal).replayed([make_group(9, "failed", "failed", step=5)], 5) == []


def test_it_is_off_without_retries_and_needs_behaviour_logprobs(journal: Journal) -> None:
    solved(journal)
    assert replay(journal, 5, retry_size=0) == replay(journal, 5, replay_staleness=0) == 0
    bare = make_group(7, "failed", "solved", step=2)
    turns = tuple(dataclasses.replace(turn, behavior_logprobs=None) for turn in bare.experiences[1].trajectory.turns)
    success = dataclasses.replace(bare.experiences[1], trajectory=dataclasses.replace(bare.experiences[1].trajectory, turns=turns))
    journal.append_groups([Group(id=bare.id, task=bare.task, experiences=(bare.experiences[0], success))], step=2)
    assert memory(journal).replayed([make_group(7, "failed", "failed", step=5)], 5) == []
    assert memory(journal).solved_before(bare.task.id, 5)
    assert not memory(journal).solved_before(bare.task.id, 2)
